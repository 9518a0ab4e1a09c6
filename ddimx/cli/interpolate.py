"""``ddimx interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import RunOptions
from .edit import ANIMATION, NO_CLASS, Refine, Resize, reconstruction
from .verbs import Work, run_verb

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model


@run_verb(
    "Between what",
    category=NO_CLASS,
    guidance={"help": "Classifier-free guidance (default: 1 for images or without a class)."},
    eta={"help": "Noise of the steps, one draw for all frames (default: of ddim 0)."},
    seed={"help": "Seed of --eta's noise (default: 0)."},
    kind=ANIMATION,
)
def interpolate(
    options: RunOptions,
    ends: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C D]", help="Seeds, latents (FILE.npy[:K]) or images (or FILE.npz:K)."
        ),
    ],
    frames: Annotated[
        int | None,
        typer.Option(help="Frames from end to end, ends included (default: 11, in a grid 7)."),
    ] = None,
    refine: Refine = None,
    resize: Resize = False,
) -> Work:
    """Go from one image to another through the model's latents, by spherical interpolation.

    Two ends make a row, four (upper left, upper right, lower left, lower right) a grid. A seed
    stands for the noise of its sample 0. An image is encoded by DDIM inversion, with eta 0 and
    guidance 1; the error with which it comes back is printed. grid.png shows all frames, and
    animation.webp goes there and back, or around the grid's edge.

    Examples:

      ddimx interpolate 1 2

      ddimx interpolate 1 2 3 4 --frames 5 --category smileys/smiling

      ddimx interpolate a.png b.png --steps 100

      ddimx interpolate latents.npy:0 latents.npy:1
    """

    def request(model: Model, progress: Progress) -> SampleRequest:
        from dataclasses import replace

        from ..editing import interpolate as way
        from ..editing.pictures import Picture, image_shape
        from ..sampling.run import SampleRequest

        number = way.check_ends(len(ends), frames)
        image_shape(model)
        places = [way.read_end(end, model, resize=resize) for end in ends]
        pictures = sum(isinstance(place, Picture) for place in places)
        settings, codec = way.interpolation_settings(
            options, model, pictures=pictures > 0, refine=refine
        )
        if options.explain or options.dry_run:  # of the decoding; nothing is encoded for a look
            count = number if len(ends) == 2 else number**2
            batch = min(settings.batch_size, count)
            return SampleRequest(model, replace(settings, count=count, batch_size=batch))
        if codec is not None:
            progress.start("encoding", pictures * len(codec.up.plan))
        encode = way.encoder(model, codec, lambda _, samples: progress.advance(len(samples)))
        between = way.interpolate(places, number, model, settings, encode)
        progress.stop()
        named = [way.end_identity(*pair) for pair in zip(ends, places, strict=True)]
        corrections = None if codec is None else codec.up.plan.identity()["refine"]
        task = way.interpolate_task(between, options.kind or "webp", named, corrections)
        return SampleRequest(model, between.settings, "png", task=task)

    def summary(record: dict[str, Any], where: Path) -> str:
        return (
            f"{where}: {record['count']} frames, {record['seconds']:.1f} s; "
            f"see {where / 'grid.png'}{reconstruction(record)}"
        )

    return Work(request, summary)
