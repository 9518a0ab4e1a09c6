"""Morton keys: a cell's three coordinates in one integer, whose order is that of a BFS.

A child's index is ``(x << 2) | (y << 1) | z``, with one bit of each coordinate per level, the
coarsest first. So a cell's parent has the key ``key >> 3``, and the cells of one level in ascending
order of their keys are that level of a breadth-first traversal.

Bits are moved by look-up tables: half of the passes over memory that shifting and masking take.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..kernels.morton import MAX_DEPTH, Keys, axes_of

__all__ = ["MAX_DEPTH", "Cells", "Keys", "axes_of", "cells_of", "keys_of"]

Cells = npt.NDArray[np.int64]

# Every number of 10 bits with its bit i at bit 3 i: half of a coordinate's way into a key.
_HALF = 10
_NUMBERS: Keys = np.arange(1 << _HALF, dtype=np.int64)
_SPREAD: Keys = np.bitwise_or.reduce([(_NUMBERS >> i & 1) << 3 * i for i in range(_HALF)])


def keys_of(cells: npt.NDArray[np.integer]) -> Keys:
    """Return the Morton keys of cells, int [N, 3] in 0..2^20-1 -> int64 [N]."""
    x, y, z = (_spread(cells[..., axis].astype(np.int64)) for axis in range(3))
    keys: Keys = (x << 2) | (y << 1) | z
    return keys


def cells_of(keys: npt.NDArray[np.integer]) -> Cells:
    """Return the coordinates of keys, int64 [N] -> int64 [N, 3]; undoes :func:`keys_of`."""
    cells = np.empty((*keys.shape, 3), dtype=np.int64)
    for axis, coordinate in enumerate(axes_of(keys)):
        cells[..., axis] = coordinate
    return cells


def _spread(v: Keys) -> Keys:
    """Put bit i of v (20 bits) at bit 3 i."""
    low: Keys = _SPREAD[v & len(_SPREAD) - 1]
    if v.max(initial=0) < len(_SPREAD):
        return low
    high: Keys = _SPREAD[v >> _HALF]
    return low | high << 3 * _HALF
