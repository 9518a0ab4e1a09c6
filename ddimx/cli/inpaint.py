"""``ddimx inpaint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from . import options

if TYPE_CHECKING:
    from ..sampling.run import SampleRequest


def inpaint(
    image: Annotated[Path, typer.Argument(metavar="IMAGE|DIR", help="An image, or a folder.")],
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR|center|left|right|top|bottom|alpha|x0,y0,x1,y1",
            help="What to paint anew: white in a file (default: the image's transparent part).",
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
    count: Annotated[int, typer.Option("--count", "-n", help="Variants of every image.")] = 4,
    model: options.Model = None,
    steps: options.Steps = None,
    category: options.Category = None,
    guidance: options.Guidance = None,
    seed: options.Seed = 0,
    start_index: options.StartIndex = 0,
    solver: options.Solver = None,
    eta: options.Eta = None,
    spacing: options.Spacing = None,
    resize: options.Resize = False,
    kind: Annotated[
        str, typer.Option("--format", metavar="png|webp|npy", help="Files to write.")
    ] = "png",
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
    given = dict(locals())
    from .edit import execute

    def report(record: dict[str, Any], where: Path) -> str:
        return (
            f"{where}: {record['count']} images, {record['forward_passes_per_sample']} forward "
            f"passes each, {record['seconds']:.1f} s; see {where / 'grid.png'}"
        )

    execute(given, lambda _: _request(given), report)


def _request(given: dict[str, Any]) -> SampleRequest:
    from dataclasses import replace

    from ..editing.inpaint import Edit, inpaint_settings, inpaint_task
    from ..editing.masks import masks_for
    from ..editing.pictures import find_pictures, read_picture
    from .edit import asked, load, request
    from .parse import one_of

    kind = one_of("format", given["kind"], ("png", "webp", "npy"))
    edit = Edit(given["jump"], given["resample"], given["strength"])
    paths = find_pictures(given["image"])
    model = load(given)
    pictures = [read_picture(path, model, resize=given["resize"]) for path in paths]
    masks, notes = None, tuple[str, ...]()
    if given["mask"] is not None or edit.strength is None:
        masks, notes = masks_for(given["mask"] or "alpha", pictures, resize=given["resize"])
    settings = inpaint_settings(
        asked(given), model, edit, images=len(pictures), masked=masks is not None
    )
    settings = replace(settings, notes=(*settings.notes, *notes))
    task = inpaint_task(settings, model, pictures, masks, edit, kind)
    if given["out"] is not None and given["out"].resolve() == Path(given["image"]).resolve():
        raise UsageError("--out is the folder of the images; choose another")
    return request(given, model, settings, task, kind)
