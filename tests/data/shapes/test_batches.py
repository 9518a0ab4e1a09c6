"""Batches of octrees: augmented by keyed draws, at the model's depth, laid out flat."""

import numpy as np
import pytest
import torch

from ddimx.data.shapes.batches import ShapeBatches, packed, transformed
from ddimx.data.shapes.octrees import ShapeSource
from ddimx.noise import Noise
from ddimx.octree.geometry import mirrored
from ddimx.octree.tree import Octree, from_leaves
from tests.models.octree.small import octree_config, tree

from .prepared import chair, table, write_set, write_variants

STILL = np.ones(3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ShapeSource(write_set(tmp_path_factory.mktemp("set")), "train")


def batches(source, seed=0, size=4, **data):
    return ShapeBatches(source, octree_config(data=data).data, Noise(seed), size)


def same(a, b):
    return np.array_equal(a.leaves, b.leaves) and a.depth == b.depth


def trees_of(batch, depth=3):
    """The trees of a batch, read back from its flat layout."""
    shapes, start = [], 0
    for counts in batch["counts"].tolist():
        masks = []
        for n in counts:
            masks.append(batch["ids"][start : start + n].numpy())
            start += n
        shapes.append(Octree(tuple(masks)))
    assert start == len(batch["ids"]) == len(batch["keys"])
    keys = np.concatenate([k for shape in shapes for k in shape.keys[:depth]])
    assert np.array_equal(batch["keys"].numpy(), keys)
    return shapes


def test_a_batch_holds_the_shapes_of_its_positions_cut_to_the_models_depth(source):
    made = batches(source, size=3)
    positions, batch = made.batch(2)
    assert positions.tolist() == [6, 7, 8]
    indices = made.order.indices(positions.numpy())
    expected = [source.trees[i].coarser(3) for i in indices]
    assert all(same(a, b) for a, b in zip(trees_of(batch), expected, strict=True))
    assert batch["label"].tolist() == source.labels[indices].tolist()
    assert (batch["ids"].dtype, batch["keys"].dtype) == (torch.uint8, torch.int64)


def test_an_epoch_visits_every_shape_once(source):
    order = batches(source).order
    assert sorted(order.indices(np.arange(5, 10))) == [0, 1, 2, 3, 4]


def test_an_epoch_visits_a_family_once_by_any_of_its_variants(tmp_path):
    variants = ShapeSource(write_variants(tmp_path), "train")
    order = batches(variants, balance="family").order
    epochs = [sorted(order.indices(np.arange(2 * i, 2 * i + 2))) for i in range(30)]
    assert {last for _, last in epochs} == {3}  # the table
    assert {first for first, _ in epochs} == {0, 1, 2}
    assert sorted(batches(variants).order.indices(np.arange(4))) == [0, 1, 2, 3]


def test_where_there_are_no_families_each_shape_is_one(source):
    order = batches(source, balance="family").order
    assert sorted(order.indices(np.arange(5, 10))) == [0, 1, 2, 3, 4]


def test_flips_and_scales_belong_to_position_and_step_and_not_to_the_batch(source):
    options = {"random_flip": True, "random_scale": 0.3}
    whole, halves = (batches(source, size=n, **options) for n in (4, 2))
    # The draws' row is the step, so that the first step alone has the same positions in both.
    assert all(
        same(a, b)
        for a, b in zip(trees_of(whole.batch(0)[1])[:2], trees_of(halves.batch(0)[1]), strict=True)
    )
    again = batches(source, size=4, **options).batch(3)[1]
    assert torch.equal(again["ids"], whole.batch(3)[1]["ids"])
    other = batches(source, seed=1, size=4, **options).batch(3)[1]
    assert not torch.equal(other["keys"], again["keys"])


def test_half_of_the_shapes_are_mirrored(source):
    made, flipped = batches(source, size=50, random_flip=True), 0
    for step in range(4):
        positions, batch = made.batch(step)
        for tree_, i in zip(trees_of(batch), made.order.indices(positions.numpy()), strict=True):
            plain = source.trees[i].coarser(3)
            assert same(tree_, plain) or same(tree_, mirrored(plain, 0))
            if source.labels[i] == 0:  # chairs are no mirror images of themselves
                flipped += 1 if not same(tree_, plain) else -1
    assert abs(flipped) < 4 * 120**0.5


@pytest.mark.parametrize("depth", [4, 3])
def test_mirroring_is_exact_at_every_depth(depth):
    shape = tree(3, 100, 4)
    expected = mirrored(shape, 0).coarser(depth)
    assert same(transformed(shape, depth, mirror=True, scale=STILL), expected)
    twice = transformed(
        transformed(shape, 4, mirror=True, scale=STILL), 4, mirror=True, scale=STILL
    )
    assert same(twice, shape)


def test_scaling_keeps_the_longest_axis_and_shrinks_the_others():
    n = 16
    cube = from_leaves(np.arange(8**4), 4)
    made = transformed(cube, 4, mirror=False, scale=np.array([1.2, 0.6, 1.2]))
    spans = np.ptp(made.centers(), axis=0) * n + 1
    # Twice as flat as long: centers of 16 cells that are half a cell apart lie in 8 cells.
    assert spans.tolist() == [16, 8, 16]
    # Alike along all axes there is nothing to see: the cube is normalized again.
    assert same(transformed(cube, 4, mirror=False, scale=np.full(3, 0.8)), cube)


def test_scaling_from_a_finer_tree_leaves_no_holes_in_a_surface():
    fine = table(20, depth=5)
    made = transformed(fine, 4, mirror=False, scale=np.array([0.9, 1.1, 1.05]))
    top = made.centers()[:, 1].max()
    cells = made.centers()[made.centers()[:, 1] == top]
    spans = (np.ptp(cells[:, [0, 2]], axis=0) * 16 + 1).round().astype(int)
    assert len(cells) == spans.prod()


def test_a_shape_of_one_leaf_stays_where_it_is():
    """It has no extent to be brought back to."""
    one = from_leaves(np.array([5]), 3)
    made = transformed(one, 3, mirror=False, scale=np.array([0.9, 1.0, 1.2]))
    assert same(made, one)


def test_packing_lays_shapes_level_by_level_one_after_the_other():
    shapes = [chair(3), table(6)]
    batch = packed(shapes)
    assert batch["counts"].tolist() == [list(shape.counts[:-1]) for shape in shapes]
    assert all(same(a, b) for a, b in zip(trees_of(batch, 4), shapes, strict=True))
