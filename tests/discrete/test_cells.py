"""Ragged batches of octrees: their cells, children and way back to trees."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.discrete.cells import Cells, Level, children, levels_of, octrees, root
from ddimx.errors import DdimxError
from ddimx.octree.tree import from_leaves

TREES = st.lists(
    st.lists(st.integers(0, 8**4 - 1), min_size=1, max_size=40), min_size=1, max_size=5
)


def trees_of(leaves):
    return [from_leaves(np.array(keys), 4) for keys in leaves]


@given(leaves=TREES)
def test_levels_hold_every_trees_cells(leaves):
    trees = trees_of(leaves)
    levels = levels_of(trees)
    for d, (cells, ids) in enumerate(levels):
        assert cells.level == d
        assert len(cells) == len(ids) == sum(tree.counts[d] for tree in trees)
        assert cells.counts.tolist() == [tree.counts[d] for tree in trees]
        for b, tree in enumerate(trees):
            mine = slice(int(cells.offsets[b]), int(cells.offsets[b + 1]))
            assert (cells.keys[mine].numpy() == tree.keys[d]).all()
            assert (ids[mine].numpy() == tree.masks[d]).all()
            assert (cells.sample[mine] == b).all()


@given(leaves=TREES)
def test_children_are_the_next_level(leaves):
    trees = trees_of(leaves)
    levels = levels_of(trees)
    start = root(len(trees))
    for name in ("keys", "sample", "offsets"):
        assert torch.equal(getattr(start, name), getattr(levels[0].cells, name))
    for above, below in itertools.pairwise(levels):
        found = children(above)
        assert found.level == below.cells.level
        for name in ("keys", "sample", "offsets"):
            assert torch.equal(getattr(found, name), getattr(below.cells, name))
        counts = tuple(below.cells.counts.tolist())
        assert found.sizes == below.cells.sizes == found.host_counts() == counts
    leaves_of_all = children(levels[-1])
    assert np.array_equal(leaves_of_all.keys, np.concatenate([tree.leaves for tree in trees]))


@given(leaves=TREES)
def test_trees_come_back(leaves):
    trees = trees_of(leaves)
    for found, exact in zip(octrees(levels_of(trees)), trees, strict=True):
        assert found.depth == 4
        assert all(np.array_equal(a, b) for a, b in zip(found.masks, exact.masks, strict=True))
        assert found.masks[0].dtype == np.uint8


def test_every_mask_has_its_own_children():
    keys = torch.arange(255) * 3
    offsets = torch.tensor([0, 100, 255])
    sample = (torch.arange(255) >= 100).long()
    found = children(Level(Cells(3, keys, sample, offsets), torch.arange(1, 256).to(torch.uint8)))
    exact = [3 * (m - 1) * 8 + c for m in range(1, 256) for c in range(8) if m >> c & 1]
    assert found.keys.tolist() == exact
    assert len(found) == 4 * 256
    assert int(found.offsets[1]) == sum(bin(m).count("1") for m in range(1, 101))
    assert Cells(3, keys, sample, offsets).host_counts() == (100, 155)


def test_a_masked_token_stops_the_run_with_what_to_do():
    cells = levels_of([from_leaves(np.array([0, 511]), 3)])[1].cells
    with pytest.raises(DdimxError, match=r"level 1: the network gave 1 of 2 tokens no id.*NaN"):
        children(Level(cells, torch.tensor([3, 0], dtype=torch.uint8)))


def test_levels_out_of_order_and_trees_of_several_depths_are_refused():
    levels = levels_of(trees_of([[1, 2]]))
    for wrong in ([], levels[1:], levels[::-1]):
        with pytest.raises(ValueError, match="levels 0, 1"):
            octrees(wrong)
    with pytest.raises(ValueError, match="one depth"):
        levels_of([from_leaves(np.array([1]), 2), from_leaves(np.array([1]), 3)])
    with pytest.raises(ValueError, match="one depth"):
        levels_of([])
