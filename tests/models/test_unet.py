"""The UNet: the original's weights fit, and it computes what the original computes."""

import pytest
import torch
import torch.nn.functional as F

from ddimx.config_file import load_config
from ddimx.models.layers import KeyedDropout, timestep_embedding
from ddimx.models.unet import UNet

SMALL = {
    "image_size": 8,
    "ch": 8,
    "ch_mult": (1, 2, 2),
    "num_res_blocks": 2,
    "attn_resolutions": (4,),
    "norm_groups": 4,
}


def small(formula_weights, **changes):
    return formula_weights(UNet(**{**SMALL, **changes}).double()).eval()


def images(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- names and sizes ------------------------------------------------------------------------------


def on_meta(name):
    with torch.device("meta"):
        return UNet.from_config(load_config(name))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("cifar10", 35_746_307),
        ("celeba", 78_700_803),
        ("bedroom", 113_673_219),
        ("church", 113_673_219),
    ],
)
def test_number_of_parameters(name, count):
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


# Of the CIFAR-10 checkpoint that pesser converted, as ermongroup/ddim reads it.
CIFAR10 = {
    "temb.dense.0.weight": (512, 128),
    "temb.dense.1.bias": (512,),
    "conv_in.weight": (128, 3, 3, 3),
    "down.0.block.0.norm1.weight": (128,),
    "down.0.block.0.conv1.weight": (128, 128, 3, 3),
    "down.0.block.1.temb_proj.weight": (128, 512),
    "down.0.downsample.conv.weight": (128, 128, 3, 3),
    "down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "down.1.attn.0.q.weight": (256, 256, 1, 1),
    "down.1.attn.1.proj_out.bias": (256,),
    "down.2.downsample.conv.bias": (256,),
    "down.3.block.1.conv2.weight": (256, 256, 3, 3),
    "mid.block_1.norm2.bias": (256,),
    "mid.attn_1.norm.weight": (256,),
    "mid.attn_1.k.weight": (256, 256, 1, 1),
    "mid.attn_1.v.weight": (256, 256, 1, 1),
    "mid.attn_1.proj_out.weight": (256, 256, 1, 1),
    "mid.block_2.conv2.bias": (256,),
    "up.0.block.0.conv1.weight": (128, 384, 3, 3),
    "up.0.block.2.nin_shortcut.weight": (128, 256, 1, 1),
    "up.1.block.2.norm1.weight": (384,),
    "up.1.attn.2.q.weight": (256, 256, 1, 1),
    "up.1.upsample.conv.weight": (256, 256, 3, 3),
    "up.3.block.0.nin_shortcut.bias": (256,),
    "up.3.upsample.conv.weight": (256, 256, 3, 3),
    "norm_out.weight": (128,),
    "conv_out.weight": (3, 128, 3, 3),
    "conv_out.bias": (3,),
}
ABSENT = [
    "class_embedding.weight",
    "down.0.attn.0.q.weight",
    "down.0.block.0.nin_shortcut.weight",
    "down.3.downsample.conv.weight",
    "up.0.upsample.conv.weight",
    "up.2.attn.0.q.weight",
    "up.0.block.3.conv1.weight",
]


def test_names_are_the_originals():
    shapes = {name: tuple(value.shape) for name, value in on_meta("cifar10").state_dict().items()}
    assert len(shapes) == 328
    assert {name: shapes.get(name) for name in CIFAR10} == CIFAR10
    assert not shapes.keys() & set(ABSENT)


# --- what it computes -----------------------------------------------------------------------------


