"""From a surface or a cloud of points, in units of its own, to an octree that knows its cube.

The cube is centered on the bounding box and as large as its longest side, with ``MARGIN`` of its
edge left free at both ends, so that nothing lies on its outer faces: at depth 6 that is a third
of a cell. The proportions stay; ``lower`` and ``edge`` of the octree lead back to the units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import OctreeError
from .tree import Octree, from_leaves
from .voxels import point_cells, triangle_cells

MARGIN = 0.005


def mesh_tree(
    vertices: npt.NDArray[Any], faces: npt.NDArray[Any], depth: int, margin: float = MARGIN
) -> Octree:
    """Return the octree of the cells that a mesh's surface touches.

    Args:
        vertices: [V, 3]; those that no face uses are ignored.
        faces: integers [F, 3], indices of vertices. It need be neither closed nor oriented.
        depth: 1..20.
        margin: the share of the cube's edge that stays free at each end, 0 up to below 0.5.

    Raises:
        OctreeError: no faces, an index without a vertex, coordinates that are not finite, a
            mesh without extent, a depth outside 1..20 or too large for memory.
    """
    vertices, faces = np.asarray(vertices, dtype=np.float64), np.asarray(faces)
    if not len(faces):
        raise OctreeError("the mesh has no faces")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise OctreeError(f"faces are {faces.dtype} {faces.shape}, expected integers [F, 3]")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise OctreeError(f"a face names a vertex outside 0..{len(vertices) - 1}")
    triangles = vertices[faces]
    lower, edge = fit_cube(triangles.reshape(-1, 3), margin)
    return _tree(triangle_cells(_in_cube(triangles, lower, edge), depth), depth, lower, edge)


def points_tree(points: npt.NDArray[Any], depth: int, margin: float = MARGIN) -> Octree:
    """Return the octree of the cells that hold points [N, 3]; as :func:`mesh_tree`.

    Raises:
        OctreeError: no points, or as there.
    """
    points = np.asarray(points, dtype=np.float64)
    lower, edge = fit_cube(points, margin)
    return _tree(point_cells(_in_cube(points, lower, edge), depth), depth, lower, edge)


def fit_cube(points: npt.NDArray[Any], margin: float = MARGIN) -> tuple[npt.NDArray[Any], float]:
    """Return the cube around points [N, 3]: its minimum corner, float64 [3], and its edge.

    Raises:
        OctreeError: no points, some that are not finite, or all in one place.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise OctreeError(f"points have shape {points.shape}, expected [N, 3]")
    if not len(points):
        raise OctreeError("there are no points")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise OctreeError(f"{int((~finite).sum())} of {len(points)} points are NaN or infinite")
    low, high = points.min(axis=0), points.max(axis=0)
    with np.errstate(over="ignore"):
        edge = float((high - low).max()) / (1 - 2 * margin)
    center = low / 2 + high / 2
    if not np.isfinite(edge):
        raise OctreeError("the coordinates are too large to be told apart")
    if edge <= 16 * np.finfo(np.float64).eps * float(np.abs(center).max()):
        raise OctreeError("all points lie in one place: the shape has no extent")
    return center - edge / 2, edge


def _in_cube(points: npt.NDArray[Any], lower: npt.NDArray[Any], edge: float) -> npt.NDArray[Any]:
    """Return points in the cube's own coordinates, [0, 1]^3 (less the margins)."""
    center = lower + edge / 2
    return np.clip((points - center) / edge + 0.5, 0, 1)


def _tree(keys: npt.NDArray[np.int64], depth: int, lower: npt.NDArray[Any], edge: float) -> Octree:
    corner = (float(lower[0]), float(lower[1]), float(lower[2]))
    return from_leaves(keys, depth, corner, edge)
