"""Octree decoding in PyTorch: against NumPy's trees, by hand, on broken streams, as an operator."""

import pytest
import torch
from hypothesis import given

from ddimx.kernels.octree_decode import count_leaves, host, octree_decode, reference
from ddimx.kernels.octree_decode.op import octree_decode_op, options
from tests.conftest import examples
from tests.kernels.octree_decode_cases import BROKEN, Batch, batches, broken, random_batch
from tests.kernels.test_octree_decode_kernel import DEVICE
from tests.octree.shapes import sphere

CPU = torch.device("cpu")


@given(batches())
@examples(30)
def test_the_leaves_are_those_of_the_trees(batch):
    lower, edge = batch.cubes()
    tokens, offsets = batch.tokens(), batch.offsets()
    assert count_leaves(tokens, offsets) == batch.leaves
    arguments = {"depth": batch.depth, "lower": lower, "edge": edge}
    for impl in ("reference", "numpy"):
        batch.check(octree_decode(tokens, offsets, **arguments, impl=impl))
    other = octree_decode(tokens, offsets, **arguments, impl="reference")
    for a, b in zip(octree_decode(tokens, offsets, **arguments), other, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


def test_two_trees_by_hand():
    # Depth 2: the corner at the origin, its neighbour in z and the opposite corner; then a cell
    # at x = 2, y = 1, z = 3 of a cube of edge 8 that begins at (10, 20, 30).
    tokens = [0b10000001, 0b00000011, 0b10000000, 1, 1, 1]
    tokens += [0b00100000, 0b00001000, 1]
    found = octree_decode(
        torch.tensor(tokens, dtype=torch.uint8),
        torch.tensor([0, 6, 9]),
        2,
        leaves=4,
        lower=torch.tensor([[0.0, 0, 0], [10, 20, 30]]),
        edge=torch.tensor([4.0, 8.0]),
    )
    assert found.keys.tolist() == [0, 1, 0o77, 0o53]
    assert found.tree.tolist() == [0, 0, 0, 1]
    assert found.centers[:3].tolist() == [[0.5, 0.5, 0.5], [0.5, 0.5, 1.5], [3.5, 3.5, 3.5]]
    assert found.centers[3].tolist() == [15.0, 23.0, 37.0]
    assert found.half.tolist() == [0.5, 1.0]
    assert found.valid.tolist() == [True, True]


@pytest.mark.parametrize("depth", [1, 5])
def test_one_sphere(depth):
    batch = Batch([sphere(depth)])
    batch.check(octree_decode(batch.tokens(), batch.offsets(), depth))


def test_the_deepest_chain():
    tokens = torch.tensor([128] * 20 + [1], dtype=torch.uint8)
    found = octree_decode(tokens, torch.tensor([0, 21]), 20)
    assert found.keys.tolist() == [8**20 - 1]


def test_no_trees_are_no_leaves():
    found = octree_decode(torch.empty(0, dtype=torch.uint8), torch.tensor([0]), 3)
    assert [len(part) for part in found] == [0, 0, 0, 0, 0]


def test_a_tree_without_tokens_is_not_valid():
    found = reference.decode(torch.empty(0, dtype=torch.uint8), torch.tensor([0, 0, 0]), 3, 0)
    assert found.valid.tolist() == [False, False]


def test_offsets_that_end_early_are_an_answer_and_no_error():
    """On a device nobody looks at the offsets first."""
    tokens = torch.tensor([3, 1, 1, 1, 1, 9, 9], dtype=torch.uint8)
    found = reference.decode(tokens, torch.tensor([0, 3, 5]), 1, 3)
    assert found.keys.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_streams_are_flagged_and_refused(name):
    tokens, offsets, depth, leaves, wrong = broken(name)
    valid = reference.decode(tokens, offsets, depth, leaves).valid
    assert not valid[wrong].any()
    assert host.decode(tokens, offsets, depth, leaves) is None
    with pytest.raises(ValueError, match=f"not an octree of depth {depth}"):
        octree_decode(tokens, offsets, depth, leaves=leaves)


def small(**changed):
    arguments = {
        "tokens": torch.tensor([3, 1, 1], dtype=torch.uint8),
        "offsets": torch.tensor([0, 3]),
        "depth": 1,
        "leaves": 2,
    }
    return arguments | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": torch.tensor([3, 1, 1])}, "expected uint8"),
        ({"tokens": torch.ones(1, 3, dtype=torch.uint8)}, r"expected uint8 \[L\]"),
        ({"tokens": torch.empty(2**28, dtype=torch.uint8, device="meta")}, "split them"),
        ({"offsets": torch.tensor([0, 3], dtype=torch.int32)}, "expected int64"),
        ({"offsets": torch.empty(0, dtype=torch.int64)}, r"expected int64 \[B \+ 1\]"),
        ({"offsets": torch.tensor([0, 2])}, "do not ascend from 0 to the 3 tokens"),
        ({"offsets": torch.tensor([1, 3])}, "do not ascend"),
        ({"offsets": torch.tensor([0, 4, 3])}, "do not ascend"),
        ({"depth": 0}, "within 1..20"),
        ({"depth": 21}, "within 1..20"),
        ({"leaves": 4}, "4 leaves cannot be"),
        ({"leaves": -1}, "-1 leaves cannot be"),
        ({"edge": torch.ones(1)}, "give both or none"),
        ({"edge": torch.ones(2), "lower": torch.ones(1, 3)}, "edge is"),
        ({"edge": torch.ones(1), "lower": torch.ones(1, 3).double()}, "lower is torch.float64"),
        ({"offsets": torch.tensor([0, 3], device="meta")}, "offsets is on meta"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        octree_decode(**small(**changed))


@pytest.mark.parametrize("impl", ["numpy", "reference", "triton"])
@pytest.mark.parametrize("cube", [False, True])
def test_the_operator_keeps_its_word(impl, cube):
    batch = random_batch(3, 3, 4, 30, cube)
    tensors = (batch.tokens(), batch.offsets(), *batch.cubes())
    device = "cpu" if impl == "numpy" else DEVICE
    tensors = (value if value is None else value.to(device) for value in tensors)
    torch.library.opcheck(octree_decode_op, (*tensors, 3, batch.leaves, impl))


def test_it_is_one_node_of_a_compiled_graph():
    batch = random_batch(4, 4, 3, 50)
    leaves = batch.leaves

    def means(tokens, offsets):
        found = octree_decode(tokens, offsets, 4, leaves=leaves)
        return torch.zeros(3, 3).index_add(0, found.tree, found.centers)

    compiled = torch.compile(means, fullgraph=True, backend="aot_eager")
    arguments = batch.tokens(), batch.offsets()
    assert torch.equal(compiled(*arguments), means(*arguments))


def test_auto_prefers_triton_on_cuda_and_never_the_interpreter():
    assert [(o.impl, o.automatic) for o in options(CPU)] == [
        ("triton", False),
        ("numpy", True),
        ("reference", True),
    ]
    triton, numpy, _ = options(torch.device("cuda"))
    assert triton.automatic
    assert numpy.refusal == "NumPy has no tensors on cuda"


def test_the_old_name_of_the_centers_still_works():
    leaves = octree_decode(torch.tensor([1, 1], dtype=torch.uint8), torch.tensor([0, 2]), depth=1)
    with pytest.warns(DeprecationWarning, match="centres is now"):
        assert leaves.centres is leaves.centers
