"""What surrounds a leaf, against counting cell by cell."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.tree import from_leaves
from ddimx.splats.neighbors import facing, neighborhood


def counted(cells, radius):
    """Count, mean and covariance of the occupied offsets around each cell, the slow way."""
    occupied = {tuple(cell) for cell in cells.tolist()}
    for cell in cells:
        steps = itertools.product(range(-radius, radius + 1), repeat=3)
        found = np.array([s for s in steps if tuple(cell + s) in occupied], dtype=float)
        yield len(found), found.mean(axis=0), np.cov(found.T, ddof=0)


@given(st.sets(st.integers(0, 511), min_size=1, max_size=60), st.integers(1, 2))
def test_equals_counting(keys, radius):
    tree = from_leaves(np.array(sorted(keys)), 3)
    around = neighborhood(tree, radius)
    for i, (count, mean, spread) in enumerate(counted(cells_of(tree.leaves), radius)):
        assert around.counts[i] == count
        np.testing.assert_allclose(around.means[i], mean, atol=1e-12)
        np.testing.assert_allclose(around.spreads[i], spread, atol=1e-12)


@given(
    st.sets(st.integers(0, 511), min_size=1, max_size=40),
    st.tuples(*[st.sampled_from([0, 27, 30, 61, 120])] * 3),
)
def test_equals_counting_across_bricks(keys, corner):
    """A block of 8 cells a side, at places where columns are cut and at the grid's ends."""
    cells = cells_of(np.array(sorted(keys))) + corner
    tree = from_leaves(keys_of(cells), 7)
    around = neighborhood(tree)
    for i, (count, mean, spread) in enumerate(counted(cells_of(tree.leaves), 2)):
        assert around.counts[i] == count
        np.testing.assert_allclose(around.means[i], mean, atol=1e-12)
        np.testing.assert_allclose(around.spreads[i], spread, atol=1e-12)


def test_opposite_edges_of_the_grid_are_no_neighbors():
    tree = from_leaves(keys_of(np.array([[3, 0, 7], [3, 1, 0], [0, 7, 7], [7, 0, 0]])), 3)
    assert neighborhood(tree).counts.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("side", [1, -1])
def test_the_normal_of_a_floor_is_the_side_that_is_seen(side):
    x, z = np.mgrid[:8, :8].reshape(2, -1)
    tree = from_leaves(keys_of(np.stack([x, np.full(64, 4), z], axis=1)), 3)
    spreads = neighborhood(tree).spreads
    inner = keys_of(np.array([[4, 4, 4]]))[0] == tree.leaves
    seen = facing(spreads, np.tile([0.48, 0.6 * side, 0.64], (64, 1)))[inner][0]
    # v = (.48, .6, .64) over spreads (2, 0, 2) + 1/12: (.2304, 7.2, .3072) before normalizing
    expected = np.array([0.2304, 7.2 * side, 0.3072])
    np.testing.assert_allclose(seen, expected / np.linalg.norm(expected), atol=1e-9)
