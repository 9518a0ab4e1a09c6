"""Group normalization's definition, its place in the networks, and what it refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddimx.kernels._dispatch import preferred
from ddimx.kernels.group_norm_silu import group_norm_silu, preference
from ddimx.kernels.group_norm_silu.op import options
from ddimx.models.layers import AttnBlock, GroupNorm, ResnetBlock
from tests.kernels.group_norm_silu_cases import (
    exact,
    exact_gradients,
    normal,
    problem,
    sizes_of_gradients,
    within_budget,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Channels, sides, groups: among them a pixel, a channel per group, one group, odd sizes.
SHAPES = [(16, 4, 4, 4), (12, 3, 5, 3), (5, 1, 1, 1), (6, 7, 1, 6), (24, 2, 3, 2)]


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize(("c", "h", "w", "groups"), SHAPES)
def test_the_definition_and_its_gradients(c, h, w, groups, silu, add):
    *tensors, add, grad = problem(2, c, h, w, dtype=torch.float64, add=add)
    leaves = [t for t in (*tensors, add) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    out = group_norm_silu(*tensors, groups, 1e-3, silu=silu, add=add)
    arguments = *tensors, groups, 1e-3, silu, add
    within_budget(out, exact(*arguments))
    assert out.is_contiguous(memory_format=torch.channels_last)
    ours = torch.autograd.grad(out, leaves, grad)
    sizes = sizes_of_gradients(grad, *(t.detach() for t in tensors[:2]), groups, 1e-3, add)
    for parts in zip(ours, exact_gradients(grad, *arguments), sizes, strict=True):
        within_budget(*parts)


def test_a_closed_form():
    """Two values per group, m +- s, become w +-s / sqrt(s^2 + eps) + b."""
    x = torch.tensor([3.0, 7.0, -1.0, 0.0]).double().view(1, 4, 1, 1)
    weight, bias = torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.arange(4).double()
    out = group_norm_silu(x, weight, bias, 2, 0.5, silu=False).flatten()
    first, second = 2 / 4.5**0.5, 0.5 / 0.75**0.5
    expected = [-first, 2 * first + 1, 2 - 3 * second, 3 + 4 * second]
    assert out.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("add", [True, False])
def test_on_a_cpu_it_is_pytorchs_own_bit_for_bit(add):
    """Samples of a seed stay what they were."""
    x, weight, bias, add, _ = problem(2, 16, 5, 3, add=add)
    before = x.clone()
    shifted = x if add is None else x + add[:, :, None, None]
    expected = F.silu(F.group_norm(shifted, 4, weight, bias))
    assert torch.equal(group_norm_silu(x, weight, bias, 4, add=add), expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("groups", "side"), [(4, 3), (1, 3), (4, 32)])
def test_16_bits_on_a_cpu(groups, side, dtype):
    """Groups of few channels go through float32 where PyTorch's norm would go value by value."""
    x, weight, bias, add, _ = problem(2, 16, side, side, dtype=dtype)
    shifted, before = x + add[:, :, None, None], x.clone()
    inputs = shifted, weight, bias
    if groups == 4 and side == 3:
        inputs = tuple(t.float() for t in inputs)
    expected = F.silu(F.group_norm(inputs[0], groups, *inputs[1:]).to(dtype))
    out = group_norm_silu(x, weight, bias, groups, add=add)
    assert torch.equal(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


def test_weights_may_be_wider_than_the_features():
    """As in training under autocast."""
    x, weight, bias, add, _ = problem(2, 16, 4, 4, dtype=torch.bfloat16, params=torch.float32)
    out = group_norm_silu(x, weight, bias, 4, add=add)
    assert out.dtype == torch.bfloat16
    # Norm and SiLU round to 16 bits each, as PyTorch's do; SiLU's slope is at most 1.1.
    expected = exact(x + add[:, :, None, None], weight, bias, 4, 1e-5, True)
    allowed = 2.1 * torch.finfo(out.dtype).eps / 2 * expected.abs().max()
    assert (out.double() - expected).abs().max() <= allowed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(2, 8, 4)}, r"x has shape \(2, 8, 4\), expected \[B, C, H, W\]"),
        ({0: torch.zeros(2, 8, 0, 4)}, "at least one channel and one pixel"),
        ({0: torch.zeros(2, 8, 4, 4, dtype=torch.int64)}, "x has dtype torch.int64"),
        ({1: torch.zeros(7)}, r"weight has shape \(7,\)"),
        ({2: torch.zeros(8, 1)}, r"bias has shape \(8, 1\)"),
        ({2: torch.zeros(8, dtype=torch.float64)}, "bias has dtype torch.float64, weight torch.fl"),
        ({1: torch.zeros(8, dtype=torch.int32)}, "weight has dtype torch.int32"),
        ({3: 3}, "3 groups do not divide x's 8 channels"),
        ({3: 0}, "0 groups do not divide"),
        ({4: torch.zeros(8)}, r"add has shape \(8,\)"),
        ({4: torch.zeros(2, 8, 1, 1)}, r"add has shape \(2, 8, 1, 1\)"),
        ({4: torch.zeros(2, 8, device="meta")}, "add is on meta, x on cpu"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    arguments = [torch.zeros(2, 8, 4, 4), torch.zeros(8), torch.zeros(8), 2, torch.zeros(2, 8)]
    for position, value in changes.items():
        arguments[position] = value
    with pytest.raises(ValueError, match=message):
        group_norm_silu(*arguments[:4], add=arguments[4])


def test_what_auto_takes():
    """Triton on a GPU where it need not copy and can count; elsewhere PyTorch's own."""
    pytest.importorskip("triton")
    half, image = torch.bfloat16, 2**17
    assert preferred(options(CUDA, half, True, 4, image))[0] == "triton"
    for kind in ((CUDA, half, False, 4, image), (CUDA, torch.float64, True, 4, image),
                 (CUDA, half, True, 5000, image), (CUDA, half, True, 4, 2**31),
                 (CPU, half, True, 4, image), (CPU, torch.float32, True, 4, image)):  # fmt: skip
        assert preferred(options(*kind))[0] == "reference"
    assert preference(CPU)[0] == "reference"
    x, weight, bias, _, _ = problem(1, 4, 2, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"sums are float32, not torch.float64.*can: reference"):
        group_norm_silu(x, weight, bias, 2, impl="triton")


@pytest.mark.parametrize("activation", ["silu", "mish", "gelu", "relu", None])
def test_the_layer_is_pytorchs_with_an_activation(activation):
    layer = GroupNorm(4, 8, eps=1e-3, activation=activation)
    plain = nn.GroupNorm(4, 8, eps=1e-3)
    for parameter, seed in ((layer.weight, 5), (layer.bias, 6)):
        parameter.data = normal(8, seed=seed)
    plain.load_state_dict(layer.state_dict())
    x, embedding = normal(2, 8, 3, 3), normal(2, 8, seed=7)
    after = (lambda h: h) if activation is None else getattr(F, activation)
    assert torch.equal(layer(x), after(plain(x)))
    assert torch.equal(layer(x, embedding), after(plain(x + embedding[:, :, None, None])))


@pytest.mark.parametrize(
    "settings", [{}, {"scale_shift": True}, {"activation": "gelu"}, {"resample": "down"}]
)
def test_blocks_compute_what_they_did(settings):
    """A block with PyTorch's own norms and activations around it, as it was written before."""
    torch.manual_seed(0)
    block = ResnetBlock(8, 16, temb=6, dropout=0.0, groups=4, layer=0, **settings)
    x, temb = normal(2, 8, 4, 4), normal(2, 6, seed=8)
    act, rest = block.activation, settings.get("resample") == "down"
    norms = [nn.GroupNorm(4, c, eps=1e-6) for c in (8, 16)]
    for norm, ours in zip(norms, (block.norm1, block.norm2), strict=True):
        norm.load_state_dict(ours.state_dict())
    h, skip = act(norms[0](x)), x
    if rest:
        h, skip = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
    h, time = block.conv1(h), block.temb_proj(act(temb))[:, :, None, None]
    if block.scale_shift:
        scale, shift = time.chunk(2, dim=1)
        h = norms[1](h) * (1 + scale) + shift
    else:
        h = norms[1](h + time)
    assert torch.equal(block(x, temb), block.nin_shortcut(skip) + block.conv2(act(h)))


def test_traced_for_a_cpu_it_is_made_of_pytorchs_operators():
    """So that the compiler can fuse them; nothing of it is opaque, and nothing breaks the graph."""
    block = nn.Sequential(AttnBlock(8, groups=4), GroupNorm(4, 8, activation="silu")).eval()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    x = normal(1, 8, 4, 4)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend=keep)
    with torch.no_grad():
        assert torch.equal(compiled(x), block(x))
    names = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert any("group_norm" in name for name in names)
    assert not any("ddimx" in name for name in names)
