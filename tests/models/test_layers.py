"""The UNet's building blocks against formulas written another way."""

import math

import pytest
import torch
import torch.nn.functional as F

from ddimx.errors import UsageError
from ddimx.models import layers
from ddimx.models.layers import (
    AttnBlock,
    Downsample,
    KeyedDropout,
    ResnetBlock,
    Upsample,
    set_dropout_key,
    timestep_embedding,
)
from ddimx.noise import Noise, dropout_stream


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the time's embedding -------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [4, 8, 128])
def test_embedding_is_the_formula_with_sines_first(dim):
    times = [0.0, 1.0, 17.5, 999.0]
    half = dim // 2
    angles = [[t * 10000.0 ** (-i / (half - 1)) for i in range(half)] for t in times]
    expected = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles]
    got = timestep_embedding(torch.tensor(times), dim)
    assert got.dtype == torch.float32
    # float32 holds an angle of 999 to 6e-5
    assert torch.allclose(got.double(), torch.tensor(expected).double(), rtol=0.0, atol=1e-4)


def test_embedding_of_whole_numbers_and_of_odd_width():
    whole = timestep_embedding(torch.tensor([3, 500]), 8)
    assert torch.equal(whole, timestep_embedding(torch.tensor([3.0, 500.0]), 8))
    odd = timestep_embedding(torch.tensor([3.0, 500.0]), 9)
    assert odd.shape == (2, 9)
    assert torch.equal(odd[:, :8], whole)
    assert torch.equal(odd[:, 8], torch.zeros(2))
    assert timestep_embedding(torch.tensor([2.0]), 2).tolist() == [
        pytest.approx([math.sin(2.0), math.cos(2.0)])
    ]


# --- resampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 6])
def test_downsampling_pads_right_and_below_only(size):
    layer = Downsample(1, with_conv=True).double()
    x = random(1, 1, size, size)
    with torch.no_grad():
        got = layer(x)
    w, b = layer.conv.weight[0, 0], layer.conv.bias[0]
    assert got.shape == (1, 1, size // 2, size // 2)
    for i in range(size // 2):
        for j in range(size // 2):
            total = b.item()
            for di in range(3):
                for dj in range(3):
                    row, column = 2 * i + di, 2 * j + dj  # the first window begins at pixel 0
                    if row < size and column < size:
                        total += (w[di, dj] * x[0, 0, row, column]).item()
            assert got[0, 0, i, j].item() == pytest.approx(total, abs=1e-12)


def test_downsampling_without_weights_averages():
    x = random(2, 3, 4, 4)
    layer = Downsample(3, with_conv=False)
    assert not list(layer.parameters())
    expected = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    assert torch.allclose(layer(x), expected)


def test_upsampling_repeats_and_then_smooths():
    x = random(2, 3, 4, 4)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(Upsample(3, with_conv=False)(x), repeated)
    layer = Upsample(3, with_conv=True).double()
    with torch.no_grad():
        expected = F.conv2d(repeated, layer.conv.weight, layer.conv.bias, padding=1)
        assert torch.allclose(layer(x), expected)


# --- attention and the residual block -------------------------------------------------------------


def group_norm(x, layer):
    b, c = x.shape[:2]
    groups = x.reshape(b, layer.num_groups, -1)
    mean = groups.mean(dim=2, keepdim=True)
    variance = ((groups - mean) ** 2).mean(dim=2, keepdim=True)
    unit = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
    return unit * layer.weight.view(1, c, 1, 1) + layer.bias.view(1, c, 1, 1)


def one_by_one(x, layer):
    return torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], x) + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 6), (1, 1)])
def test_attention_is_a_softmax_over_positions(height, width, formula_weights):
    layer = formula_weights(AttnBlock(8, groups=4).double())
    x = random(3, 8, height, width)
    with torch.no_grad():
        h = group_norm(x, layer.norm)
        q, k, v = (one_by_one(h, part) for part in (layer.q, layer.k, layer.v))
        scores = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(8)
        weights = scores.flatten(3).exp()
        weights = (weights / weights.sum(dim=3, keepdim=True)).view(scores.shape)
        mixed = torch.einsum("bhwij,bcij->bchw", weights, v)
        expected = x + one_by_one(mixed, layer.proj_out)
        assert torch.allclose(layer(x), expected, rtol=0.0, atol=1e-12)
        assert not torch.allclose(expected, x)


@pytest.mark.parametrize(("c_in", "c_out"), [(8, 8), (8, 16)])
def test_residual_block(c_in, c_out, formula_weights):
    block = ResnetBlock(c_in, c_out, temb=12, dropout=0.5, groups=4, layer=0).double().eval()
    formula_weights(block)
    x, temb = random(2, c_in, 5, 4), random(2, 12, seed=1)
    swish = lambda z: z / (1 + (-z).exp())  # noqa: E731
    with torch.no_grad():
        h = F.conv2d(swish(group_norm(x, block.norm1)), block.conv1.weight, block.conv1.bias, 1, 1)
        h = h + (swish(temb) @ block.temb_proj.weight.T + block.temb_proj.bias).view(2, c_out, 1, 1)
        h = F.conv2d(swish(group_norm(h, block.norm2)), block.conv2.weight, block.conv2.bias, 1, 1)
        shortcut = x if c_in == c_out else one_by_one(x, block.nin_shortcut)
        assert torch.allclose(block(x, temb), shortcut + h, rtol=0.0, atol=1e-12)


