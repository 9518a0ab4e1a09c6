"""Morton keys: a cell's three coordinates in one integer, whose order is that of a BFS.

A child's index is ``(x << 2) | (y << 1) | z``, with one bit of each coordinate per level, the
coarsest first. So a cell's parent has the key ``key >> 3``, and the cells of one level in ascending
order of their keys are that level of a breadth-first traversal.

Bits are moved by look-up tables: half of the passes over memory that shifting and masking take.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Cells = npt.NDArray[np.int64]

MAX_DEPTH = 20  # three bits a level in a positive int64

# Every number of 10 bits with its bit i at bit 3 i: half of a coordinate's way into a key.
_HALF = 10
_NUMBERS: Keys = np.arange(1 << _HALF, dtype=np.int64)
_SPREAD: Keys = np.bitwise_or.reduce([(_NUMBERS >> i & 1) << 3 * i for i in range(_HALF)])

# The cell of every key of 4 levels, its coordinates packed as x << 40 | y << 20 | z.
_LEVELS = 4
_KEYS: Keys = np.arange(8**_LEVELS, dtype=np.int64)
_CELLS: Keys = np.bitwise_or.reduce(
    [
        (_KEYS >> 3 * i + 2 - axis & 1) << MAX_DEPTH * (2 - axis) + i
        for i in range(_LEVELS)
        for axis in range(3)
    ]
)


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


def axes_of(keys: npt.NDArray[np.integer]) -> Iterator[Keys]:
    """Yield the keys' x, y and z one after the other, each int64 [N]."""
    rest: Keys = keys.astype(np.int64)
    packed = _CELLS[rest & len(_CELLS) - 1]
    levels = -(-int(rest.max(initial=0)).bit_length() // 3)
    for level in range(_LEVELS, levels, _LEVELS):
        rest >>= 3 * _LEVELS
        packed |= _CELLS[rest & len(_CELLS) - 1] << level
    for axis in range(3):
        yield (packed >> MAX_DEPTH * (2 - axis)) & (1 << MAX_DEPTH) - 1


def _spread(v: Keys) -> Keys:
    """Put bit i of v (20 bits) at bit 3 i."""
    low: Keys = _SPREAD[v & len(_SPREAD) - 1]
    if v.max(initial=0) < len(_SPREAD):
        return low
    high: Keys = _SPREAD[v >> _HALF]
    return low | high << 3 * _HALF
