"""Points lie in their cells, uniformly, and belong to the shape and not to its place in a list."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddimx.evaluation.shapes.points import Side, clouds, identities, subset
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import from_leaves
from tests.evaluation.shapes import block, blocks
from tests.octree.shapes import trees

GOLDEN = [[0.374134153, 0.587995559, 0.241583586], [0.290013567, 0.81395182, 0.178655624]]
GOLDEN_CRC = 0xE4C5E55F


def cells(cloud, depth):
    return keys_of(np.floor(cloud * 2**depth).astype(np.int64))


@given(trees(), st.integers(0, 2**64 - 1))
def test_every_point_lies_in_an_occupied_cell(tree, seed):
    [cloud] = clouds([tree], 50, seed, Side.SAMPLES)
    assert cloud.shape == (50, 3)
    assert (cloud >= 0).all()
    assert (cloud < 1).all()
    assert np.isin(cells(cloud, tree.depth), tree.leaves).all()


def test_the_deepest_cells_hold_their_points():
    """At depth 20 a place has 53 bits, all that float64 has."""
    corners = np.array([[0, 0, 0], [2**20 - 1] * 3, [2**19, 2**19 - 1, 77]])
    tree = from_leaves(keys_of(corners), 20)
    [cloud] = clouds([tree], 2000, 3, Side.SAMPLES)
    assert set(cells(cloud, 20).tolist()) == set(tree.leaves.tolist())


def test_points_are_uniform_over_cells_and_inside_them():
    """Chi-squared over 60 cells and over 4^3 parts of a cell, at p = 0.001, for a fixed seed."""
    tree = block((1, 2, 3), (3, 4, 5))
    [cloud] = clouds([tree], 30_000, 5, Side.SAMPLES)
    _, counts = np.unique(cells(cloud, tree.depth), return_counts=True)
    assert len(counts) == 60
    assert stats.chisquare(counts).pvalue > 1e-3
    inside = cloud * 2**tree.depth % 1
    _, parts = np.unique(np.floor(inside * 4), axis=0, return_counts=True)
    assert len(parts) == 64
    assert stats.chisquare(parts).pvalue > 1e-3
    for axis in range(3):
        assert stats.kstest(inside[:, axis], "uniform").pvalue > 1e-3
    # Which cell says nothing about where inside it.
    assert abs(stats.spearmanr(cells(cloud, tree.depth), inside[:, 0]).statistic) < 4 / 30_000**0.5


def test_a_shapes_points_do_not_depend_on_its_company():
    shapes = blocks(5, seed=0)
    alone = [clouds([tree], 40, 9, Side.REFERENCE)[0] for tree in shapes]
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        found = clouds([shapes[i] for i in order], 40, 9, Side.REFERENCE)
        for i, cloud in zip(order, found, strict=True):
            np.testing.assert_array_equal(cloud, alone[i])
    np.testing.assert_array_equal(clouds(shapes, 16, 9, Side.REFERENCE)[2], alone[2][:16])


def test_equal_shapes_sides_and_seeds_have_draws_of_their_own():
    tree = block((0, 0, 0), (4, 4, 4))
    draws = [
        *clouds([tree, tree, tree], 8, 1, Side.SAMPLES),
        *clouds([tree, tree], 8, 1, Side.REFERENCE),
        *clouds([tree], 8, 2, Side.SAMPLES),
        *clouds([tree, tree], 8, 1, Side.SAMPLES, repeat=1),
        *clouds([tree], 8, 1, Side.AGAIN),
        *clouds([tree], 8, 1, Side.TRAIN),
    ]
    values = np.concatenate(draws)
    assert len(np.unique(values[:, 0])) == len(values)


def test_points_of_a_seed_are_known():
    """Recorded once; a change here changes every figure that was ever given with a seed."""
    [cloud] = clouds([block((0, 0, 0), (2, 2, 2), depth=1)], 2, 0, Side.SAMPLES)
    np.testing.assert_allclose(cloud, GOLDEN, rtol=0, atol=1e-7)
    assert identities([block((0, 0, 0), (2, 2, 2), depth=1)]) == [(GOLDEN_CRC, 0)]


def test_a_subset_is_a_draw_without_replacement_that_knows_no_order():
    shapes = blocks(40, seed=1)
    chosen = subset(shapes, 15, 0, Side.SAMPLES)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 15
    wanted = sorted(tuple(shapes[i].leaves) for i in chosen)
    order = np.random.default_rng(0).permutation(40)
    moved = [shapes[i] for i in order]
    assert sorted(tuple(moved[i].leaves) for i in subset(moved, 15, 0, Side.SAMPLES)) == wanted
    assert subset(shapes, 15, 1, Side.SAMPLES) != chosen
    assert subset(shapes, 15, 0, Side.REFERENCE) != chosen
    assert subset(shapes, 40, 0, Side.SAMPLES) == list(range(40))
    smaller = subset(shapes, 10, 0, Side.SAMPLES)
    assert set(smaller) < set(chosen)


def test_every_shape_of_a_larger_set_is_as_likely():
    shapes = blocks(12, seed=2)
    counts = np.zeros(12)
    for seed in range(300):
        counts[subset(shapes, 4, seed, Side.SAMPLES)] += 1
    # A draw of 4 of 12 has variance (1/3)(2/3) a shape; 5 standard deviations of 300 draws.
    assert abs(counts - 100).max() < 5 * np.sqrt(300 * 2 / 9)
