"""Neighbors, connected parts, overlap and symmetries against plain loops and known shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.octree.errors import OctreeError
from ddimx.octree.geometry import (
    OFFSETS_6,
    OFFSETS_26,
    components,
    indices,
    iou,
    largest_share,
    mirrored,
    neighbors,
    pieces,
    turned,
)
from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.tree import from_leaves

from .shapes import sphere, trees


def of_cells(cells, depth):
    return from_leaves(keys_of(np.array(cells)), depth)


def parts_by_flood(cells, steps):
    """Connected parts as sets, by a flood fill over Python sets."""
    left, parts = {tuple(c) for c in cells}, []
    while left:
        part, front = set(), [left.pop()]
        while front:
            cell = front.pop()
            part.add(cell)
            reached = {tuple(np.add(cell, step)) for step in steps} & left
            left -= reached
            front += reached
        parts.append(part)
    return parts


def test_there_are_26_and_6_neighbors_and_each_ones_opposite_stands_at_the_mirrored_place():
    for offsets, count in ((OFFSETS_26, 26), (OFFSETS_6, 6)):
        assert len({tuple(o) for o in offsets}) == count
        np.testing.assert_array_equal(offsets, -offsets[::-1])
    assert np.abs(OFFSETS_6).sum() == 6


@given(tree=trees())
def test_pieces_are_the_connected_parts(tree):
    for joined, offsets in ((26, OFFSETS_26), (6, OFFSETS_6), (26, OFFSETS_26[:13])):
        labels, _ = components(tree, joined)
        found = pieces(tree.leaves, tree.depth, offsets)
        assert len({*zip(labels.tolist(), found.tolist(), strict=True)}) == labels.max() + 1
        assert (found == [np.flatnonzero(labels == label)[0] for label in labels]).all()


@given(trees(most_depth=4))
def test_neighbors_are_those_that_a_dictionary_finds(tree):
    cells = [tuple(c) for c in cells_of(tree.leaves)]
    place = {cell: i for i, cell in enumerate(cells)}
    expected = [[place.get(tuple(np.add(c, o)), -1) for o in OFFSETS_26] for c in cells]
    np.testing.assert_array_equal(neighbors(tree.leaves, tree.depth), expected)


def test_the_grid_does_not_wrap_round():
    tree = of_cells([(0, 0, 0), (3, 3, 3), (3, 0, 0)], 2)
    assert (neighbors(tree.leaves, 2) == -1).all()


def test_the_last_cell_of_the_deepest_grid_has_neighbors_on_one_side_alone():
    last = 8**20 - 1
    found = neighbors(np.array([last - 1, last]), 20)
    assert found[1].tolist().count(-1) == 25
    assert OFFSETS_26[found[1] == 0].tolist() == [[0, 0, -1]]


@given(trees(most_depth=4), st.sampled_from([(6, OFFSETS_6), (26, OFFSETS_26)]))
def test_parts_are_those_of_a_flood_fill(tree, kind):
    connectivity, steps = kind
    cells = cells_of(tree.leaves)
    labels, sizes = components(tree, connectivity)
    expected = parts_by_flood(cells, steps)
    found = [{tuple(c) for c in cells[labels == part]} for part in range(len(sizes))]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    assert [len(part) for part in found] == sizes.tolist() == sorted(sizes, reverse=True)
    assert largest_share(tree, connectivity) == max(map(len, expected)) / len(cells)


def test_a_corner_joins_at_26_and_not_at_6():
    tree = of_cells([(0, 0, 0), (1, 1, 1)], 1)
    assert components(tree)[1].tolist() == [2]
    assert components(tree, 6)[1].tolist() == [1, 1]
    with pytest.raises(ValueError, match="expected 6 or 26"):
        components(tree, 18)


def test_a_long_thread_and_a_sphere_are_each_one_part():
    # A thread that turns at every end visits indices in an order unlike its own.
    cells = [(x, 2 * row, 0) for row in range(16) for x in range(32)]
    cells += [(31 if row % 2 == 0 else 0, 2 * row + 1, 0) for row in range(15)]
    assert components(of_cells(cells, 5), 6)[1].tolist() == [len(cells)]
    ball = sphere(5)
    assert largest_share(ball) == 1.0


def test_iou_of_known_sets():
    a, b = from_leaves(np.arange(0, 30), 2), from_leaves(np.arange(20, 50), 2)
    assert iou(a, b) == iou(b, a) == 10 / 50
    assert iou(a, a) == 1.0
    assert iou(a, from_leaves(np.arange(30, 40), 2)) == 0.0
    with pytest.raises(OctreeError, match="depth 2 and 3"):
        iou(a, from_leaves(np.arange(30), 3))


@given(trees(), st.integers(0, 2))
def test_mirroring_reflects_the_centers_and_undoes_itself(tree, axis):
    image = mirrored(tree, axis)
    flip = np.ones(3)
    flip[axis] = -1
    assert {tuple(c) for c in image.centers()} == {tuple(c) for c in tree.centers() * flip}
    np.testing.assert_array_equal(mirrored(image, axis).leaves, tree.leaves)


@given(trees(), st.integers(-5, 5))
def test_turning_rotates_the_centers_about_y(tree, quarters):
    angle = np.pi / 2 * quarters
    c, s = np.round(np.cos(angle)), np.round(np.sin(angle))
    rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    image = turned(tree, quarters)
    expected = {tuple(p) for p in tree.centers() @ rotation.T}
    assert {tuple(p) for p in image.centers()} == expected
    np.testing.assert_array_equal(turned(image, -quarters).leaves, tree.leaves)


def test_among_no_keys_none_is_found():
    none = np.zeros(0, dtype=np.int64)
    assert indices(none, np.array([0, 5])).tolist() == [-1, -1]
    assert indices(np.array([5]), none).tolist() == []
