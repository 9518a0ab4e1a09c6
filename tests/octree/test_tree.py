"""Trees and token streams: written by hand, by a queue over cells, and broken in every way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.octree import reference
from ddimx.octree.errors import OctreeError
from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.tree import PART, POPCOUNT, from_leaves, from_tokens

from .shapes import sphere, trees

# Cells by hand. Depth 2: the corner at the origin, its neighbor in z, and the opposite corner.
GOLDEN = {
    "one cell": ([(0, 0, 0)], 1, [0b00000001, 1]),
    "x is the highest bit": ([(1, 0, 0)], 1, [0b00010000, 1]),
    "y is the middle bit": ([(0, 1, 0)], 1, [0b00000100, 1]),
    "z is the lowest bit": ([(0, 0, 1)], 1, [0b00000010, 1]),
    "all eight": ([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], 1, [255] + [1] * 8),
    "two corners": ([(0, 0, 0), (0, 0, 1), (3, 3, 3)], 2, [0b10000001, 0b00000011, 128, 1, 1, 1]),
    "level by level": (
        [(0, 0, 3), (2, 1, 0), (2, 1, 1)],
        2,
        [0b00010010, 0b00000010, 0b00001100, 1, 1, 1],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_streams_by_hand(name):
    cells, depth, tokens = GOLDEN[name]
    tree = from_leaves(keys_of(np.array(cells)), depth)
    assert tree.tokens().tolist() == tokens
    assert reference.encode(cells, depth) == tokens
    read = from_tokens(np.array(tokens))
    assert read.depth == depth
    assert sorted(map(tuple, cells_of(read.leaves))) == sorted(cells)
    assert sorted(reference.decode(tokens, depth)) == sorted(cells)


@given(trees())
def test_the_queue_and_the_levels_write_the_same_stream_and_read_it_back(tree):
    cells = [tuple(cell) for cell in cells_of(tree.leaves).tolist()]
    tokens = tree.tokens()
    assert reference.encode(cells, tree.depth) == tokens.tolist()
    assert reference.decode(tokens.tolist(), tree.depth) == cells
    read = from_tokens(tokens, tree.depth)
    np.testing.assert_array_equal(read.leaves, tree.leaves)


@pytest.mark.parametrize("depth", range(1, 11))
def test_round_trips_are_exact_at_every_depth(depth):
    rng = np.random.default_rng(depth)
    cells = np.unique(rng.integers(0, 2**depth, (3000, 3)), axis=0)
    tree = from_leaves(keys_of(rng.permutation(cells)), depth)
    read = from_tokens(tree.tokens())
    assert read.depth == depth
    assert read.counts == tree.counts
    np.testing.assert_array_equal(np.unique(cells_of(read.leaves), axis=0), cells)
    for level, keys in enumerate(tree.keys):
        np.testing.assert_array_equal(keys, np.unique(tree.leaves >> 3 * (depth - level)))


def test_large_trees_are_worked_on_in_parts_that_join():
    rng = np.random.default_rng(0)
    cells = np.unique(rng.integers(0, 256, (3 * PART + 5, 3)), axis=0)
    tree = from_tokens(from_leaves(keys_of(cells), 8).tokens())
    order = np.argsort(keys_of(cells))
    np.testing.assert_array_equal(tree.leaves, keys_of(cells)[order])
    np.testing.assert_array_equal(tree.centers(), (cells[order] + 0.5) / 256 - 0.5)


def test_a_deep_sphere_has_the_cells_that_a_count_of_every_cell_finds():
    depth, n = 5, 32
    axis = np.arange(n) - n / 2
    near = np.maximum(np.maximum(axis, -axis - 1), 0) ** 2
    far = np.maximum(np.abs(axis), np.abs(axis + 1)) ** 2

    def summed(v):
        return v[:, None, None] + v[None, :, None] + v[None, None, :]

    met = (summed(near) <= (n / 2) ** 2) & (summed(far) >= (n / 2) ** 2)
    np.testing.assert_array_equal(sphere(depth).leaves, np.sort(keys_of(np.argwhere(met))))


def test_centers_and_counts():
    tree = from_leaves(np.array([0, 63]), 2, lower=(1.0, 2.0, 3.0), edge=4.0)
    assert tree.counts == (1, 2, 2)
    assert tree.centers().tolist() == [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]
    assert tree.centers(0).tolist() == [[3.0, 4.0, 5.0]]
    with pytest.warns(DeprecationWarning, match="now Octree.centers"):
        assert tree.centres(0).tolist() == [[3.0, 4.0, 5.0]]
    assert POPCOUNT[[0, 1, 255, 0b1010]].tolist() == [0, 1, 8, 2]


@given(trees(), st.data())
def test_a_coarser_tree_has_the_parents(tree, data):
    depth = data.draw(st.integers(1, tree.depth))
    cut = tree.coarser(depth)
    expected = np.unique(tree.leaves >> 3 * (tree.depth - depth))
    np.testing.assert_array_equal(cut.leaves, expected)
    with pytest.raises(OctreeError, match=f"depth {tree.depth + 1} is not within"):
        tree.coarser(tree.depth + 1)


BROKEN = {
    "no tokens": ([], None, "no tokens (level 0, token 0)"),
    "a root alone": ([1], None, "nothing but a root (level 0, token 0)"),
    "a zero": ([3, 1, 0, 1], None, "token 0 is a cell without children (level 1, token 2)"),
    "a zero at the end": ([3, 1, 1, 1, 0], None, "leaf token 0 is not 1 (level 2, token 4)"),
    "256": ([3, 256, 1, 1], None, "token 256 is outside 1..255 (level 1, token 1)"),
    "negative": ([-1, 1], None, "token -1 is outside 1..255 (level 0, token 0)"),
    "truncated": ([255, 1, 1], None, "says 8 cells, 2 tokens are left (level 1, token 3)"),
    "too long": ([1, 1, 1, 1, 2], None, "leaf token 2 is not 1 (level 4, token 4)"),
    "counts": ([3, 1, 1, 1, 1, 1], None, "says 2 cells, 1 tokens are left (level 3, token 6)"),
    "a leaf": ([3, 1, 2], None, "leaf token 2 is not 1 (level 1, token 2)"),
    "deeper": ([1, 1, 1], 1, "of depth 2, not 1 (level 2)"),
    "shallower": ([1, 1], 5, "of depth 1, not 5 (level 1)"),
    "no depth": ([1, 1], 0, "depth 0 is not within 1..20"),
    "a depth past keys": ([1, 1], 21, "depth 21 is not within 1..20"),
    "a tree past keys": ([1] * 22, None, "deeper than 20 levels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_are_refused_with_the_place(name):
    tokens, depth, message = BROKEN[name]
    with pytest.raises(OctreeError) as caught:
        from_tokens(np.array(tokens, dtype=np.int64), depth)
    assert message in str(caught.value)


def test_the_deepest_tree_is_read():
    assert from_tokens(np.ones(21, dtype=np.uint8)).leaves.tolist() == [0]
    assert from_tokens(np.array([128] * 20 + [1])).leaves.tolist() == [8**20 - 1]


@pytest.mark.parametrize("tokens", [np.array([1.0, 1.0]), np.ones((1, 2), int), np.array([True])])
def test_only_integers_in_a_row_are_tokens(tokens):
    with pytest.raises(OctreeError, match="expected integers"):
        from_tokens(tokens)


@given(trees(most_depth=3, most=20), st.data())
def test_no_changed_byte_passes_as_another_length_of_tree(tree, data):
    """A changed stream is refused, or is a tree that writes exactly that stream."""
    tokens = tree.tokens().astype(np.int64)
    tokens[data.draw(st.integers(0, len(tokens) - 1))] = data.draw(st.integers(-1, 256))
    cut = data.draw(st.integers(0, len(tokens)))
    try:
        read = from_tokens(tokens[:cut])
    except OctreeError as error:
        refused = error
    else:
        refused = None
    if refused:
        assert refused.index is None or 0 <= refused.index <= cut
    else:
        np.testing.assert_array_equal(read.tokens(), tokens[:cut])
        assert len(reference.decode(tokens[:cut].tolist(), read.depth)) == read.counts[-1]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([3, 1, 1, 1], "ends early (level 2, token 4)"),
        ([3, 1, 1, 1, 1, 1], "goes on after its last leaf (level 2, token 5)"),
        ([3, 0, 1, 1, 1], "token 0 is not allowed here (level 1, token 1)"),
        ([1, 1, 2], "token 2 is not allowed here (level 2, token 2)"),
    ],
)
def test_the_queue_refuses_what_is_no_tree(tokens, message):
    with pytest.raises(OctreeError) as caught:
        reference.decode(tokens, 2)
    assert message in str(caught.value)


def test_leaves_may_come_in_any_order_and_more_than_once():
    expected = from_leaves(np.array([0, 9, 500]), 3).tokens()
    for keys in ([500, 0, 9], [0, 0, 9, 9, 9, 500], [9, 500, 9, 0]):
        np.testing.assert_array_equal(from_leaves(np.array(keys), 3).tokens(), expected)


def test_leaves_outside_the_grid_and_none_at_all_are_refused():
    for keys, depth, message in [
        ([], 3, "at least one occupied cell"),
        ([8], 1, "outside the grid of 2\\^3"),
        ([-1], 1, "outside the grid"),
        ([0], 0, "depth 0"),
        ([0], 21, "depth 21"),
    ]:
        with pytest.raises(OctreeError, match=message):
            from_leaves(np.array(keys, dtype=np.int64), depth)
