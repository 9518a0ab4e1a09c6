"""Cells that can be seen from outside, against a search cell by cell."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.octree.errors import OctreeError
from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.visible import visible_cells

FACES = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]


def keys(cells):
    return np.sort(keys_of(np.array(sorted(cells), dtype=np.int64)))


def box(low, high):
    """The cells of the surface of a box."""
    inner = set(product(range(low + 1, high), repeat=3))
    return set(product(range(low, high + 1), repeat=3)) - inner


def searched(cells, n):
    """The same by a search from a corner outside."""
    reached, todo = {(-1, -1, -1)}, [(-1, -1, -1)]
    while todo:
        here = todo.pop()
        for step in FACES:
            there = tuple(a + b for a, b in zip(here, step, strict=True))
            if there not in reached and there not in cells and all(-1 <= c <= n for c in there):
                reached.add(there)
                todo.append(there)
    around = list(product((-1, 0, 1), repeat=3))
    return {c for c in cells if any(tuple(np.add(c, s).tolist()) in reached for s in around)}


@given(st.integers(0, 2**31), st.floats(0.3, 0.8))
def test_as_a_search_finds_them(seed, share):
    grid = np.random.default_rng(seed).random((4, 4, 4)) < share
    cells = {tuple(c) for c in np.argwhere(grid).tolist()} or {(0, 0, 0)}
    found = {tuple(c) for c in cells_of(visible_cells(keys(cells), 2)).tolist()}
    assert found == searched(cells, 4)


def test_a_box_hides_another_until_it_has_a_hole():
    outer, inner = box(0, 7), box(2, 5)
    assert np.array_equal(visible_cells(keys(outer | inner), 3), keys(outer))
    open_ = (outer | inner) - {(0, 3, 3)}
    assert np.array_equal(visible_cells(keys(open_), 3), keys(open_))


def test_a_winding_way_in_is_found():
    maze = set(product(range(8), repeat=3))
    way = [(x, 6, 6) for x in range(7)] + [(6, y, 6) for y in range(1, 7)]
    way += [(x, 1, 6) for x in range(1, 7)] + [(1, 1, z) for z in range(1, 7)]
    found = {tuple(c) for c in cells_of(visible_cells(keys(maze - set(way)), 3)).tolist()}
    assert found == searched(maze - set(way), 8)


def test_a_depth_whose_grid_is_too_large():
    with pytest.raises(OctreeError, match=r"depths 1..9, not 10"):
        visible_cells(np.array([0]), 10)
