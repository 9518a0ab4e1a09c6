"""Shapes to measure with, made by formulas, so that anybody has the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ddimx.octree.keys import keys_of
from ddimx.octree.tree import Octree, from_leaves

RADIUS = 0.36  # of the unit cube's edge: at depth 8 a stream of 213,521 tokens
MANY = 1000
MANY_DEPTH = 5

Cells = npt.NDArray[np.int64]


def sphere(depth: int, radius: float = RADIUS) -> Octree:
    """Return the cells that a sphere about the middle of the cube passes through."""
    n = 2**depth
    # From the middle to the nearest and to the farthest plane of each slab of cells.
    near = np.abs(np.arange(n) - (n - 1) / 2) - 0.5
    reach = (radius * n) ** 2
    planes = []
    for x in range(n):
        closest = near[x] ** 2 + near[:, None] ** 2 + near[None, :] ** 2
        farthest = (near[x] + 1) ** 2 + (near[:, None] + 1) ** 2 + (near[None, :] + 1) ** 2
        y, z = np.nonzero((closest <= reach) & (farthest >= reach))
        planes.append(np.stack([np.full_like(y, x), y, z], axis=1))
    return from_leaves(keys_of(np.concatenate(planes)), depth)


def spheres(count: int = MANY, depth: int = MANY_DEPTH) -> list[Octree]:
    """Return spheres of radii from 0.1 to 0.5 of the cube's edge."""
    return [sphere(depth, radius) for radius in np.linspace(0.1, 0.5, count)]
