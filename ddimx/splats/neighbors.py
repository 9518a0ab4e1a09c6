"""What the occupied cells around each leaf look like: how many, and how they are spread.

A column of z is cut into bricks of 32 cells, each a word in which a bit is a cell. One search finds
the brick of a column beside a cell's own, and five bits of its word are what is occupied in the
window; a table says how many these are, and the sums of their offsets and of the squares. All is
exact, in integers, at any depth and with no dense grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..octree.keys import cells_of
from ..octree.tree import Octree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Words = npt.NDArray[np.uint64]

RADIUS = 2  # cells: a window of 5 x 5 x 5
BRICK = 32  # cells
_FIELD = 20  # bits of each of three numbers in one
_LOW = (1 << _FIELD) - 1
PLANE_STEPS = 1 / 12  # cells^2: how far the cells of an oblique plane are spread about it


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """The occupied cells in a cubic window around each leaf, the leaf itself included.

    Attributes:
        counts: int64 [N], how many cells are occupied, 1..(2r+1)^3.
        means: float64 [N, 3], their mean offset from the leaf, in cells.
        spreads: float64 [N, 3, 3], the covariance of their offsets, in cells squared.
        width: 2r+1, the window's edge in cells.
    """

    counts: Ints
    means: Floats
    spreads: Floats
    width: int


def neighborhood(tree: Octree, radius: int = RADIUS) -> Neighborhood:
    """Look around every leaf of a tree, in the order of its leaves.

    Args:
        radius: of the window in cells, 1..4.
    """
    cells = cells_of(tree.leaves) + radius
    side = 2**tree.depth + 2 * radius  # a margin, so that no window reaches into the next column
    bricks = side // BRICK + 2  # of a column; the first one stays empty
    place = (cells[:, 0] * side + cells[:, 1]) * bricks + 1 + (cells[:, 2] >> 5)
    bit = (cells[:, 2] & BRICK - 1).astype(np.uint64)
    keys, words = _bricks(place, bit, radius)
    own, brick_of = np.unique(place, return_inverse=True)
    offsets = np.arange(-radius, radius + 1)
    codes = np.arange(1 << len(offsets))[:, None] >> np.arange(len(offsets)) & 1
    # Of every window of z: how many cells, the sum of their offsets (made positive), that of the
    # squares: three numbers in one, so that one sum is three.
    shift = int(-offsets[: radius + 1].sum())
    sums = (
        codes.sum(axis=1) + (codes @ offsets + shift << _FIELD) + (codes @ offsets**2 << 2 * _FIELD)
    )
    by_x, by_y = np.zeros((2, len(offsets), len(place)), dtype=np.int64)
    xy = np.zeros(len(place), dtype=np.int64)
    mask = np.uint64(len(codes) - 1)
    for i, dx in enumerate(offsets.tolist()):
        for j, dy in enumerate(offsets.tolist()):
            needles = own + (dx * side + dy) * bricks
            slots = np.minimum(np.searchsorted(keys, needles), len(keys) - 1)
            column = np.where(keys[slots] == needles, words[slots], 0)
            window = sums[(column[brick_of] >> bit & mask).astype(np.intp)]
            by_x[i] += window
            by_y[j] += window
            xy += dx * dy * (window & _LOW)
    n, z, zz = by_x & _LOW, (by_x >> _FIELD & _LOW) - shift * len(offsets), by_x >> 2 * _FIELD
    n_by_y, z_by_y = by_y & _LOW, (by_y >> _FIELD & _LOW) - shift * len(offsets)
    squares, counts = offsets**2, n.sum(axis=0)
    means = (np.stack([offsets @ n, offsets @ n_by_y, z.sum(axis=0)]) / counts).T
    xz, yz = offsets @ z, offsets @ z_by_y
    rows = [squares @ n, xy, xz, xy, squares @ n_by_y, yz, xz, yz, zz.sum(axis=0)]
    second = (np.stack(rows) / counts).T.reshape(-1, 3, 3)
    spreads = second - means[:, :, None] * means[:, None, :]
    return Neighborhood(counts, means, spreads, len(offsets))


def _bricks(place: Ints, bit: Words, radius: int) -> tuple[Ints, Words]:
    """Return the bricks around cells: their places, ascending, and which of their cells are full.

    A brick's word begins ``radius`` cells below it and ends as many above it, so that the window of
    each of its cells lies in one word. Bricks that are empty beside a full one are among them.

    Args:
        place: int64 [N], of each cell's brick.
        bit: uint64 [N], where in its brick each cell lies.
    """
    one, reach = np.uint64(1), np.uint64(radius)
    low = np.flatnonzero(bit < radius)
    high = np.flatnonzero(bit >= BRICK - radius)
    places = np.concatenate([place, place[low] - 1, place[high] + 1])
    above, below = bit[low] + np.uint64(BRICK), bit[high] - np.uint64(BRICK)  # wraps, and back
    bits = one << np.concatenate([bit, above, below]) + reach
    order = np.argsort(places)
    places = places[order]
    first = np.flatnonzero(np.diff(places, prepend=-1))
    return places[first], np.bitwise_or.reduceat(bits[order], first)


def facing(spreads: npt.ArrayLike, towards: npt.ArrayLike) -> Floats:
    """Return the surface normals seen from a direction, unit, [N, 3, 3], [N, 3] -> [N, 3].

    With C the spread of the neighbors and v the way to the eye, n = (C + e I)^-1 v: the normal of
    a plane, the part of v across a rod, v itself for a lump, each on the side that is seen, so
    that no sign has to be guessed.
    """
    rounded = np.asarray(spreads, dtype=np.float64) + PLANE_STEPS * np.eye(3)
    solved = np.linalg.solve(rounded, np.asarray(towards, dtype=np.float64)[:, :, None])[:, :, 0]
    unit: Floats = solved / np.linalg.norm(solved, axis=1, keepdims=True)
    return unit
