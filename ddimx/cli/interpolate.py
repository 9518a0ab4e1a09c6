"""``ddimx interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .edit import Refine

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest


def interpolate(
    ends: Annotated[
        list[str],
        typer.Argument(metavar="A B [C D]", help="Seeds, latents (FILE.npy[:K]) or images."),
    ],
    frames: Annotated[
        int | None,
        typer.Option(help="Frames from end to end, ends included (default: 11, in a grid 7)."),
    ] = None,
    kind: Annotated[
        str, typer.Option("--format", metavar="webp|gif", help="The animation's format.")
    ] = "webp",
    refine: Refine = None,
    model: options.Model = None,
    steps: options.Steps = None,
    category: options.Category = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance (default: 1 for images or without a class)."),
    ] = None,
    solver: options.Solver = None,
    eta: Annotated[
        float | None, typer.Option(help="ddim's noise, one draw for all frames (default: 0).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of --eta's noise.")] = 0,
    spacing: options.Spacing = None,
    resize: options.Resize = False,
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
    """Go from one image to another through the model's latents, by spherical interpolation.

    Two ends make a row, four (upper left, upper right, lower left, lower right) a grid. A seed
    stands for the noise of its sample 0. An image is encoded by DDIM inversion, with eta 0 and
    guidance 1; the error with which it comes back is printed. grid.png shows all frames, and
    animation.webp goes there and back, or around the grid's edge.

    Examples:

      ddimx interpolate 1 2

      ddimx interpolate 1 2 3 4 --frames 5 --category smileys

      ddimx interpolate a.png b.png --steps 100

      ddimx interpolate latents.npy:0 latents.npy:1
    """
    given = dict(locals())
    from .edit import execute, reconstruction

    def report(record: dict[str, Any], where: Path) -> str:
        return (
            f"{where}: {record['count']} frames, {record['seconds']:.1f} s; "
            f"see {where / 'grid.png'}{reconstruction(record)}"
        )

    execute(given, lambda progress: _request(given, progress), report)


def _request(given: dict[str, Any], progress: Progress) -> SampleRequest:
    from ..editing import interpolate as way
    from ..editing.animation import ANIMATIONS
    from ..editing.pictures import Picture, image_shape
    from .edit import asked, load, request
    from .parse import one_of

    kind = one_of("format", given["kind"], ANIMATIONS)
    frames = way.check_ends(len(given["ends"]), given["frames"])
    model = load(given)
    image_shape(model)
    ends = [way.read_end(end, model, resize=given["resize"]) for end in given["ends"]]
    count = sum(isinstance(end, Picture) for end in ends)
    settings, codec = way.interpolation_settings(
        asked(given), model, pictures=count > 0, refine=given["refine"]
    )
    if codec is not None:
        progress.start("encoding", count * len(codec.up.plan))
    encode = way.encoder(model, codec, lambda _, samples: progress.advance(len(samples)))
    found = way.interpolate(ends, frames, model, settings, encode)
    progress.stop()
    named = [way.end_identity(*pair) for pair in zip(given["ends"], ends, strict=True)]
    corrections = None if codec is None else codec.up.plan.identity()["refine"]
    task = way.interpolate_task(found, kind, named, corrections)
    return request(given, model, found.settings, task, "png")
