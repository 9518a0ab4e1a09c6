"""The nearest training shape, found for all at once, against one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.evaluation.shapes.novelty import Training
from ddimx.octree import geometry
from ddimx.octree.errors import OctreeError
from ddimx.octree.tree import from_leaves
from tests.evaluation.shapes import block, blocks


@st.composite
def sets_of_trees(draw):
    """Trees of one depth, crowded enough to overlap."""
    depth = draw(st.integers(1, 3))
    leaves = st.lists(st.integers(0, 8**depth - 1), min_size=1, max_size=40)
    return [from_leaves(np.array(keys), depth) for keys in draw(st.lists(leaves, min_size=2))]


@given(sets_of_trees())
def test_overlaps_are_the_ious_of_every_pair(trees):
    first, *train = trees
    found = Training(train).overlaps(first)
    expected = [geometry.iou(first, tree) for tree in train]
    np.testing.assert_array_equal(found, expected)
    assert Training(train).nearest(first) == (max(expected), expected.index(max(expected)))


def test_a_copy_and_a_moved_copy_are_found():
    chair = block((1, 2, 3), (2, 5, 4))
    training = Training([*blocks(6, seed=0), chair])
    assert training.nearest(chair) == (1.0, 6)
    for quarters in range(4):
        for tree in (chair, geometry.mirrored(chair, 0), geometry.mirrored(chair, 2)):
            moved = geometry.turned(tree, quarters)
            assert training.nearest_moved(moved) == 1.0
    assert training.nearest(geometry.mirrored(chair, 0))[0] < 1.0
    assert training.nearest_moved(geometry.mirrored(chair, 1)) < 1.0  # upside down is another


def test_overlap_worked_out_by_hand():
    """Blocks of 8 and 16 cells that share 4: IoU 4 / 20."""
    training = Training([block((1, 0, 0), (4, 2, 2)), block((9, 9, 9), (2, 2, 2))])
    assert training.overlaps(block((0, 0, 0), (2, 2, 2))).tolist() == [4 / 20, 0.0]


def test_depths_must_agree():
    with pytest.raises(OctreeError, match="one common depth"):
        Training([block((0, 0, 0), (1, 1, 1), 3), block((0, 0, 0), (1, 1, 1), 4)])
    with pytest.raises(OctreeError, match="at least one"):
        Training([])
    with pytest.raises(OctreeError, match="of depth 3, training's of 4"):
        Training(blocks(2, 0)).nearest(block((0, 0, 0), (1, 1, 1), 3))
