"""Ragged batches: who is whose neighbour, which order, and Morton keys in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.models.octree.network import cut
from ddimx.models.octree.tokens import NEIGHBORHOOD, Cache, Layout, _gather, _spread
from ddimx.octree.geometry import neighbors
from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.tree import from_leaves

from .small import level_of, tokens_of, tree, trees


@given(st.integers(0, 2**32 - 1))
def test_morton_helpers_agree_with_the_keys_of_octrees_up_to_the_last_token_level(seed):
    cells = np.random.default_rng(seed).integers(0, 2**10, (100, 3))
    cells[:2] = [[0, 0, 0], [1023, 1023, 1023]]
    x, y, z = (_spread(torch.from_numpy(cells[:, axis].copy())) for axis in range(3))
    keys = (x << 2) | (y << 1) | z
    assert np.array_equal(keys.numpy(), keys_of(cells))
    back = torch.stack([_gather(keys >> s) for s in (2, 1, 0)], dim=-1)
    assert np.array_equal(back.numpy(), cells)


def test_the_layout_says_of_each_token_whose_it_is():
    keys = torch.tensor([0, 0, 1, 5, 0, 3, 8])
    layout = Layout.of(keys, np.array([[1, 3, 0], [1, 1, 1]]), first=2)
    assert layout.shape.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert layout.level.tolist() == [2, 3, 3, 3, 2, 3, 4]
    assert layout.row.tolist() == [0, 1, 1, 1, 3, 4, 5]
    assert (layout.batch, layout.levels, len(layout)) == (2, range(2, 5), 7)


@pytest.mark.parametrize("depth", [1, 3, 6, 10])
def test_neighbors_are_those_of_the_octree_within_shape_and_level(depth):
    shapes = [tree(1, 1, depth), tree(2, 200, depth), tree(3, 9, depth)]
    # A dense corner, without which random cells of a fine grid hardly ever touch.
    shapes.append(from_leaves(np.arange(min(8**depth, 512)), depth))
    tokens = tokens_of(shapes)
    layout = tokens.layout
    assert np.array_equal(
        layout.cells.numpy(),
        np.concatenate([cells_of(keys) for s in shapes for keys in s.keys[:-1]]),
    )
    start, expected = 0, []
    for shape in shapes:
        for level in range(depth):
            found = neighbors(shape.keys[level], level, NEIGHBORHOOD.numpy())
            expected.append(np.where(found < 0, len(layout), found + start))
            start += len(found)
    assert np.array_equal(layout.neighbors.numpy(), np.concatenate(expected))
    assert layout.neighbors[:, 13].tolist() == list(range(len(layout)))  # itself, in the middle


def test_cutting_keeps_the_coarser_levels_of_every_shape():
    shapes = trees()
    whole, part = tokens_of(shapes, t=3.0), cut(tokens_of(shapes, t=3.0), 2)
    expected = tokens_of([shape.coarser(2) for shape in shapes])
    for name in ("keys", "level", "shape", "row"):
        assert torch.equal(getattr(part.layout, name), getattr(expected.layout, name)), name
    assert torch.equal(part.ids, expected.ids)
    assert np.array_equal(part.layout.counts, expected.layout.counts)
    assert part.t.shape == (3, 2)
    assert len(cut(whole, 0).layout) == 0


def test_a_joined_cache_is_sorted_by_shape_then_level():
    shapes = trees()
    tokens = tokens_of(shapes)
    number = torch.arange(len(tokens.layout)).float()[:, None, None]  # each token bears its place
    cache = None
    for level in range(3):
        own = number[tokens.layout.level == level]
        layer = Cache(((own, -own),), level_of(tokens, level).layout.counts)
        cache = layer if cache is None else cache.joined(layer)
    (keys, values), *_ = cache.layers
    assert torch.equal(keys, number)
    assert torch.equal(values, -number)
    assert np.array_equal(cache.counts, tokens.layout.counts)
