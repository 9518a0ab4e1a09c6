"""``ddimx sequence``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..sampling.run import SampleRequest


def sequence(
    show: Annotated[
        str,
        typer.Option(metavar="x0|state", help="The prediction of the image, or the noisy state."),
    ] = "x0",
    frames: Annotated[
        int | None, typer.Option(help="How many frames, evenly spaced (default: every step).")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames a second of the animation.")] = 16.0,
    kind: Annotated[
        str, typer.Option("--format", metavar="webp|gif", help="The animation's format.")
    ] = "webp",
    count: Annotated[int, typer.Option("--count", "-n", help="How many samples.")] = 4,
    model: options.Model = None,
    steps: options.Steps = None,
    category: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Class to draw (default: a mix; 'none': no class)."),
    ] = None,
    guidance: options.Guidance = None,
    seed: options.Seed = 0,
    start_index: options.StartIndex = 0,
    solver: options.Solver = None,
    eta: options.Eta = None,
    spacing: options.Spacing = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    batch_size: options.BatchSize = None,
    invariant: options.Invariant = False,
    config: options.ModelConfig = None,
    weights: options.Weights = None,
    offline: options.Offline = False,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Show how samples come about: the model's prediction of the image after every step.

    Of sample 0, 000000.png is the result (that of ddimx sample), the folder 000000 holds the
    frames, 000000-strip.png up to 16 of them side by side, and 000000-steps.webp the animation.
    grid.png shows the strips. Frames go to disk as they come: memory does not grow with the steps.

    Examples:

      ddimx sequence --steps 50

      ddimx sequence --show state --category food -n 8

      ddimx sequence --steps 1000 --solver ddpm --frames 100 --format gif
    """
    given = dict(locals())
    from .edit import execute

    def report(record: dict[str, Any], where: Path) -> str:
        frames = len(record["identity"]["rows_shown"])
        return (
            f"{where}: {record['count']} samples of {frames} frames, {record['seconds']:.1f} s; "
            f"see {where / 'grid.png'}"
        )

    execute(given, lambda _: _request(given), report)


def _request(given: dict[str, Any]) -> SampleRequest:
    from ..editing.animation import ANIMATIONS
    from ..editing.sequence import choose_frames, sequence_task
    from ..sampling.settings import resolve
    from .edit import asked, load, request
    from .parse import one_of

    kind = one_of("format", given["kind"], ANIMATIONS)
    show = one_of("--show", given["show"], ("x0", "state"))
    model = load(given)
    settings = resolve(asked(given), model)
    frames = choose_frames(
        settings.image_plan,
        "state" if show == "state" else "x0",
        kind,
        given["frames"],
        given["fps"],
    )
    return request(given, model, settings, sequence_task(settings, model, frames), "png")
