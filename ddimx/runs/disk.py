"""Whether what a run will write fits onto the disk, looked at before the first sample."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from .formats import ARRAY_FORMATS

BLOCK = 4096  # bytes: what a file takes at least on common file systems
FACTS = 2048  # bytes of a picture file besides its pixels: its texts, of a tar also two headers
# Pictures of samples were never packed to less: shipped models' PNGs take half of their pixels.
PACKED = 10


def bytes_on_disk(kind: str, pixels: int, channels: int) -> tuple[int, int]:
    """Return how many bytes a sample takes on the disk while its run is made, at least and at most.

    Array formats are collected in parts and then joined, which takes the parts and the whole, and
    for zips the array as well: that is known exactly. A picture's size depends on it.

    Args:
        kind: a value of ``--format``.
        pixels: of a sample; 0 where samples are no images.
        channels: of a pixel.
    """
    raw = pixels * channels
    if not raw:
        return BLOCK, BLOCK
    if kind in ARRAY_FORMATS:
        each = raw * 4 * 2 if kind == "npy" else raw * 3
        return each, each
    return max(raw // PACKED, 1 if kind == "tar" else BLOCK), raw + FACTS + BLOCK


def check_space(
    folder: Path, count: int, each: tuple[int, int], say: Callable[[str], None]
) -> None:
    """Refuse a run whose samples cannot fit onto the folder's disk, and say where they may not.

    Args:
        folder: the run's.
        count: how many samples will be written there, by this process and all others.
        each: as :func:`bytes_on_disk` returns it.
        say: is told where it may not be enough.

    Raises:
        UsageError: with what is needed, what is free and what to do.
    """
    free = shutil.disk_usage(folder).free
    least, most = (count * size for size in each)
    text = f"{folder}: {count:,} samples take "
    if least > free:
        raise UsageError(
            f"{text}{'' if least == most else 'at least '}{least / 1e9:,.2f} GB, and "
            f"{free / 1e9:,.2f} GB are free there; choose an --out on another disk, fewer samples, "
            "or --format png or tar"
        )
    if most > free:
        say(
            f"note: {text}up to {most / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free there; "
            "where the disk is full the run ends, and the same command goes on once there is room"
        )
