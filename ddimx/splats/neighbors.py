"""What the occupied cells around each leaf look like: how many, and how they are spread.

Leaves are sorted by (x, y, z), so that the neighbors of a cell within one column of z are one run
of the sorted list. Two binary searches find its ends, and differences of running sums give the
run's count, sum of z and sum of z^2, exactly, in integers: 2 (2r + 1)^2 searches per cell instead
of (2r + 1)^3 look-ups, at any depth and with no dense grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..octree.keys import cells_of
from ..octree.tree import Octree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RADIUS = 2  # cells: a window of 5 x 5 x 5
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
    """Look around every leaf of a tree, in the order of its leaves."""
    cells = cells_of(tree.leaves)
    stride = 2**tree.depth + radius  # a margin, so that no window reaches into the next column
    ids = _ids(cells, radius, stride)
    order = np.argsort(ids)
    columns = _Columns(ids[order], cells[order, 2])
    moments = np.zeros((10, len(cells)), dtype=np.int64)
    for dx in range(-radius, radius + 1):
        for dy in range(-radius, radius + 1):
            shift = (dx * stride + dy) * stride
            columns.add(moments, dx, dy, shift, radius)
    result = np.empty_like(moments)
    result[:, order] = moments
    width = 2 * radius + 1
    counts = result[0]
    means = (result[1:4] / counts).T
    upper = result[4:] / counts
    xx, xy, xz, yy, yz, zz = upper
    second = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=1).reshape(-1, 3, 3)
    spreads = second - means[:, :, None] * means[:, None, :]
    return Neighborhood(counts, means, spreads, width)


def _ids(cells: Ints, radius: int, stride: int) -> Ints:
    x, y, z = (cells[:, axis] + radius for axis in range(3))
    ids: Ints = (x * stride + y) * stride + z
    return ids


class _Columns:
    """Leaves in the order of their ids, with running sums over z."""

    def __init__(self, ids: Ints, z: Ints) -> None:
        self._ids, self._z = ids, z
        self._sums = [np.concatenate([[0], np.cumsum(v)]) for v in (z, z * z)]

    def add(self, moments: Ints, dx: int, dy: int, shift: int, radius: int) -> None:
        """Add the column (dx, dy) of every window to the moments 1 x y z xx xy xz yy yz zz."""
        first = np.searchsorted(self._ids, self._ids + (shift - radius))
        last = np.searchsorted(self._ids, self._ids + (shift + radius), side="right")
        n = last - first
        total, squares = (s[last] - s[first] for s in self._sums)
        z, zz = total - n * self._z, squares - 2 * self._z * total + n * self._z**2
        terms = (n, n * dx, n * dy, z, n * dx * dx, n * dx * dy, z * dx, n * dy * dy, z * dy, zz)
        for moment, term in zip(moments, terms, strict=True):
            moment += term


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