def original(p, x, t, *, groups, ch):
    """ermongroup/ddim's forward pass, written from its description over a state dict ``p``."""

    def conv(h, name, **options):
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def norm(h, name):
        parts = h.reshape(len(h), groups, -1)
        centred = parts - parts.mean(-1, keepdim=True)
        parts = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        weight, bias = (p[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
        return parts.reshape(h.shape) * weight + bias

    def swish(h):
        return h * torch.sigmoid(h)

    def dense(h, name):
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def block(h, name):
        inner = conv(swish(norm(h, f"{name}.norm1")), f"{name}.conv1", padding=1)
        inner = inner + dense(swish(temb), f"{name}.temb_proj")[:, :, None, None]
        inner = conv(swish(norm(inner, f"{name}.norm2")), f"{name}.conv2", padding=1)
        shortcut = f"{name}.nin_shortcut"
        return (conv(h, shortcut) if f"{shortcut}.weight" in p else h) + inner

    def attention(h, name):
        if f"{name}.q.weight" not in p:
            return h
        q, k, v = (conv(norm(h, f"{name}.norm"), f"{name}.{n}").flatten(2) for n in "qkv")
        share = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * h.shape[1] ** -0.5, dim=2)
        mixed = torch.einsum("bij,bcj->bci", share, v).reshape(h.shape)
        return h + conv(mixed, f"{name}.proj_out")

    def count(prefix):
        return len({name.split(".")[prefix.count(".")] for name in p if name.startswith(prefix)})

    temb = dense(timestep_embedding(t, ch).to(x.dtype), "temb.dense.0")
    temb = dense(swish(temb), "temb.dense.1")
    skips = [conv(x, "conv_in", padding=1)]
    levels = count("down.")
    for i in range(levels):
        for j in range(count(f"down.{i}.block.")):
            h = block(skips[-1], f"down.{i}.block.{j}")
            skips.append(attention(h, f"down.{i}.attn.{j}"))
        if i < levels - 1:
            padded = F.pad(skips[-1], (0, 1, 0, 1))
            skips.append(conv(padded, f"down.{i}.downsample.conv", stride=2))
    h = block(skips[-1], "mid.block_1")
    h = block(attention(h, "mid.attn_1"), "mid.block_2")
    for i in reversed(range(levels)):
        for j in range(count(f"up.{i}.block.")):
            h = block(torch.cat([h, skips.pop()], dim=1), f"up.{i}.block.{j}")
            h = attention(h, f"up.{i}.attn.{j}")
        if i > 0:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = conv(h, f"up.{i}.upsample.conv", padding=1)
    return conv(swish(norm(h, "norm_out")), "conv_out", padding=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attn_resolutions": (8, 2), "num_res_blocks": 1},
        {"ch_mult": (1,), "out_ch": 6, "in_channels": 4},
        {"ch_mult": (2, 1), "attn_resolutions": ()},
    ],
)
def test_it_computes_what_the_original_computes(formula_weights, changes):
    network = small(formula_weights, **changes)
    x, t = images(2, changes.get("in_channels", 3), 8, 8), torch.tensor([3.0, 712.5])
    with torch.no_grad():
        expected = original(network.state_dict(), x, t, groups=4, ch=8)
        got = network(x, t)
    assert expected.std() > 0.05
    assert torch.allclose(got, expected, rtol=0.0, atol=1e-10)


# Weights by formula, x_i = sin(i), t = 3 and 400.25, labels 1 and none; recorded in float64.
RECORDED = [
    -0.63262517,
    0.23098275,
    -0.41792062,
    0.47870539,
    0.43642155,
    -0.33578777,
    -0.32505385,
    1.1151933,
]


def recorded_case(formula_weights, dtype):
    network = small(formula_weights, patch_size=2, num_classes=2, attn_resolutions=(2,)).to(dtype)
    x = torch.sin(torch.arange(2 * 3 * 8 * 8, dtype=torch.float64)).view(2, 3, 8, 8)
    with torch.no_grad():
        out = network(x.to(dtype), torch.tensor([3.0, 400.25]), torch.tensor([1, 2]))
    assert out.dtype == dtype
    assert out.shape == x.shape
    return out.double()


