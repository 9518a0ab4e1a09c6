"""Which cells of a grid a triangle touches: exact, without holes.

A triangle and a box are apart if and only if one of 13 axes separates them: the box's three, the
triangle's normal, and the nine cross products of an edge with a box axis (T. Akenine-Moeller,
"Fast 3D Triangle-Box Overlap Testing", 2001). The test goes down the octree, so that only children
of touched cells are ever looked at, and each triangle enters at the level whose cells are as large
as itself. Where its bounding box touches nothing but a row of cells, they need no test.

Cells are closed: touching counts, to within ``TOUCH`` of a cell's edge, which is more than rounding
can amount to. So a face that lies on the boundary between two cells occupies both, a mirrored mesh
gives the mirrored cells, and nothing falls between two cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import OctreeError
from .keys import MAX_DEPTH, Keys, keys_of

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

TOUCH = 1e-8  # of a cell's edge
TRIANGLES, PAIRS = 1 << 14, 1 << 16  # looked at together: some 30 MB
MAX_CELLS = 1 << 25  # a quarter of a gigabyte of keys; a cube's surface at depth 11 has as many
_CHILDREN = np.array([(c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8)], dtype=np.int64)
_NEIGHBORS = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)


def triangle_cells(triangles: npt.NDArray[Any], depth: int) -> Keys:
    """Return the cells that triangles touch.

    Args:
        triangles: [T, 3, 3], the corners' x, y, z in the cube [0, 1]^3. One without area is the
            segment or the point that it is.
        depth: 1..20; the grid has 2^depth cells along an edge.

    Returns:
        Morton keys, int64 [n], ascending and unique.

    Raises:
        OctreeError: no triangles, a corner that is not finite or outside the cube, or more than
            ``MAX_CELLS`` cells.
    """
    corners = _distinct(_checked(triangles, depth, (3, 3)))
    in_row, keys = _rows(corners, depth)
    corners = corners[~in_row]
    chunks, count, limit = [keys], len(keys), MAX_CELLS // 2
    for start in range(0, len(corners), TRIANGLES):
        for keys in _descend(_Slabs.of(corners[start : start + TRIANGLES]), depth):
            chunks.append(keys)
            count += len(keys)
            if count > limit:  # many may be of cells that others touch as well
                chunks = [np.unique(np.concatenate(chunks))]
                count = len(chunks[0])
                if count > MAX_CELLS:
                    raise OctreeError(
                        f"at depth {depth} this surface has more than {MAX_CELLS:,} cells, which "
                        "is too much for memory; take a smaller depth"
                    )
                limit = count + MAX_CELLS // 2
    return np.unique(np.concatenate(chunks))


def point_cells(points: npt.NDArray[Any], depth: int) -> Keys:
    """Return the cells that hold points [N, 3] of the cube [0, 1]^3, as :func:`triangle_cells`.

    A point on a boundary belongs to the cell above it, on the cube's upper faces to the last cell.
    """
    cells = np.floor(_checked(points, depth, (3,)) * 2**depth).astype(np.int64)
    return np.unique(keys_of(np.minimum(cells, 2**depth - 1)))


def _rows(corners: Array, depth: int) -> tuple[npt.NDArray[np.bool_], Keys]:
    """Return which triangles [T] have a bounding box that touches one row of cells, and these.

    A triangle touches every cell of its row, as it is connected. In a fine mesh most are so.
    """
    size = 2**depth
    low = np.ceil(corners.min(axis=1) * size - 1 - TOUCH).astype(np.int64)
    high = np.floor(corners.max(axis=1) * size + TOUCH).astype(np.int64)
    low, high = np.maximum(low, 0), np.minimum(high, size - 1)
    longer = high > low
    in_row = longer.sum(axis=1) <= 1
    low, longer, lengths = low[in_row], longer[in_row], (high - low).max(axis=1)[in_row] + 1
    places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    cells = np.repeat(low, lengths, axis=0) + np.repeat(longer, lengths, axis=0) * places[:, None]
    return in_row, np.unique(keys_of(cells))


def _checked(values: npt.NDArray[Any], depth: int, shape: tuple[int, ...]) -> Array:
    """Return the values, [N, *shape], as float64, or raise OctreeError where they do not fit."""
    what = "triangle" if len(shape) == 2 else "point"
    if not 1 <= depth <= MAX_DEPTH:
        raise OctreeError(f"depth {depth} is not within 1..{MAX_DEPTH}")
    array: Array = np.asarray(values, dtype=np.float64)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise OctreeError(f"{what}s have shape {array.shape}, expected [N, {str(shape)[1:-1]}]")
    if not len(array):
        raise OctreeError(f"there are no {what}s")
    inside = ((array >= 0) & (array <= 1)).reshape(len(array), -1).all(axis=1)
    if not inside.all():
        raise OctreeError(f"{what} {int(np.argmin(inside))} is not within the cube")
    return array


def _distinct(corners: Array) -> Array:
    """Return each triangle [T, 3, 3] once, in order: a file may repeat one a million times.

    They are compared by a hash first, since sorting nine numbers each takes as long as the rest.
    """
    rows = np.ascontiguousarray(corners).reshape(len(corners), 9)
    factors = np.random.default_rng(0).integers(1, 2**63, 9, dtype=np.uint64) | np.uint64(1)
    hashes = (rows.view(np.uint64) * factors).sum(axis=1)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return corners
    original = first[inverse]  # the first triangle with the same hash
    is_repeat = (original != np.arange(len(rows))) & (rows == rows[original]).all(axis=1)
    distinct: Array = corners[~is_repeat]
    return distinct


@dataclass(frozen=True)
class _Slabs:
    """What the test needs of triangles: for each axis the interval that a triangle covers.

    Attributes:
        low, high: [T, 3], the bounding boxes.
        axes: [T, 10, 3], the normal and the nine cross products; zero where degenerate, and a
            zero axis separates nothing.
        least, most: [T, 10], the interval on each.
        reach: [T, 10], half of what a cell of edge 1 covers on each.
    """

    low: Array
    high: Array
    axes: Array
    least: Array
    most: Array
    reach: Array

    @classmethod
    def of(cls, corners: Array) -> _Slabs:
        """Prepare triangles [T, 3, 3]."""
        edges = np.roll(corners, -1, axis=1) - corners
        normal = np.cross(edges[:, 0], edges[:, 1])
        crosses = np.cross(edges[:, :, None], np.eye(3)).reshape(len(corners), 9, 3)
        axes = np.concatenate([normal[:, None], crosses], axis=1)
        # Both in units of the axis, so that a small triangle's axes are not lost in rounding.
        length = np.abs(axes).sum(axis=2)
        axes = axes / np.where(length > 0, length, 1)[..., None]
        on_axis = np.einsum("tax,tvx->tav", axes, corners)
        reach = np.abs(axes).sum(axis=2) / 2
        bounds = corners.min(axis=1), corners.max(axis=1)
        return cls(*bounds, axes, on_axis.min(axis=2), on_axis.max(axis=2), reach)

    def entry(self, depth: int) -> Index:
        """Return for each triangle the level whose cells are as large as itself, [T]."""
        extent = (self.high - self.low).max(axis=1)
        with np.errstate(divide="ignore"):
            level = np.floor(-np.log2(extent))
        clipped: Index = np.clip(level, 0, depth).astype(np.int64)
        return clipped

    def touched(self, triangle: Index, cell: Index, level: int) -> npt.NDArray[np.bool_]:
        """Return which pairs touch: triangles [P], cells of a level [P, 3] -> [P]."""
        edge = 0.5**level
        half = edge * (0.5 + TOUCH)
        center = (cell + 0.5) * edge
        low, high = self.low[triangle] - half, self.high[triangle] + half
        touch: npt.NDArray[np.bool_] = np.all((low <= center) & (center <= high), axis=1)
        candidates = np.flatnonzero(touch)
        triangle, center = triangle[candidates], center[candidates]
        on_axis = np.einsum("pax,px->pa", self.axes[triangle], center)
        slack = 2 * half * self.reach[triangle]
        is_apart = (on_axis < self.least[triangle] - slack) | (
            on_axis > self.most[triangle] + slack
        )
        touch[candidates] = ~np.any(is_apart, axis=1)
        return touch


def _descend(slabs: _Slabs, depth: int) -> Iterator[Keys]:
    """Yield the touched cells' keys in portions, unique within each."""
    entry = slabs.entry(depth)
    pending: list[tuple[int, Index, Index]] = []
    for level in np.unique(entry).tolist():
        first, cell = _entered(slabs, np.flatnonzero(entry == level), level)
        pending += _portions(level, first, cell)
    while pending:
        level, triangle, cell = pending.pop()
        touched = slabs.touched(triangle, cell, level)
        triangle, cell = triangle[touched], cell[touched]
        if level == depth:
            yield np.unique(keys_of(cell))
        else:
            children = (2 * cell[:, None] + _CHILDREN).reshape(-1, 3)
            pending += _portions(level + 1, np.repeat(triangle, 8), children)


def _entered(slabs: _Slabs, triangle: Index, level: int) -> tuple[Index, Index]:
    """Return pairs of triangles and the cells of a level that their bounding boxes may touch.

    Such a box is at most as large as a cell, so that with both boundaries it spans three.
    """
    last = 2**level - 1
    base = np.ceil(slabs.low[triangle] * 2**level - 2 * TOUCH).astype(np.int64) - 1
    cell = base[:, None] + _NEIGHBORS
    inside = ((cell >= 0) & (cell <= last)).all(axis=2)
    return np.repeat(triangle, len(_NEIGHBORS))[inside.ravel()], cell[inside]


def _portions(level: int, triangle: Index, cell: Index) -> list[tuple[int, Index, Index]]:
    """Cut pairs into pieces that can be looked at together."""
    starts = range(0, len(triangle), PAIRS)
    return [(level, triangle[s : s + PAIRS], cell[s : s + PAIRS]) for s in starts]
