"""Group normalization on a card: the UNets' shapes, in every dtype, against float64."""

import pytest
import torch

from ddimx.kernels.group_norm_silu import group_norm_silu
from tests.kernels.group_norm_silu_cases import (
    exact,
    exact_gradients,
    problem,
    sizes_of_gradients,
    within_budget,
)

pytestmark = pytest.mark.gpu
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# Batch, channels, height, width, groups: on chip, in a loop, in parts; then what fills no tile.
SHAPES = [
    (3, 128, 32, 32, 32),
    (2, 384, 32, 32, 32),
    (3, 256, 16, 16, 32),
    (2, 768, 16, 16, 32),
    (3, 512, 4, 4, 32),
    (2, 128, 64, 64, 32),
    (1, 128, 256, 256, 32),
    (2, 12, 7, 5, 3),
    (2, 5, 1, 1, 5),
    (2, 96, 37, 37, 1),
    (2, 48, 60, 33, 48),
]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [*((dtype, shape) for dtype in (BF16, FP32) for shape in SHAPES), (FP16, SHAPES[0])],
    ids=str,
)
def test_forward_and_backward(shape, dtype):
    """In bfloat16 as residual blocks use it, in the others without SiLU and embedding."""
    *sizes, groups = shape
    fused = dtype == BF16
    x, weight, bias, add, grad = problem(*sizes, dtype=dtype, device="cuda", add=fused)
    leaves = [t.requires_grad_() for t in (x, weight, bias, add) if t is not None]
    out = group_norm_silu(x, weight, bias, groups, silu=fused, add=add, impl="triton")
    plain = [t if t is None else t.detach() for t in (x, weight, bias, add)]
    within_budget(out, exact(*plain[:3], groups, 1e-5, fused, plain[3]))
    ours = torch.autograd.grad(out, leaves, grad)
    expected = exact_gradients(grad, *plain[:3], groups, 1e-5, fused, plain[3])
    largest = sizes_of_gradients(grad, *plain[:2], groups, 1e-5, plain[3])
    for parts in zip(ours, expected, largest, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("shape", SHAPES[:7], ids=str)
def test_a_mean_of_a_thousand_deviations(shape):
    *sizes, groups = shape
    x, weight, bias, _, _ = problem(*sizes, device="cuda", mean=1000.0, add=False)
    out = group_norm_silu(x, weight, bias, groups, impl="triton")
    within_budget(out, exact(x, weight, bias, groups, 1e-5, True), mean=1000.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_does_not_know_its_batch_nor_its_run(shape):
    """Nine images, so that what goes in parts is also launched in several groups of images."""
    *sizes, groups = shape
    x, weight, bias, add, grad = problem(9, *sizes[1:], dtype=BF16, device="cuda")

    def both(*own):
        leaves = [t.clone().requires_grad_() for t in own[:2]]
        out = group_norm_silu(leaves[0], weight, bias, groups, add=leaves[1], impl="triton")
        return out, *torch.autograd.grad(out, leaves, own[2])

    whole = both(x, add, grad)
    assert all(torch.equal(a, b) for a, b in zip(both(x, add, grad), whole, strict=True))
    for i in (0, 8):
        alone = both(*(t[i : i + 1] for t in (x, add, grad)))
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, whole, strict=True))


def test_gradients_of_weights_are_the_same_in_every_run():
    x, weight, bias, _, grad = problem(64, 128, 32, 32, dtype=BF16, device="cuda")
    leaves = [t.requires_grad_() for t in (weight, bias)]
    runs = []
    for _ in range(2):
        out = group_norm_silu(x, weight, bias, 32, impl="triton")
        runs.append(torch.autograd.grad(out, leaves, grad))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_autocast_keeps_16_bits_and_nchw_is_copied():
    x, weight, bias, add, _ = problem(2, 64, 8, 8, dtype=BF16, device="cuda", params=FP32)
    expected = group_norm_silu(x, weight, bias, 32, add=add, impl="triton")
    with torch.autocast("cuda", torch.bfloat16):
        out = group_norm_silu(x, weight, bias, 32, add=add)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    assert torch.equal(
        group_norm_silu(x.contiguous(), weight, bias, 32, add=add, impl="triton"), expected
    )
    plain = group_norm_silu(x.contiguous(), weight, bias, 32, add=add)
    assert plain.is_contiguous()
    # PyTorch's rounds the sum, which is of the result's size, and the result.
    assert (plain - expected).abs().max() <= 4 * torch.finfo(BF16).eps * expected.abs().max()


@pytest.mark.parametrize("side", [32, 128])
def test_compiled_and_captured(side):
    x, weight, bias, add, _ = problem(2, 128, side, side, dtype=BF16, device="cuda")

    def step(x, add):
        return group_norm_silu(x, weight, bias, 32, add=add, impl="triton") + 0

    expected = step(x, add)
    assert torch.equal(torch.compile(step, fullgraph=True)(x, add), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(x, add)
    x.neg_()
    graph.replay()
    assert torch.equal(out, step(x, add))


@pytest.mark.parametrize(("channels", "side"), [(128, 32), (512, 256)])
def test_over_2_31_elements(channels, side):
    """The last image of a batch whose offsets need 64 bits: 4.3 GB each of input and result."""
    if torch.cuda.get_device_properties(0).total_memory < 2**34:
        pytest.skip("needs 16 GiB of memory")
    count = 2**31 // (channels * side**2) + 1
    x = torch.zeros(count, side, side, channels, dtype=BF16, device="cuda")
    x = x.permute(0, 3, 1, 2)
    assert x.numel() > 2**31
    weight, bias = torch.ones(2, channels, dtype=BF16, device="cuda")
    x[-1] = torch.randn(channels, side, side, device="cuda")
    out = group_norm_silu(x, weight, bias, 32, impl="triton")
    assert torch.equal(out[-1:], group_norm_silu(x[-1:].clone(), weight, bias, 32, impl="triton"))