# --- dropout --------------------------------------------------------------------------------------


def dropped(rate, positions, shape=(4, 5, 5), *, step=0, layer=0, seed=0):
    """The mask of the layer: True where an element of ones is dropped."""
    module = KeyedDropout(rate, layer)
    module.key = (Noise(seed), torch.tensor(positions), step)
    return module(torch.ones(len(positions), *shape)) == 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_has_its_rate_and_keeps_the_mean(rate):
    mask = dropped(rate, [0, 1, 2, 3], (100, 100)).double()
    deviation = (rate * (1 - rate) / mask.numel()) ** 0.5
    assert abs(mask.mean() - rate) < 4 * deviation
    # Two elements share one word; they must not share their fate.
    pairs = mask.flatten().view(-1, 2).prod(dim=1)
    expected = rate**2
    assert abs(pairs.mean() - expected) < 4 * (expected * (1 - expected) / len(pairs)) ** 0.5


def test_what_is_kept_is_scaled():
    module = KeyedDropout(0.25)
    module.key = (Noise(0), torch.arange(3), 0)
    x = random(3, 4, 4, 4).float()
    out = module(x)
    mask = dropped(0.25, [0, 1, 2], (4, 4, 4))
    assert torch.equal(out[mask], torch.zeros(int(mask.sum())))
    assert torch.allclose(out[~mask], x[~mask] / 0.75)


def test_a_mask_depends_on_its_example_alone():
    together = dropped(0.5, [7, 3, 11])
    for i, position in enumerate([7, 3, 11]):
        assert torch.equal(dropped(0.5, [position])[0], together[i])
    assert torch.equal(dropped(0.5, [3, 7]), together[[1, 0]])


def test_every_part_of_the_address_changes_the_mask():
    base = dropped(0.5, [3])
    others = [
        dropped(0.5, [4]),
        dropped(0.5, [3], step=1),
        dropped(0.5, [3], layer=1),
        dropped(0.5, [3], seed=1),
    ]
    assert all(not torch.equal(base, other) for other in others)
    assert torch.equal(base, dropped(0.5, [3]))


def test_masks_of_several_layers_are_drawn_together_as_each_draws_its_own(monkeypatch):
    monkeypatch.setattr(layers, "_COUNTERS", {"cpu": 64})  # so that three draws are needed
    rates, sizes = (0.05, 0.5, 1e-6, 0.99999), (77, 130, 5, 64)
    net = torch.nn.ModuleList(KeyedDropout(rate, i) for i, rate in enumerate(rates))
    inputs = [torch.ones(5, size) for size in sizes]
    outputs = []
    for _ in range(2):  # the second time, the sizes are known
        set_dropout_key(net, (Noise(2**63 + 5), torch.arange(7, 12), 3))
        outputs.append([layer(x) for layer, x in zip(net, inputs, strict=True)])
    assert all(layer.mask is not None for layer in net)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    set_dropout_key(net, (Noise(2**63 + 5), torch.arange(7, 12), 4))
    assert not torch.equal(net[1](inputs[1]), outputs[0][1])
    # The words by Noise, two elements to a word.
    words = Noise(2**63 + 5).integers(
        torch.arange(7, 12), (65,), 2**32, row=3, stream=dropout_stream(1)
    )
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(1)
    assert torch.equal(outputs[0][1] != 0, halves >= 32768)


def test_an_odd_number_of_elements():
    assert torch.equal(dropped(0.5, [0], (9,))[0, :8], dropped(0.5, [0], (8,))[0])


def test_the_mask_does_not_depend_on_the_memory_layout():
    module = KeyedDropout(0.5)
    module.key = (Noise(0), torch.arange(2), 0)
    x = random(2, 4, 3, 5).float()
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(module(x), module(last))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dropout_keeps_the_dtype_and_the_mask(dtype):
    module = KeyedDropout(0.5)
    module.key = (Noise(0), torch.arange(2), 0)
    out = module(torch.ones(2, 30, dtype=dtype))
    assert out.dtype == dtype
    assert torch.equal(out == 0, module(torch.ones(2, 30)) == 0)


def test_outside_training_dropout_is_the_identity():
    x = random(2, 8)
    assert KeyedDropout(0.5).eval()(x) is x
    assert KeyedDropout(0.0)(x) is x


def test_without_a_key_it_is_pytorchs_dropout():
    torch.manual_seed(0)
    out = KeyedDropout(0.5)(torch.ones(1000))
    torch.manual_seed(0)
    assert torch.equal(out, F.dropout(torch.ones(1000), 0.5))


def test_gradients_are_dropped_with_the_elements():
    module = KeyedDropout(0.5)
    module.key = (Noise(0), torch.arange(2), 0)
    x = torch.ones(2, 50, requires_grad=True)
    out = module(x)
    out.sum().backward()
    assert torch.equal(x.grad, (out != 0) * 2.0)


def test_a_layer_needs_an_index_that_has_a_stream():
    module = KeyedDropout(0.5, layer=-1)
    module.key = (Noise(0), torch.arange(2), 0)
    with pytest.raises(UsageError, match="dropout layer"):
        module(torch.ones(2, 5))
