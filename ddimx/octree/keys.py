"""Morton keys: a cell's three coordinates in one integer, whose order is that of a BFS.

A child's index is ``(x << 2) | (y << 1) | z``, with one bit of each coordinate per level, the
coarsest first. So a cell's parent has the key ``key >> 3``, and the cells of one level in ascending
order of their keys are that level of a breadth-first traversal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Cells = npt.NDArray[np.int64]

MAX_DEPTH = 20  # three bits a level in a positive int64


def keys_of(cells: npt.NDArray[np.integer]) -> Keys:
    """Return the Morton keys of cells, int [N, 3] in 0..2^20-1 -> int64 [N]."""
    x, y, z = (_spread(cells[..., axis].astype(np.int64)) for axis in range(3))
    keys: Keys = (x << 2) | (y << 1) | z
    return keys


def cells_of(keys: npt.NDArray[np.integer]) -> Cells:
    """Return the coordinates of keys, int64 [N] -> int64 [N, 3]; undoes :func:`keys_of`."""
    k: Keys = keys.astype(np.int64)
    return np.stack([_gather(k >> 2), _gather(k >> 1), _gather(k)], axis=-1)


def _spread(v: Keys) -> Keys:
    """Put bit i of v (20 bits) at bit 3 i."""
    v = (v | v << 32) & 0x1F00000000FFFF
    v = (v | v << 16) & 0x1F0000FF0000FF
    v = (v | v << 8) & 0x100F00F00F00F00F
    v = (v | v << 4) & 0x10C30C30C30C30C3
    return (v | v << 2) & 0x1249249249249249


def _gather(v: Keys) -> Keys:
    """Put bit 3 i of v at bit i and drop the others."""
    v = v & 0x1249249249249249
    v = (v ^ v >> 2) & 0x10C30C30C30C30C3
    v = (v ^ v >> 4) & 0x100F00F00F00F00F
    v = (v ^ v >> 8) & 0x1F0000FF0000FF
    v = (v ^ v >> 16) & 0x1F00000000FFFF
    return (v ^ v >> 32) & 0x1FFFFF
