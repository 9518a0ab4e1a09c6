"""The Triton decoding against NumPy's trees: in the interpreter, or on a card if there is one."""

import numpy as np
import pytest
import torch
from hypothesis import given

from ddimx.kernels.octree_decode import Decoded, launch, octree_decode
from tests.conftest import examples
from tests.kernels.inside import start_inside
from tests.kernels.octree_decode_cases import BROKEN, Batch, batches, broken, random_batch
from tests.octree.shapes import sphere

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GUARD = 16  # elements on either side of every tensor that is written
POISON = -123456789


def guarded(size, dtype):
    """Return a tensor full of nonsense inside a larger one, and the larger one."""
    nonsense = float("nan") if dtype.is_floating_point else POISON
    fill = True if dtype == torch.bool else nonsense
    around = torch.full((size + 2 * GUARD,), fill, dtype=dtype, device=DEVICE)
    return around[GUARD : GUARD + size], around


def run(tokens, offsets, depth, leaves, lower=None, edge=None):
    """Decode into guarded, poisoned memory; return the results after looking at the guards."""
    tokens, offsets = tokens.to(DEVICE), offsets.to(DEVICE)
    trees = len(offsets) - 1
    kinds = [("keys", leaves, torch.int64), ("tree", leaves, torch.int32)]
    kinds += [("centers", 3 * leaves, torch.float32), ("half", trees, torch.float32)]
    kinds += [("valid", trees, torch.bool)]
    rooms = {name: guarded(size, dtype) for name, size, dtype in kinds}
    results = Decoded(**{name: inside for name, (inside, _) in rooms.items()})
    results = results._replace(centers=results.centers.view(-1, 3))
    cube = [value if value is None else value.to(DEVICE) for value in (lower, edge)]
    launches = launch.prepare(tokens, offsets, depth, results, *cube)
    for name in ("up", "sums", "tiles"):
        size = max(len(each.arguments[name]) for each in launches if name in each.arguments)
        rooms[name] = guarded(size, torch.int32)
        for each in launches:
            if name in each.arguments:
                each.arguments[name] = rooms[name][0]
    for each in launches:
        start_inside(each, launch.start)
    for name, (_, around) in rooms.items():
        fresh = guarded(0, around.dtype)[1]
        for edge_of in (around[:GUARD], around[-GUARD:]):
            assert torch.equal(edge_of.nan_to_num(7.0), fresh[:GUARD].nan_to_num(7.0)), name
    return results


@given(batches())
@examples(15)
def test_the_leaves_are_those_of_the_trees(batch):
    lower, edge = batch.cubes()
    found = run(batch.tokens(), batch.offsets(), batch.depth, batch.leaves, lower, edge)
    batch.check(found)


@pytest.mark.parametrize(
    "batch",
    [
        Batch([sphere(5)]),  # several tiles of one tree
        random_batch(0, 5, 3, 900),  # trees that begin inside tiles and reach over them
        random_batch(1, 1, 1500, 1),  # more trees than leaves of a program, as many as tokens / 2
        random_batch(2, 7, 1, 1),
        Batch([*random_batch(5, 4, 1, 900).trees, *random_batch(6, 4, 200, 3).trees]),
    ],
    ids=["sphere", "over tiles", "tiny", "a chain", "mixed sizes"],
)
def test_tiles_and_trees_of_all_sizes(batch):
    batch.check(run(batch.tokens(), batch.offsets(), batch.depth, batch.leaves))


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_streams_that_end_at_a_tiles_end(extra):
    """Trees of 2 tokens and one of 3, so that lengths are at and about a multiple of the tile."""
    small = random_batch(0, 1, 1, 1).trees[0]
    pairs = launch.TILE // 2 + extra
    batch = Batch([small] * pairs)
    batch.check(run(batch.tokens(), batch.offsets(), 1, pairs))


def test_more_tiles_than_the_scan_takes_at_once():
    sums = torch.randint(0, 8 * launch.TILE, (2 * launch.CHUNK + 37,), dtype=torch.int32)
    tiles = sums.to(DEVICE, copy=True)
    constants = {"CHUNK": launch.CHUNK}
    launch.start(
        launch.DecodeLaunch("scan_tiles", {"tiles": tiles, "count": len(sums)}, constants, 1, 8)
    )
    assert torch.equal(tiles.cpu(), (sums.cumsum(0) - sums).int())


@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_are_flagged_and_touch_nothing_else(name):
    tokens, offsets, depth, leaves, wrong = broken(name)
    found = run(tokens, offsets, depth, leaves)
    assert not found.valid.cpu()[wrong].any()


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_touch_nothing_else(seed):
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(0, 256, 300).astype(np.uint8))
    offsets = torch.tensor([0, *np.sort(rng.integers(0, 300, 5)), 300])
    found = run(tokens, offsets, 4, 200)
    assert not found.valid.cpu().all()


@pytest.mark.parametrize("offsets", [[-5, 300], [0, 10**6], [7, 3, 900, 2]])
def test_offsets_that_lie_touch_nothing_else(offsets):
    tokens = torch.ones(300, dtype=torch.uint8)
    run(tokens, torch.tensor(offsets), 3, 100)


def test_a_decoding_is_four_launches_whatever_the_depth_and_the_number_of_trees(monkeypatch):
    started = []
    real = launch.start
    monkeypatch.setattr(launch, "start", lambda each: (started.append(each.name), real(each)))
    for batch in (random_batch(0, 2, 1, 3), random_batch(0, 8, 1, 9), random_batch(0, 1, 600, 2)):
        started.clear()
        arguments = batch.tokens().to(DEVICE), batch.offsets().to(DEVICE), batch.depth
        octree_decode(*arguments, leaves=batch.leaves, impl="triton")
        assert started == ["sum_tiles", "scan_tiles", "place_children", "decode_leaves"]


def test_preparing_reads_nothing():
    """Meta tensors hold no numbers: a host that asked for one would fail."""
    tokens = torch.empty(5000, dtype=torch.uint8, device="meta")
    offsets = torch.empty(4, dtype=torch.int64, device="meta")
    launches = launch.prepare(tokens, offsets, 6, launch.empty(tokens, 3, 3500), None, None)
    assert [each.grid for each in launches] == [5, 1, 5, 14]


def test_tokens_may_be_a_strided_view():
    batch = random_batch(9, 4, 3, 60)
    wide = torch.stack([batch.tokens(), batch.tokens() * 0], dim=1).to(DEVICE)
    found = octree_decode(
        wide[:, 0], batch.offsets().to(DEVICE), 4, leaves=batch.leaves, impl="triton"
    )
    batch.check(found)
