"""Tile shapes per kernel, dtype and columns: a committed table, never keyed on the batch.

The rows were chosen by what the compiler reports (registers, spills, shared memory; the counts lie
beside ``tests/kernels/test_segment_attention_compiled.py``), not yet by a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from .._tuned import measured

Kernel = Literal["forward", "gradient_of_queries", "gradient_of_keys"]
COLUMNS = (16, 32, 64, 128)  # a head's, which the kernels hold whole


@dataclass(frozen=True)
class SegmentTile:
    """A program's tile.

    Attributes:
        own: rows that a program answers for, a part of the tables' blocks.
        other: rows that they meet at a time.
        warps, stages: Triton's warps per program and depth of software pipelining.
    """

    own: int
    other: int
    warps: int
    stages: int


WHOLE = SegmentTile(64, 64, 4, 3)
HALF: dict[int, dict[Kernel, SegmentTile]] = {
    32: {
        "forward": WHOLE,
        "gradient_of_queries": WHOLE,
        "gradient_of_keys": SegmentTile(64, 64, 4, 2),
    },
    64: {
        "forward": WHOLE,
        "gradient_of_queries": WHOLE,
        "gradient_of_keys": SegmentTile(64, 32, 4, 3),
    },
    128: {
        "forward": SegmentTile(64, 64, 4, 2),
        "gradient_of_queries": SegmentTile(64, 64, 8, 2),
        "gradient_of_keys": SegmentTile(64, 32, 8, 2),
    },
}
# 32-bit products run on the ordinary cores, from registers that hold both factors.
NARROW = SegmentTile(64, 32, 4, 2)
SINGLE: dict[int, dict[Kernel, SegmentTile]] = {
    32: {"forward": NARROW, "gradient_of_queries": NARROW, "gradient_of_keys": NARROW},
    64: {
        "forward": SegmentTile(64, 32, 8, 2),
        "gradient_of_queries": SegmentTile(64, 32, 8, 2),
        "gradient_of_keys": SegmentTile(32, 32, 4, 2),
    },
    128: {
        "forward": SegmentTile(16, 16, 4, 2),
        "gradient_of_queries": SegmentTile(16, 32, 8, 2),
        "gradient_of_keys": SegmentTile(16, 32, 8, 2),
    },
}


def tile(kernel: Kernel, dtype: torch.dtype, columns: int, arch: str = "other") -> SegmentTile:
    """Return the tile for heads of so many columns, one of ``COLUMNS``."""
    if fields := measured(arch, "segment_attention", problem(kernel, dtype, columns)):
        return SegmentTile(*fields)
    return (SINGLE if dtype == torch.float32 else HALF)[max(columns, 32)][kernel]


def problem(kernel: Kernel, dtype: torch.dtype, columns: int) -> str:
    """Return the class of problems that share a tile that was measured."""
    return f"{kernel}, {8 * dtype.itemsize} bits, {columns} columns"


def candidates(
    kernel: Kernel, dtype: torch.dtype, columns: int, arch: str = "other"
) -> list[SegmentTile]:
    """Return tiles worth measuring, the table's own first; rows are parts of the tables' blocks."""
    tiles = [
        SegmentTile(own, other, warps, stages)
        for own in (64, 32)
        for other in (64, 128, 32)
        for warps in (4, 8)
        for stages in (3, 2, 4)
    ]
    return list(dict.fromkeys([tile(kernel, dtype, columns, arch), *tiles]))
