"""Octree decoding on a CUDA device: no waiting, replayed graphs, sizes of real batches."""

import pytest
import torch

from ddimx.kernels.octree_decode import octree_decode
from tests.kernels.octree_decode_cases import Batch, random_batch
from tests.octree.shapes import sphere

pytestmark = pytest.mark.gpu


def arguments(batch):
    return batch.tokens().cuda(), batch.offsets().cuda(), batch.depth


@pytest.mark.parametrize(
    "batch",
    [Batch([sphere(8)]), random_batch(0, 6, 3000, 900), random_batch(1, 6, 500, 3000, cube=True)],
    ids=["a deep sphere", "thousands", "cubes"],
)
def test_large_batches_are_exact(batch):
    lower, edge = (value if value is None else value.cuda() for value in batch.cubes())
    found = octree_decode(*arguments(batch), leaves=batch.leaves, lower=lower, edge=edge)
    batch.check(found)


def test_the_host_does_not_wait():
    batch = random_batch(2, 6, 50, 900)
    given = arguments(batch)
    octree_decode(*given, leaves=batch.leaves)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = octree_decode(*given, leaves=batch.leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    batch.check(found)


def test_a_captured_decoding_is_replayed_for_other_trees_of_as_many_tokens():
    first = random_batch(3, 5, 8, 500)
    other = Batch(first.trees[::-1])
    tokens, offsets, depth = arguments(first)
    octree_decode(tokens, offsets, depth, leaves=first.leaves)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = octree_decode(tokens, offsets, depth, leaves=first.leaves)
    for batch in (first, other):
        tokens.copy_(batch.tokens())
        offsets.copy_(batch.offsets())
        graph.replay()
        batch.check(found)


def test_a_hundred_million_tokens():
    """The same trees many times over: every copy decodes to the same leaves."""
    batch = Batch([sphere(8)])
    copies = 250
    tokens = batch.tokens().cuda().repeat(copies)
    offsets = torch.arange(copies + 1, device="cuda") * len(batch.tokens())
    found = octree_decode(tokens, offsets, 8, leaves=copies * batch.leaves)
    assert found.valid.all()
    keys = torch.from_numpy(batch.trees[0].leaves).cuda()
    assert (found.keys.view(copies, -1) == keys).all()
    owners = torch.arange(copies, device="cuda", dtype=torch.int32)
    assert (found.tree.view(copies, -1) == owners[:, None]).all()


def test_triton_and_the_reference_agree_on_the_device():
    batch = random_batch(4, 7, 20, 2000)
    ours = octree_decode(*arguments(batch), leaves=batch.leaves, impl="triton")
    theirs = octree_decode(*arguments(batch), leaves=batch.leaves, impl="reference")
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
