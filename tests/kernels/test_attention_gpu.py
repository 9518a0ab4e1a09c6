"""Attention on a card: every shape class, in every dtype, against float64 and eager PyTorch."""

import pytest
import torch

from ddimx.kernels.attention import attention, reference
from tests.kernels.attention_cases import (
    errors_of_gradients,
    errors_of_output,
    exact_gradients,
    guarded,
    problem,
    within_budget,
)

pytestmark = pytest.mark.gpu
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# The UNet's heads, one key block and several, one piece of columns and several; and odd sizes.
SHAPES = [
    (2, 64, 64, 256),
    (3, 256, 256, 256),
    (2, 256, 256, 512),
    (2, 1024, 1024, 256),
    (2, 1024, 1024, 512),
    (1, 300, 300, 768),
    (1, 1, 1, 8),
    (3, 49, 130, 120),
    (2, 1000, 257, 40),
    (1, 16, 999, 300),
]


def exact(q, k, v, scale):
    return reference.attention(*(t.double() for t in (q, k, v)), scale)[0].cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(shape, dtype):
    q, k, v, _ = problem(*shape, dtype=dtype, device="cuda")
    for layout in ("rows", "columns"):
        out = attention(*(guarded(t, layout) for t in (q, k, v)), impl="triton")
        scale = shape[3] ** -0.5
        eager, extra = reference.attention(q, k, v, scale)[0], errors_of_output(q, k, v, scale)
        within_budget(out, eager, exact(q, k, v, scale), extra)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_forward_and_backward(shape, dtype):
    q, k, v, grad = problem(*shape, dtype=dtype, device="cuda")
    scale = shape[3] ** -0.5
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    eager = reference.attention(*leaves, scale)[0]
    out = attention(*leaves, impl="products")
    within_budget(out, eager, exact(q, k, v, scale), errors_of_output(q, k, v, scale))
    parts = zip(
        torch.autograd.grad(out, leaves, grad),
        torch.autograd.grad(eager, leaves, grad),
        exact_gradients(grad, q, k, v, scale),
        errors_of_gradients(grad, q, k, v, scale),
        strict=True,
    )
    for part in parts:
        within_budget(*part)


@pytest.mark.parametrize("backward", ["torch", "triton"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(shape, dtype, backward):
    q, k, v, grad = problem(*shape, dtype=dtype, device="cuda")
    scale = shape[3] ** -0.5
    expected = exact_gradients(grad, q, k, v, scale)
    leaves = [guarded(t).requires_grad_() for t in (q, k, v)]
    eager = torch.autograd.grad(reference.attention(*leaves, scale)[0], leaves, grad)
    out = attention(*leaves, impl="triton", backward=backward)
    ours = torch.autograd.grad(out, leaves, grad)
    extra = errors_of_gradients(grad, q, k, v, scale)
    for parts in zip(ours, eager, expected, extra, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_does_not_know_its_batch(shape, dtype):
    q, k, v, _ = problem(5, *shape[1:], dtype=dtype, device="cuda")
    whole = attention(q, k, v, impl="triton")
    for i in (0, 4):
        alone = attention(q[i : i + 1], k[i : i + 1], v[i : i + 1], impl="triton")
        assert torch.equal(alone[0], whole[i])


def test_every_run_gives_the_same_bits():
    leaves = [t.requires_grad_() for t in
              problem(4, 256, 256, 512, dtype=torch.bfloat16, device="cuda")[:3]]  # fmt: skip
    runs = []
    for _ in range(2):
        out = attention(*leaves, impl="triton", backward="triton")
        runs.append((out, *torch.autograd.grad(out.sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_compiled_and_captured():
    q, k, v, _ = problem(2, 256, 256, 512, dtype=torch.bfloat16, device="cuda")
    expected = attention(q, k, v, impl="triton")
    compiled = torch.compile(lambda *t: attention(*t, impl="triton") + 0, fullgraph=True)
    assert torch.equal(compiled(q, k, v), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(q, k, v, impl="triton")
    q.neg_()
    graph.replay()
    assert torch.equal(out, attention(q, k, v, impl="triton"))


def test_over_2_31_elements():
    """The last sample of a batch whose offsets need 64 bits: 8.6 GB of inputs."""
    if torch.cuda.get_device_properties(0).total_memory < 2**34:
        pytest.skip("needs 16 GiB of memory")
    q = torch.zeros(2**31 // (256 * 512) + 1, 256, 512, dtype=torch.bfloat16, device="cuda")
    assert q.numel() > 2**31
    q[-1] = torch.randn(256, 512, device="cuda")
    out = attention(q, q, q, impl="triton")
    assert torch.equal(out[-1:], attention(*[q[-1:].clone()] * 3, impl="triton"))
