"""``ddimx prepare images``: a data set decoded once, into one memory-mapped array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import DdimxError
from .. import options

if TYPE_CHECKING:
    from ...data.images.pack import PackedSet

SHOWN = 20  # bad images that are listed on the screen; --json and the file itself hold all


def images(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="The folder of images, or what --dataset needs.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="The array to write, NAME.npy.")],
    size: Annotated[
        int, typer.Option(metavar="PIXELS", min=1, max=4096, help="Width and height of an image.")
    ],
    dataset: Annotated[
        str, typer.Option(metavar="FOLDER|CELEBA|LSUN|FFHQ|HUB", help="What SRC is.")
    ] = "FOLDER",
    category: Annotated[
        str | None,
        typer.Option("--category", metavar="NAME", help="LSUN's category, or the hub's subset."),
    ] = None,
    workers: Annotated[
        int | None,
        options.workers("Decoding threads (default: one a core)."),
    ] = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace a file that is there.")
    ] = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Decode, crop and resize images once, into one array that training maps into memory.

    DST is a NumPy array, and DST.json beside it says what is in it: move both together.
    Every data set keeps its own crop: CelebA the original's 128 pixels round (89, 121), LSUN the
    shorter side resized and the center cut out, folders the center square. A killed run goes on
    where it stopped when the same command is given again. Images that cannot be decoded are left
    out, listed at the end, and make the exit code 1.

    Examples:

      ddimx prepare images pictures pictures.npy --size 64

      ddimx prepare images data/celeba celeba64.npy --size 64 --dataset CELEBA

      ddimx train --config celeba --set data.dataset=PACKED --set data.root=celeba64.npy
    """
    from ...progress import Progress
    from ..output import print_json

    with Progress(quiet=quiet) as progress:
        packing = _packing(source, out, dataset.upper(), size, category, workers)
        packed = packing.run(progress, overwrite=overwrite)
        progress.say(_text(packed, size))
    if json_output:
        print_json(_summary(packed, size))
    if packed.bad:
        raise DdimxError(_left_out(packed))


def _packing(
    source: str, out: Path, dataset: str, size: int, category: str | None, workers: int | None
) -> Any:
    """Open both parts of the data set and lay out the work."""
    import os

    from ...config import DataConfig
    from ...data.images.encoded import EncodedSource
    from ...data.images.pack import Packing
    from ...data.images.sources import open_part
    from ...errors import UsageError

    data = DataConfig(
        dataset=dataset,
        root=source,
        image_size=size,
        channels=3,
        category=category,
        num_workers=workers or os.cpu_count() or 1,
    )
    train, held_out = (open_part(data, held_out=held_out) for held_out in (False, True))
    if not isinstance(train, EncodedSource) or not isinstance(held_out, EncodedSource):
        raise UsageError(f"--dataset {dataset} is one file already; train on it as it is")
    origin = {"dataset": dataset, "category": category, "size": size}
    return Packing((train, held_out), origin, out)


def _summary(packed: PackedSet, size: int) -> dict[str, Any]:
    return {
        "path": str(packed.path),
        "images": packed.images,
        "held_out": packed.held_out,
        "size": size,
        "found": packed.start,
        "bad": list(packed.bad),
        "fingerprint": packed.fingerprint,
    }


def _text(packed: PackedSet, size: int) -> str:
    """Return what the person at the terminal reads at the end."""
    import shlex

    settings = ["data.dataset=PACKED", f"data.root={packed.path}", f"data.image_size={size}"]
    following = shlex.join([word for item in settings for word in ("--set", item)])
    state = f" ({packed.start} were there already)" if packed.start else ""
    if packed.old:
        state += " in version 0.1's form, which is read until 0.3; --overwrite makes it anew"
    return (
        f"{packed.path}: {packed.images} images{state}, {packed.held_out} of them held out, "
        f"fingerprint {packed.fingerprint[:16]}; next: ddimx train --config NAME {following}"
    )


def _left_out(packed: PackedSet) -> str:
    """Return which images are not in the file."""
    lines = [f"{len(packed.bad)} images are left out:"]
    lines += [f"  {message}" for message in packed.bad[:SHOWN]]
    more = len(packed.bad) - SHOWN
    lines += [f"  and {more} more (--json lists all)"] if more > 0 else []
    return "\n".join([*lines, "mend or remove them and give --overwrite, or train without them"])
