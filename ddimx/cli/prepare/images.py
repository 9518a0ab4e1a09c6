"""``ddimx prepare images``: a data set decoded once, into one memory-mapped array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import DdimxError
from .. import options
from ..shards import GatherOption, ShardOption, report_partial, shard_of

if TYPE_CHECKING:
    from ...data.images.encoded import EncodedSource
    from ...data.images.pack import PackedSet

MOST_PIXELS = 4096  # on a side
SHOWN = 20  # bad images that are listed on the screen; --json and the file itself hold all


def images(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Folder, zip or tar of images, or what --dataset needs."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="The array to write, NAME.npy.")],
    size: Annotated[str, options.shared("size", panel=None, help="Pixels of an image.")],
    dataset: Annotated[
        str, typer.Option(metavar="FOLDER|CELEBA|LSUN|FFHQ|HUB", help="What SRC is.")
    ] = "FOLDER",
    category: Annotated[
        str | None,
        typer.Option("--category", metavar="NAME", help="LSUN's category, or the hub's subset."),
    ] = None,
    channels: Annotated[
        int,
        typer.Option(
            metavar="1|3|4", help="Gray, color (default), or color with alpha.", show_default=False
        ),
    ] = 3,
    background: Annotated[
        str,
        typer.Option(
            metavar="white|black|#rrggbb",
            help="What is behind transparent pixels (default: white).",
            show_default=False,
        ),
    ] = "white",
    white: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="The value of white in images of more than 8 bits (default: by their range).",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        options.workers("Decoding threads (default: one a core)."),
    ] = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace a file that is there.")
    ] = False,
    shard: ShardOption = None,
    gather: GatherOption = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Decode, crop and resize images once, into one array that training maps into memory.

    DST is a NumPy array, and DST.json beside it says what is in it: move both together. The
    images for training come first and those held out for validation after them, both sorted by
    name. Folders that are classes, as 'ddimx train' has them, become labels.
    Every data set keeps its own crop: CelebA the original's 128 pixels round (89, 121), LSUN the
    shorter side resized and the center cut out, folders the largest centered part of the size's
    proportions. A killed run goes on where it stopped when the same command is given again. Images
    that cannot be decoded are left out, listed at the end, and make the exit code 1. Several
    processes share the work with --shard 1/8 to 8/8, in any order or at once; the last one joins
    what they decoded to the file that one process makes.

    Examples:

      ddimx prepare images pictures pictures.npy --size 64

      ddimx prepare images scans.zip scans.npy --size 96x64 --channels 1

      ddimx prepare images data/celeba celeba64.npy --size 64 --dataset CELEBA

      ddimx prepare images pictures pictures.npy --size 64 --shard 3/8

      ddimx train --config celeba --set data.dataset=PACKED --set data.root=celeba64.npy
    """
    from ...data.images.pack import Packing, unfinished
    from ...data.images.pack_shards import ShardPacking
    from ...progress import Progress
    from ...runs.part import Partial
    from ..output import print_json

    with Progress(quiet=quiet) as progress:
        form = {"channels": channels, "background": background, "white": white}
        part = shard_of(shard, gather, overwrite, unfinished(out), progress)
        parts, origin = _parts(source, dataset.upper(), size, category, workers, form)
        if part is None:
            packing = Packing(parts, origin, out)
            packed = packing.run(progress, overwrite=overwrite)
        else:
            packing = sharded = ShardPacking(parts, origin, out)
            result = sharded.run_shard(part, progress, gather=gather)
            if isinstance(result, Partial):
                report_partial(result, progress, json_output)
                return
            packed = result
        for line in packing.remarks():
            progress.say(line)
        progress.say(_text(packed))
    if json_output:
        print_json(_summary(packed))
    if packed.bad:
        raise DdimxError(_left_out(packed))


def _parts(
    source: str,
    dataset: str,
    size: Any,
    category: str | None,
    workers: int | None,
    form: dict[str, Any],
) -> tuple[tuple[EncodedSource, EncodedSource], dict[str, Any]]:
    """Open both parts of the data set; return them, and what identifies the set to be made.

    Args:
        size: width and height.
        form: the keys of ``config.data`` that say what a picture becomes, with their values.
    """
    import os

    from pydantic import ValidationError

    from ...config import DataConfig
    from ...data.images.encoded import EncodedSource
    from ...data.images.sources import open_part
    from ...errors import UsageError

    if max(size) > MOST_PIXELS:
        raise UsageError(f"--size {size[0]}x{size[1]}: at most {MOST_PIXELS} pixels on a side")
    try:
        data = DataConfig(
            dataset=dataset,
            root=source,
            image_size=(size[1], size[0]),
            category=category,
            num_workers=workers or os.cpu_count() or 1,
            **form,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0])
        raise UsageError(f"--{name} {form.get(name)}: {fault['msg']}") from None
    train, held_out = (open_part(data, held_out=held_out) for held_out in (False, True))
    if not isinstance(train, EncodedSource) or not isinstance(held_out, EncodedSource):
        raise UsageError(f"--dataset {dataset} is one file already; train on it as it is")
    # What is as version 0.2 had it is left away, so that its sets are taken for what they are.
    usual = {"channels": 3, "background": "white", "white": None}
    changed = {key: value for key, value in form.items() if value != usual[key]}
    origin = {"dataset": dataset, "category": category, "size": data.image_size, **changed}
    return (train, held_out), origin


def _summary(packed: PackedSet) -> dict[str, Any]:
    height, width, channels = packed.image_shape
    return {
        "path": str(packed.path),
        "images": packed.images,
        "held_out": packed.held_out,
        "size": width if width == height else f"{width}x{height}",
        "channels": channels,
        "classes": list(packed.classes),
        "found": packed.start,
        "bad": list(packed.bad),
        "fingerprint": packed.fingerprint,
    }


def _text(packed: PackedSet) -> str:
    """Return what the person at the terminal reads at the end."""
    import shlex

    state = f" ({packed.start} were there already)" if packed.start else ""
    if packed.old:
        state += " in version 0.1's form, which is read until 0.3; --overwrite makes it anew"
    classes = f", {len(packed.classes)} classes" if packed.classes else ""
    return (
        f"{packed.path}: {packed.images} images{state}, {packed.held_out} of them held out"
        f"{classes}, sorted by name (those held out last), fingerprint {packed.fingerprint[:16]}; "
        f"next: ddimx train --data {shlex.quote(str(packed.path))}"
    )


def _left_out(packed: PackedSet) -> str:
    """Return which images are not in the file."""
    lines = [f"{len(packed.bad)} images are left out:"]
    lines += [f"  {message}" for message in packed.bad[:SHOWN]]
    more = len(packed.bad) - SHOWN
    lines += [f"  and {more} more (--json lists all)"] if more > 0 else []
    return "\n".join([*lines, "mend or remove them and give --overwrite, or train without them"])
