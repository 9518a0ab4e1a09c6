"""``ddimx inpaint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..options import RunOptions
from .edit import NO_CLASS, Resize, check_there
from .verbs import Work, run_verb

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model


@run_verb(
    "What to paint",
    category=NO_CLASS,
    count={"help": "Variants of every image (default: 4)."},
    kind={
        "choices": ("png", "webp", "npy"),
        "metavar": "png|webp|npy",
        "help": "Files to write (default: png).",
    },
)
def inpaint(
    options: RunOptions,
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE|DIR|FILE", help="An image, or a folder, zip, tar or array of images."
        ),
    ],
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR|PLACE|BOX",
            help="What to paint anew: white in a file; center, left, right, top or bottom; "
            "x0,y0,x1,y1; or alpha (default: the image's transparent part).",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Start from the image, noised: 0.2 keeps most, 1 next to nothing."),
    ] = None,
    jump: Annotated[
        int | None,
        typer.Option(help="RePaint: steps to jump back (default: 5, or a fifth of the steps)."),
    ] = None,
    resample: Annotated[
        int | None,
        typer.Option(help="RePaint: passes over every jump (default: 5); 1 just replaces pixels."),
    ] = None,
    resize: Resize = False,
) -> Work:
    """Paint part of an image anew (RePaint), or change all of it (--strength).

    Pixels that the mask keeps are returned exactly as they were. Every variant is a sample of its
    own: variant 3 is variant 3 whatever --count. grid.png shows input, mask (white: painted) and
    variants. The same command into the same --out goes on where it stopped.

    RePaint walks every stretch of --jump steps --resample times, so that what is painted can adapt
    to what is known; --resample 1 replaces the known pixels after every step, nothing more.

    Examples:

      ddimx inpaint face.png --mask center -n 8

      ddimx inpaint photo.jpg --resize --mask 4,4,20,28 --jump 10 --resample 10

      ddimx inpaint cutout.png --resample 1

      ddimx inpaint sketch.png --strength 0.6 --category animals

      ddimx inpaint pictures --mask masks --out painted
    """
    check_there(image)
    if options.out is not None and options.out.resolve() == image.resolve():
        raise UsageError("--out is the folder of the images; choose another")

    def request(model: Model, progress: Progress) -> SampleRequest:
        from dataclasses import replace

        from ..editing.inpaint import Edit, inpaint_settings, inpaint_task
        from ..editing.masks import masks_for
        from ..editing.pictures import read_pictures
        from ..sampling.run import SampleRequest

        kind = options.kind or "png"
        edit = Edit(jump, resample, strength)
        pictures = read_pictures(image, model, resize=resize)
        masks, notes = None, tuple[str, ...]()
        if mask is not None or strength is None:
            masks, notes = masks_for(mask or "alpha", pictures, resize=resize)
        settings = inpaint_settings(
            options,
            model,
            edit,
            images=len(pictures),
            masked=masks is not None,
        )
        settings = replace(settings, notes=(*settings.notes, *notes))
        task = inpaint_task(settings, model, pictures, masks, edit, kind)
        return SampleRequest(model, settings, kind, task=task)

    def summary(record: dict[str, Any], where: Path) -> str:
        return (
            f"{where}: {record['count']} images, {record['forward_passes_per_sample']} forward "
            f"passes each, {record['seconds']:.1f} s; see {where / 'grid.png'}"
        )

    return Work(request, summary)
