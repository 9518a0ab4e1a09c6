"""Cutting polygons into triangles that cover them and nothing else.

From one of its corners a polygon falls into a fan of triangles. The fan is right if none of its
triangles is turned over, as in every convex polygon, and in every simple one of up to five corners
from one of them. What is left is cut ear by ear (G. H. Meisters, "Polygons have ears", 1975).
Which way a corner turns is judged in the plane of Newell's normal, since the polygons of files are
plane only to the digits that are written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

# Of the polygon's squared extent: what a triangle may be turned over by. Files write six digits.
FLAT = 1e-7
ROUNDING = 1e-13  # the same, for a difference of two products of coordinates within [-1, 1]
# A fan's triangles all cross the shape, so that of more corners they take much longer to find
# their cells than triangles of neighbors do; and so many starting points are tried for a fan.
FAN = 64
# A polygon of 100,000 corners, as a star's or a coast's, takes 1 to 4 s. The time grows with the
# square of the corners only where very many lie beside one another.
CORNERS = 1 << 17
WORK = 2 * 10**8  # points that are held against triangles, some 5 s
EXCEPTIONS = 16  # corners that are cut off though they are no ears, until no more ears are sought


def triangles_of(vertices: Array, corners: Index, counts: Index, *, fans: bool = False) -> Index:
    """Cut polygons into triangles, int64 [F, 3], each of n corners into n - 2.

    A polygon that crosses itself is cut into triangles of its corners somehow. Polygons of fewer
    than three corners are left out.

    Args:
        vertices: float64 [V, 3].
        corners: indices of vertices, one polygon after the other.
        counts: corners of each polygon; they add up to ``len(corners)``.
        fans: cut each into a fan from its first corner, right or not, as earlier versions did.

    Raises:
        ValueError: a polygon of more than ``CORNERS`` corners, or one that takes too long.
    """
    if len(counts) and counts.max() > CORNERS:
        raise ValueError(f"a face of {counts.max()} corners, {CORNERS} are read")
    starts = np.cumsum(counts) - counts
    faces = [np.zeros((0, 3), np.int64)]
    for count in np.unique(counts).tolist():
        if count >= 3:
            rows = corners[starts[counts == count][:, None] + np.arange(count)]
            faces.append(rows if count == 3 else _cut(vertices, rows, fans))
    return np.concatenate(faces)


def _cut(vertices: Array, rows: Index, fans: bool) -> Index:
    """Cut polygons of the same number of corners, [P, n], into triangles [P * (n - 2), 3]."""
    count = rows.shape[1]
    fan = np.stack(np.broadcast_arrays(0, np.arange(1, count - 1), np.arange(2, count)), axis=-1)
    if fans:
        return rows[:, fan].reshape(-1, 3)
    flat = _in_plane(vertices[rows])
    edges = np.roll(flat, -1, axis=1) - flat
    faces, left = [], np.arange(len(rows))
    for corner in range(count if count <= FAN else 1):
        arms = flat[left] - flat[left, corner][:, None]
        is_fan = (_cross(arms, np.roll(arms, -1, axis=1)) >= -FLAT).all(axis=1)
        order = (fan + corner) % count
        if count > FAN:
            is_fan &= (_cross(edges, np.roll(edges, -1, axis=1)) >= 0).all(axis=1)
            order = _halved(count)
        faces.append(rows[left[is_fan]][:, order].reshape(-1, 3))
        left = left[~is_fan]
        if not len(left):
            break
    for i in left:
        # Of four corners none of which makes a fan: it crosses itself.
        faces.append(rows[i][fan if count == 4 else _ears(flat[i])])
    return np.concatenate(faces)


def _in_plane(points: Array) -> Array:
    """Return polygons [P, n, 3] in planes of their own, counterclockwise: [P, n, 2] in [-1, 1].

    The plane's normal is Newell's: its components are the areas of the polygon's three shadows.
    Zeros for a polygon that is not finite or has no extent.
    """
    with np.errstate(all="ignore"):
        points = points - points[:, :1]
        extent = np.abs(points).max(axis=(1, 2), keepdims=True)
        points = np.where(np.isfinite(extent) & (extent > 0), points / extent, 0)
    normal = np.cross(points, np.roll(points, -1, axis=1)).sum(axis=1)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = normal / np.where(length > 0, length, 1)
    across = np.cross(normal, np.eye(3)[np.abs(normal).argmin(axis=1)])
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 0.5)  # zero stays zero
    axes = np.stack([across, np.cross(normal, across)], axis=-1)
    flat: Array = points @ axes / 2  # a diagonal is longer than the extent
    return flat


def _cross(a: Array, b: Array) -> Array:
    product: Array = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _halved(count: int) -> Index:
    """Cut off every second corner of a convex polygon until nothing is left: [count - 2, 3]."""
    left, faces = np.arange(count), []
    while len(left) > 2:
        ears = left[1::2]
        ends = np.append(left, left[0])[2::2]
        faces.append(np.stack([left[: 2 * len(ears) : 2], ears, ends[: len(ears)]], axis=-1))
        left = left[::2]
    return np.concatenate(faces)


def _ears(points: Array) -> Index:
    """Cut one polygon [n, 2], counterclockwise, into triangles [n - 2, 3], ear by ear.

    An ear is a corner that turns left and whose triangle holds no other corner. Where there is
    none, those on a triangle's border do not count; then the polygon crosses itself, and the next
    corner that turns left is cut off, at last any corner. Corners in the same place as one of the
    triangle's never count: a hole is joined to what is around it by an edge there and back.

    Raises:
        ValueError: it takes too long.
    """
    count = len(points)
    x, y = points.T.tolist()
    before, after = [count - 1, *range(count - 1)], [*range(1, count), 0]

    def turn(a: int, b: int, c: int) -> float:
        return float((x[b] - x[a]) * (y[c] - y[a]) - (y[b] - y[a]) * (x[c] - x[a]))

    # Of the corners in a triangle one does not turn left, unless corners coincide. The others need
    # not be looked at, and a corner that turns left goes on to do so while ears are cut.
    is_simple = len(np.unique(points, axis=0)) == count
    obstacle = np.array([not is_simple or turn(before[i], i, after[i]) <= 0 for i in range(count)])
    order = np.argsort(points[:, 0])
    order = order[obstacle[order]]
    places = points[order, 0].tolist()

    def between(*corners: int) -> Index:
        """Return the corners that lie beside a triangle, above or below it."""
        wide = [x[i] for i in corners]
        return order[bisect_left(places, min(wide)) : bisect_right(places, max(wide))]

    def holds(corners: tuple[int, int, int], others: Index, *, border: bool) -> bool:
        high = [y[i] for i in corners]
        py = points[others, 1]
        others = others[obstacle[others] & (py >= min(high)) & (py <= max(high))]
        if not len(others):
            return False
        px, py = points[others].T
        inside = np.ones(len(others), bool)
        for a, b in zip(corners, (*corners[1:], corners[0]), strict=True):
            side = (x[b] - x[a]) * (py - y[a]) - (y[b] - y[a]) * (px - x[a])
            inside &= (side >= -ROUNDING) if border else (side > ROUNDING)
            inside &= (px != x[a]) | (py != y[a])
        return bool(inside.any())

    faces: list[tuple[int, int, int]] = []
    candidates, is_left = list(range(count)), [True] * count
    obstacles, left, was_cut = len(order), count, False
    level = least = exceptions = work = 0
    while left > 3:
        # An ear's neighbors wait for the next round, so that triangles are as broad as can be.
        neighbors: dict[int, None] = {}
        for corner in candidates:
            if left <= 3 or not is_left[corner] or corner in neighbors:
                continue
            a, c = before[corner], after[corner]
            area = turn(a, corner, c)
            is_ear = abs(area) <= ROUNDING or level == 3  # nothing lies in a line
            work += 50  # as long as it takes to look at so many points
            if area > ROUNDING and level < 2:
                others = between(a, corner, c)
                is_ear = not holds((a, corner, c), others, border=level == 0)
                work += len(others) // 2 + 1000
            elif area > ROUNDING:
                is_ear = True
            if work > WORK:
                raise ValueError(
                    f"cutting a face of {count} corners into triangles takes too long; let the "
                    "program that wrote the file do it"
                )
            if not is_ear:
                continue
            faces.append((a, corner, c))
            exceptions += level > 0
            least = max(least, level if exceptions > EXCEPTIONS else 0)
            level, left = least, left - 1
            after[a], before[c] = c, a
            is_left[corner] = False
            neighbors |= {a: None, c: None}
            for i in (a, corner, c):
                if obstacle[i] and (
                    i == corner or (is_simple and turn(before[i], i, after[i]) > 0)
                ):
                    obstacle[i] = False
                    obstacles -= 1
            if obstacles * 2 < len(order):
                order = order[obstacle[order]]
                places = points[order, 0].tolist()
        if neighbors:
            candidates, was_cut = list(neighbors), True
            continue
        candidates = [i for i in range(count) if is_left[i]]
        level += not was_cut
        was_cut = False  # if it was, others may be ears by now: what lay in them is cut off
    corner = next(i for i in range(count) if is_left[i])
    faces.append((before[corner], corner, after[corner]))
    return np.array(faces, dtype=np.int64)
