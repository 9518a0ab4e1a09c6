"""Shapes for the tests of octrees: known cells, and random sets of leaves."""

import numpy as np
from hypothesis import strategies as st

from ddimx.octree.keys import keys_of
from ddimx.octree.tree import Octree, from_leaves


def sphere(depth: int) -> Octree:
    """The cells of the grid that the sphere inscribed in the cube passes through."""
    return from_leaves(keys_of(sphere_cells(depth)), depth)


def sphere_cells(depth: int) -> np.ndarray:
    n = 2**depth
    low = np.abs(np.arange(n) - n / 2 + 0.5) - 0.5  # nearest and farthest distance to the middle
    near, far = low**2, (low + 1) ** 2
    r = (n / 2) ** 2
    found = []
    for x in range(n):
        close = near[x] + near[:, None] + near[None, :] <= r
        distant = far[x] + far[:, None] + far[None, :] >= r
        y, z = np.nonzero(close & distant)
        found.append(np.stack([np.full_like(y, x), y, z], axis=1))
    return np.concatenate(found)


@st.composite
def trees(draw, most_depth: int = 6, most: int = 200) -> Octree:
    """A random tree: some leaves anywhere in the grid, some of them in one corner of it."""
    depth = draw(st.integers(1, most_depth))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    spread = rng.integers(0, 8**depth, draw(st.integers(1, most)))
    dense = rng.integers(0, min(8**depth, 64), draw(st.integers(0, 32)))
    return from_leaves(np.concatenate([spread, dense]), depth)
