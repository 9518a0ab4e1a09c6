"""The cells of octrees in NumPy: from keys to coordinates, and from a level to the next one.

A cell's Morton key interleaves its coordinates' bits, three a level, the coarsest first: a child's
index is ``(x << 2) | (y << 1) | z``, and its parent's key is ``key >> 3``. The cells of one level
in ascending order of their keys are that level of a breadth-first traversal.

This imports no torch: :mod:`ddimx.octree` decodes by it, and so does ``octree_decode`` on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Masks = npt.NDArray[np.uint8]

MAX_DEPTH = 20  # three bits a level in a positive int64
PART = 8192  # cells worked on at once, so that what is only needed on the way stays in the cache
POPCOUNT = np.array([bin(mask).count("1") for mask in range(256)], dtype=np.int64)

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


def children(keys: Keys, masks: Masks) -> Keys:
    """Return the occupied children of cells in their order: int64 [n], uint8 [n] -> [m]."""
    keys_below = np.empty(int(POPCOUNT[masks].sum()), dtype=np.int64)
    start = 0
    for part in parts(len(keys)):
        occupied = np.unpackbits(masks[part], bitorder="little").view(np.bool_)
        possible = (keys[part] << 3)[:, None] | np.arange(8)
        occupied_keys = np.compress(occupied, possible.reshape(-1))
        keys_below[start : start + len(occupied_keys)] = occupied_keys
        start += len(occupied_keys)
    return keys_below


def parts(count: int) -> Iterator[slice]:
    """Yield slices of at most ``PART`` that cover so many elements."""
    return (slice(start, start + PART) for start in range(0, count, PART))
