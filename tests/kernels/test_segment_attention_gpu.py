"""Segment attention on a card: every head width, in every dtype, against float64 and PyTorch."""

import pytest
import torch

from ddimx.kernels.segment_attention import Segments, segment_attention
from ddimx.kernels.segment_attention.tiles import COLUMNS
from tests.kernels.attention_cases import guarded, within_budget
from tests.kernels.segment_attention_cases import (
    TABLES,
    clean,
    eager,
    eager_gradients,
    errors_of_gradients,
    errors_of_output,
    exact,
    exact_gradients,
    noised,
    problem,
)

pytestmark = pytest.mark.gpu
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
LARGE = noised([(1, 8, 36, 106, 391), (1, 6, 20, 77, 300)])


def call(tensors, segments, impl="triton"):
    q, k, v, *context = tensors
    return segment_attention(q, k, v, segments, *context, impl=impl)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", [*TABLES, "large"])
def test_forward_and_backward(name, columns, dtype):
    rows = LARGE if name == "large" else TABLES[name]
    segments, scale = Segments(rows), columns**-0.5
    *tensors, grad = problem(rows, 3, columns, dtype=dtype, device="cuda")
    leaves = [guarded(t).requires_grad_() for t in tensors]
    out = call(leaves, segments)
    extra = errors_of_output(tensors, rows, scale)
    within_budget(out, eager(tensors, segments, scale), exact(tensors, rows, scale)[0], extra)
    ours = torch.autograd.grad(out, leaves, guarded(grad))
    theirs = eager_gradients(grad, tensors, segments, scale)
    expected = exact_gradients(grad, tensors, rows, scale)
    extra = errors_of_gradients(grad, tensors, rows, scale)
    for parts in zip(ours, theirs, expected, extra, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows_of", [noised, clean])
def test_a_shape_does_not_know_its_company(rows_of, dtype):
    mine, other = (1, 8, 30, 200), (3, 90)
    start = rows_of([other])[-1][1]
    end = start + sum(mine)
    both = rows_of([other, mine, other, mine])
    *tensors, grad = problem(both, 6, 32, dtype=dtype, device="cuda", spare=end)
    results = []
    for segments, part in ((Segments(both), slice(None)), (Segments(rows_of([mine])), None)):
        part = part or slice(start, end)
        leaves = [t[part].clone().requires_grad_() for t in tensors]
        out = call(leaves, segments)
        gradients = torch.autograd.grad(out, leaves, grad[part])
        cut = slice(start, end) if part == slice(None) else slice(None)
        results.append([t[cut] for t in (out, *gradients)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_every_run_gives_the_same_bits():
    *tensors, grad = problem(LARGE, 6, 32, dtype=torch.bfloat16, device="cuda")
    leaves, segments = [t.requires_grad_() for t in tensors], Segments(LARGE)
    runs = []
    for _ in range(3):
        out = call(leaves, segments)
        runs.append((out, *torch.autograd.grad(out, leaves, grad)))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_compiled_and_captured():
    segments = Segments(LARGE, "cuda")
    tensors = problem(LARGE, 6, 32, dtype=torch.bfloat16, device="cuda")[:5]
    expected = call(tensors, segments)
    compiled = torch.compile(lambda *t: call(t, segments) + 0, fullgraph=True)
    assert torch.equal(compiled(*tensors), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(tensors, segments)
    tensors[0].neg_()
    graph.replay()
    assert torch.equal(out, call(tensors, segments))


def test_the_loop_on_a_card():
    tensors = problem(LARGE, 6, 32, device="cuda")[:5]
    segments, scale = Segments(LARGE), 32**-0.5
    out = call(tensors, segments, impl="loop")
    extra = errors_of_output(tensors, LARGE, scale)
    within_budget(out, eager(tensors, segments, scale), exact(tensors, LARGE, scale)[0], extra)


def test_over_2_31_elements():
    """The last rows of keys whose offsets need 64 bits: 8.6 GB of keys and values."""
    if torch.cuda.get_device_properties(0).total_memory < 2**34:
        pytest.skip("needs 16 GiB of memory")
    count = 2**31 // (6 * 128) + 100
    k, v = (torch.zeros(count, 6, 128, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    q, near_k, near_v, *_ = problem([(0, 70, 0, 90, 0, 0)], 6, 128, dtype=torch.bfloat16,
                                    device="cuda", spare=0)  # fmt: skip
    k[-90:], v[-90:] = near_k, near_v
    far = Segments([(0, 70, count - 90, count, 0, 0)])
    out = segment_attention(q, k, v, far, impl="triton")
    near = Segments([(0, 70, 0, 90, 0, 0)])
    assert torch.equal(out, segment_attention(q, near_k, near_v, near, impl="triton"))
