"""Tile shapes per architecture and shape class: a committed table, never keyed on the batch.

A tile that depended on the batch would change a sample's last bits with its neighbors. The rows
were chosen by what the compiler reports (registers, spills, shared memory; the counts lie beside
``tests/kernels/test_attention_compiled.py``), not yet by a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch

from .._tuned import measured

Kernel = Literal["strip", "online", "gradient_strip", "gradient_online"]
STRIP = 256  # keys whose scores a program can hold at once


@dataclass(frozen=True)
class AttentionTile:
    """The largest tile of a shape class; smaller problems cut it to the next power of two.

    Attributes:
        own: rows that a program answers for (queries; in the gradient also keys).
        other: rows that they meet at a time.
        dims: columns of the inputs that a product sums at a time.
        columns: columns of the result at a time.
        warps, stages: Triton's warps per program and depth of software pipelining.
    """

    own: int
    other: int
    dims: int
    columns: int
    warps: int
    stages: int


# 16-bit inputs. "other" fits the 99 KiB of shared memory of consumer cards.
HALF: dict[str, dict[Kernel, AttentionTile]] = {
    "other": {
        "strip": AttentionTile(64, STRIP, 64, 64, 8, 2),
        "online": AttentionTile(64, 64, 64, 256, 8, 2),
        "gradient_strip": AttentionTile(32, STRIP, 32, 32, 8, 2),
        "gradient_online": AttentionTile(64, 64, 32, 128, 8, 2),
    },
    "sm_90": {
        "strip": AttentionTile(128, STRIP, 64, 64, 8, 2),
        "online": AttentionTile(128, 64, 256, 256, 8, 2),
        "gradient_strip": AttentionTile(64, STRIP, 32, 32, 8, 2),
        "gradient_online": AttentionTile(64, 64, 64, 256, 8, 2),
    },
    "gfx942": {
        "strip": AttentionTile(64, STRIP, 64, 64, 8, 2),
        "online": AttentionTile(64, 64, 64, 256, 8, 2),
        "gradient_strip": AttentionTile(64, STRIP, 32, 32, 8, 2),
        "gradient_online": AttentionTile(64, 64, 64, 128, 8, 2),
    },
}
HALF["sm_100"] = HALF["sm_90"]
# Above 256 columns the output fills the registers of 64 queries; q no longer fits beside k and v.
WIDE: dict[str, AttentionTile] = {"sm_90": AttentionTile(64, 64, 64, 512, 8, 2)}
WIDE["sm_100"] = WIDE["gfx942"] = WIDE["sm_90"]
# 32-bit products run on the ordinary cores, which want small tiles, alike everywhere.
SINGLE: dict[Kernel, AttentionTile] = {
    "strip": AttentionTile(16, STRIP, 32, 32, 8, 2),
    "online": AttentionTile(32, 32, 32, 128, 8, 2),
    "gradient_strip": AttentionTile(16, STRIP, 32, 32, 8, 2),
    "gradient_online": AttentionTile(32, 32, 32, 64, 8, 2),
}


def tile(
    arch: str, kernel: Kernel, dtype: torch.dtype, own: int, other: int, d: int
) -> AttentionTile:
    """Return the tile for a problem of ``own`` rows against ``other`` rows of ``d`` columns."""
    if fields := measured(arch, "attention", problem(kernel, dtype, d)):
        largest = AttentionTile(*fields)
    elif dtype == torch.float32:
        largest = SINGLE[kernel]
    elif kernel == "online" and d > 256 and arch in WIDE:
        largest = WIDE[arch]
    else:
        largest = HALF.get(arch, {}).get(kernel) or HALF["other"][kernel]
    return replace(
        largest,
        own=min(largest.own, covering(own)),
        other=min(largest.other, covering(other)),
        dims=min(largest.dims, covering(d)),
        columns=min(largest.columns, covering(d)),
    )


def problem(kernel: Kernel, dtype: torch.dtype, d: int) -> str:
    """Return the class of problems that share a tile that was measured."""
    return f"{kernel}, {8 * dtype.itemsize} bits, {covering(d)} columns"


def candidates(
    arch: str, kernel: Kernel, dtype: torch.dtype, own: int, other: int, d: int
) -> list[AttentionTile]:
    """Return forward tiles worth measuring for a problem, the table's own first."""
    wide = covering(d)
    met = (STRIP,) if kernel == "strip" else (32, 64, 128)
    widths = (64, 128) if kernel == "strip" else (wide, wide // 2)
    tiles = [tile(arch, kernel, dtype, own, other, d)]
    for rows, keys, dims, columns in product((64, 128, 32), met, (64, 128, 256), widths):
        # What a program holds in registers, and of its inputs in shared memory at a time.
        if rows * (columns + keys) > 2**16 or dims * (rows + keys) * dtype.itemsize > 2**17:
            continue
        cut = min(rows, covering(own)), min(keys, covering(other)), min(dims, wide)
        tiles += [
            AttentionTile(*cut, min(columns, wide), warps, stages)
            for warps, stages in product((8, 4), (2, 3))
        ]
    return list(dict.fromkeys(tiles))


def covering(n: int) -> int:
    """Return the power of two that covers n, at least 16: the least that a matrix unit takes."""
    return max(16, 1 << (n - 1).bit_length())
