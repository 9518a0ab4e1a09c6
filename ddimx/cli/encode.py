"""``ddimx encode``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import RunOptions
from .edit import NO_CLASS, Refine, Resize, check_there, reconstruction
from .verbs import Work, run_verb

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model


@run_verb(
    "What to encode",
    category=NO_CLASS,
    guidance={"help": "Classifier-free guidance, both ways (default: 1)."},
)
def encode(
    options: RunOptions,
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE|DIR|FILE", help="An image, or a folder, zip, tar or array of images."
        ),
    ],
    refine: Refine = None,
    resize: Resize = False,
) -> Work:
    """Find the noise that images would be drawn from, by DDIM inversion (eta 0, guidance 1).

    Writes latents.npy, float32 (N, C, H, W) in the order of the files' names, which interpolate
    and sample --init-noise read, and grid.png, where every image stands beside what its latent
    decodes to. The error of that is printed (root mean square, white being 1).

    Examples:

      ddimx encode face.png --out latents

      ddimx encode pictures --resize --steps 100 --refine 4
    """
    check_there(image)

    def request(model: Model, progress: Progress) -> SampleRequest:
        from dataclasses import replace

        from ..editing.encode import EncodeTask, make_codec
        from ..editing.pictures import read_pictures
        from ..sampling.run import SampleRequest

        pictures = read_pictures(image, model, resize=resize)
        codec = make_codec(replace(options, count=len(pictures)), model, refine)
        task = EncodeTask(model, codec, pictures).task()
        return SampleRequest(model, codec.up, "npy", task=task)

    def summary(record: dict[str, Any], where: Path) -> str:
        return (
            f"{where / 'latents.npy'}: {record['count']} latents, {record['seconds']:.1f} s; "
            f"see {where / 'grid.png'}{reconstruction(record)}"
        )

    return Work(request, summary)