def test_recorded_output(formula_weights):
    out = recorded_case(formula_weights, torch.float64)
    picked = out.flatten()[:: out.numel() // 8]
    assert torch.allclose(picked, torch.tensor(RECORDED).double(), rtol=0.0, atol=1e-5)


def test_float32_is_near_float64(formula_weights):
    exact = recorded_case(formula_weights, torch.float64)
    single = recorded_case(formula_weights, torch.float32)
    assert (single - exact).abs().max() < 1e-4 * exact.std()


def test_examples_do_not_see_each_other(formula_weights):
    network = small(formula_weights, num_classes=3)
    x, t, labels = images(3, 3, 8, 8), torch.tensor([1.0, 50.0, 999.0]), torch.tensor([0, 3, 1])
    with torch.no_grad():
        together = network(x, t, labels)
        for i in range(3):
            alone = network(x[i : i + 1], t[i : i + 1], labels[i : i + 1])
            assert torch.allclose(alone[0], together[i], rtol=0.0, atol=1e-12)


def test_the_memory_layout_does_not_matter(formula_weights):
    network = small(formula_weights)
    x, t = images(2, 3, 8, 8), torch.tensor([1.0, 50.0])
    with torch.no_grad():
        plain = network(x, t)
        last = network.to(memory_format=torch.channels_last)(
            x.contiguous(memory_format=torch.channels_last), t
        )
    assert torch.allclose(plain, last, rtol=0.0, atol=1e-12)


def test_every_parameter_gets_a_gradient(formula_weights):
    network = small(formula_weights, num_classes=2)
    out = network(images(2, 3, 8, 8), torch.tensor([1.0, 50.0]), torch.tensor([0, 2]))
    out.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# --- our two additions ----------------------------------------------------------------------------


def space_to_depth(x, n):
    """[B, C, H, W] -> [B, C n n, H/n, W/n], the position inside a patch varying fastest."""
    parts = [x[:, c, i::n, j::n] for c in range(x.shape[1]) for i in range(n) for j in range(n)]
    return torch.stack(parts, dim=1)


def depth_to_space(x, n):
    b, channels, h, w = x.shape
    out = x.new_empty(b, channels // n**2, h * n, w * n)
    for k in range(channels):
        c, place = divmod(k, n * n)
        out[:, c, place // n :: n, place % n :: n] = x[:, k]
    return out


def test_patches_are_space_to_depth(formula_weights):
    whole = small(formula_weights, image_size=16, patch_size=2)
    inner = small(formula_weights, image_size=8, in_channels=12, out_ch=12)
    inner.load_state_dict(whole.state_dict())
    x, t = images(2, 3, 16, 16), torch.tensor([1.0, 50.0])
    with torch.no_grad():
        expected = depth_to_space(inner(space_to_depth(x, 2), t), 2)
        assert torch.allclose(whole(x, t), expected, rtol=0.0, atol=1e-12)


def test_classes_and_their_absence(formula_weights):
    network = small(formula_weights, num_classes=3)
    assert network.class_embedding.weight.shape == (4, 32)
    x, t = images(1, 3, 8, 8), torch.tensor([10.0])
    with torch.no_grad():
        outs = [network(x, t, torch.tensor([label])) for label in range(4)]
        assert torch.equal(network(x, t), outs[3])
        assert all(not torch.allclose(outs[3], other) for other in outs[:3])
        network.class_embedding.weight.zero_()
        plain = {n: v for n, v in network.state_dict().items() if "class" not in n}
        without = small(formula_weights)
        without.load_state_dict(plain)
        assert torch.equal(network(x, t), without(x, t))


def test_resampling_without_convolutions(formula_weights):
    network = small(formula_weights, resamp_with_conv=False)
    assert not [name for name in network.state_dict() if "sample" in name]
    with torch.no_grad():
        assert network(images(1, 3, 8, 8), torch.tensor([1.0])).shape == (1, 3, 8, 8)


def dropouts(network):
    return [module for module in network.modules() if isinstance(module, KeyedDropout)]


def test_dropout_layers_have_streams_of_their_own():
    network = UNet(**SMALL, dropout=0.3)
    layers = dropouts(network)
    assert len(layers) == 3 * 2 + 2 + 3 * 3  # down, middle, up
    assert sorted(d.layer for d in layers) == list(range(len(layers)))
    assert {d.rate for d in layers} == {0.3}


def test_from_config_passes_everything_on(tiny_config):
    network = UNet.from_config(tiny_config)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["conv_in.weight"] == (8, 12, 3, 3)
    assert shapes["conv_out.weight"] == (12, 8, 3, 3)
    assert shapes["class_embedding.weight"] == (3, 32)
    assert "down.1.attn.0.q.weight" in shapes
    assert "down.0.attn.0.q.weight" not in shapes
    assert network.norm_out.num_groups == 4
    assert {d.rate for d in dropouts(network)} == {0.1}
