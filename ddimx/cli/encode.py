"""``ddimx encode``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .edit import Refine

if TYPE_CHECKING:
    from ..sampling.run import SampleRequest


def encode(
    image: Annotated[Path, typer.Argument(metavar="IMAGE|DIR", help="An image, or a folder.")],
    refine: Refine = None,
    model: options.Model = None,
    steps: options.Steps = None,
    category: options.Category = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance, both ways (default: 1).")
    ] = None,
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
    """Find the noise that images would be drawn from, by DDIM inversion (eta 0, guidance 1).

    Writes latents.npy, float32 (N, C, H, W) in the order of the files' names, which interpolate
    and sample --init-noise read, and grid.png, where every image stands beside what its latent
    decodes to. The error of that is printed (root mean square, white being 1).

    Examples:

      ddimx encode face.png --out latents

      ddimx encode pictures --resize --steps 100 --refine 4
    """
    given = dict(locals())
    from .edit import execute, reconstruction

    def report(record: dict[str, Any], where: Path) -> str:
        return (
            f"{where / 'latents.npy'}: {record['count']} latents, {record['seconds']:.1f} s; "
            f"see {where / 'grid.png'}{reconstruction(record)}"
        )

    execute(given, lambda _: _request(given), report)


def _request(given: dict[str, Any]) -> SampleRequest:
    from ..editing.encode import EncodeTask, make_codec
    from ..editing.pictures import find_pictures, read_picture
    from .edit import asked, load, request

    paths = find_pictures(given["image"])
    model = load(given)
    pictures = [read_picture(path, model, resize=given["resize"]) for path in paths]
    codec = make_codec(asked(given, count=len(pictures)), model, given["refine"])
    task = EncodeTask(model, codec, pictures).task()
    return request(given, model, codec.up, task, "npy")
