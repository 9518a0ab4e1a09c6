"""``ddimx sequence``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import unknown
from ..options import RunOptions
from .edit import ANIMATION
from .verbs import Work, run_verb

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model


@run_verb(
    "What to show",
    count={"help": "How many samples (default: 4)."},
    kind=ANIMATION,
)
def sequence(
    options: RunOptions,
    show: Annotated[
        str,
        typer.Option(
            metavar="x0|state",
            help="The prediction of the image (default: x0), or the noisy state.",
        ),
    ] = "x0",
    frames: Annotated[
        int | None, typer.Option(help="How many frames, evenly spaced (default: every step).")
    ] = None,
    fps: Annotated[
        float, typer.Option(help="Frames a second of the animation (default: 16).")
    ] = 16.0,
) -> Work:
    """Show how samples come about: the model's prediction of the image after every step.

    Of sample 0, 000000.png is the result (that of ddimx sample), the folder 000000 holds the
    frames, 000000-strip.png up to 16 of them side by side, and 000000-steps.webp the animation.
    grid.png shows the strips. Frames go to disk as they come: memory does not grow with the steps.

    Examples:

      ddimx sequence --steps 50

      ddimx sequence --show state --category food -n 8

      ddimx sequence --steps 1000 --solver ddpm --frames 100 --format gif
    """
    if show not in ("x0", "state"):
        raise unknown("--show", show, ("x0", "state"))

    def request(model: Model, progress: Progress) -> SampleRequest:
        from ..editing.pictures import image_shape
        from ..editing.sequence import choose_frames, sequence_task
        from ..sampling.run import SampleRequest
        from ..sampling.settings import resolve

        image_shape(model)  # a model of something else is refused by its name
        settings = resolve(replace(options, count=options.count or 4), model)
        chosen = choose_frames(
            settings.image_plan,
            "state" if show == "state" else "x0",
            options.kind or "webp",
            frames,
            fps,
        )
        return SampleRequest(model, settings, "png", task=sequence_task(settings, model, chosen))

    def summary(record: dict[str, Any], where: Path) -> str:
        shown = len(record["identity"]["rows_shown"])
        return (
            f"{where}: {record['count']} samples of {shown} frames, {record['seconds']:.1f} s; "
            f"see {where / 'grid.png'}"
        )

    return Work(request, summary)
