"""Tiles by the shape of one image: a committed table, never keyed on the batch.

A tile that depended on the batch would change an image's last bits with its neighbors. The rows
were chosen by what the compiler reports (registers, spills, load widths; the counts lie beside
``tests/kernels/test_group_norm_silu_compiled.py``), not yet by a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch

from .._tuned import measured

Direction = Literal["forward", "backward"]
WIDEST = 4096  # channels of a group; a program holds whole groups
SECTOR, VECTOR = 32, 16  # bytes that memory moves at least, and of one load
MOST_PARTS = 64  # of an image: every program of the second pass reads a table of so many rows
CACHED = 1 << 26  # bytes of the images that two passes take together, half of them still in L2


@dataclass(frozen=True)
class NormTile:
    """What a program takes of an image.

    Attributes:
        pixels: how many at a time, a power of two; all of them stay on chip, else they are read
            twice.
        groups: how many whole groups of channels.
        warps: Triton's warps per program.
        parts: how many programs share the pixels of these groups; more than one need two launches.
        registers: a thread's limit, so that a processor has room for more programs; 0 for none.
    """

    pixels: int
    groups: int
    warps: int
    parts: int = 1
    registers: int = 0

    @property
    def options(self) -> tuple[int, int, int]:
        """Warps, stages and registers of a launch."""
        return self.warps, 1, self.registers


@dataclass(frozen=True)
class Row:
    """A row of the table: the tile's size for images of at most so many pixels.

    Attributes:
        pixels: the most pixels of an image.
        size: bytes of x at a time; fewer, with as many warps fewer, where an image has no more.
        warps, registers: as in the tile.
        held: all pixels stay on chip; the row is passed over where they do not fit.
        line: bytes of a pixel's channels that a program takes at most, 0 for what fits.
        parts: the most parts of an image.
    """

    pixels: int
    size: int
    warps: int
    registers: int = 0
    held: bool = False
    line: int = 0
    parts: int = 1


ANY = 1 << 31
TABLE: dict[Direction, tuple[Row, ...]] = {
    "forward": (
        Row(64, 8192, 4, 64, held=True),
        Row(512, 16384, 8, 64, held=True),
        Row(1024, 32768, 16, 64, held=True),
        Row(1024, 8192, 8, line=64),
        Row(ANY, 8192, 8, 64, line=64, parts=MOST_PARTS),
    ),
    "backward": (
        Row(64, 8192, 4, held=True),
        Row(512, 16384, 8, held=True),
        Row(1024, 32768, 16, held=True),
        Row(1024, 8192, 8, line=64),
        Row(ANY, 8192, 8, line=64, parts=MOST_PARTS),
    ),
}


def tile(
    arch: str, direction: Direction, dtype: torch.dtype, pixels: int, channels: int, groups: int
) -> NormTile:
    """Return the tile for images of so many pixels, channels and groups in a dtype."""
    shape = problem(direction, dtype, pixels, channels // groups)
    if fields := measured(arch, "group_norm_silu", shape):
        best = NormTile(*fields)
        return replace(best, groups=min(best.groups, groups))
    for row in TABLE[direction]:
        if pixels <= row.pixels and (choice := _of_row(row, dtype, pixels, channels, groups)):
            return choice
    raise ValueError(f"no tile for {pixels} pixels of {channels} channels in {groups} groups")


def problem(direction: Direction, dtype: torch.dtype, pixels: int, width: int) -> str:
    """Return the class of problems that share a tile that was measured."""
    bits = 8 * dtype.itemsize
    return f"{direction}, {bits} bits, {covering(pixels)} pixels, groups of {width} channels"


def _of_row(
    row: Row, dtype: torch.dtype, pixels: int, channels: int, groups: int
) -> NormTile | None:
    """Return the tile of a row, or None where the row asks for all pixels and they do not fit."""
    width, elements = channels // groups, row.size // dtype.itemsize
    if row.held:
        count = fitting(elements // covering(pixels), dtype, width, groups)
        if count is None:
            return None
        rows = covering(pixels)
    else:
        # A group that is wider than a line has to be taken whole.
        count = fitting(row.line // dtype.itemsize, dtype, width, groups) or 1
        rows = max(1, min(covering(pixels), elements // covering(count * width)))
    held = rows * covering(count * width)
    warps = max(1, min(row.warps, row.warps * held // elements))
    parts = min(row.parts, -(-pixels // rows))
    return NormTile(rows, count, warps, parts, row.registers)


def fitting(channels: int, dtype: torch.dtype, width: int, groups: int) -> int | None:
    """Return how many groups fit into so many channels, or None if too few for the memory.

    They fill whole 128-bit loads where any number of groups does, and at least a sector.
    """
    step = next((n for n in range(1, groups) if n * width * dtype.itemsize % VECTOR == 0), 1)
    while step < groups and step * width * dtype.itemsize < SECTOR:
        step *= 2
    step = min(step, groups)
    best = None
    for count in range(step, groups + step, step):
        if covering(min(count, groups) * width) <= channels:
            best = min(count, groups)
    return best


def candidates(
    arch: str, direction: Direction, dtype: torch.dtype, pixels: int, channels: int, groups: int
) -> list[NormTile]:
    """Return tiles worth measuring for such images, the table's own first.

    They do not all compile without spills: whoever measures them sees it.
    """
    tiles = [tile(arch, direction, dtype, pixels, channels, groups)]
    for size, share in product((8192, 16384, 32768), (4096, 2048)):  # bytes, and those of a warp
        warps = size // share
        rows = [Row(ANY, size, warps, limit, held=True) for limit in (0, 64)]
        if pixels >= 256:
            rows += [Row(ANY, size, warps, line=line) for line in (32, 64)]
            rows += [Row(ANY, size, warps, line=line, parts=MOST_PARTS) for line in (64, 128)]
        fitted = (_of_row(row, dtype, pixels, channels, groups) for row in rows)
        tiles += [one for one in fitted if one is not None]
    return list(dict.fromkeys(tiles))


def covering(n: int) -> int:
    """Return the power of two that covers n."""
    return 1 << (n - 1).bit_length()
