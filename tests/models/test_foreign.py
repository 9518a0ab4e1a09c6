"""The networks of other programs against those programs.

The numbers were printed by guided_diffusion/unet.py (commit 18ff408), by version 2.3.4 of
denoising_diffusion_pytorch and by a transcript of NVlabs/edm's training/networks.py (commit
0a2ff34), in float32, with the weights of ``formula_weights``.
"""

import pytest
import torch

from ddimx.config_file import validate
from ddimx.errors import UsageError
from ddimx.models.edm import EdmUNet
from ddimx.models.factory import build
from ddimx.models.guided import GuidedUNet
from ddimx.models.lucidrains import LucidrainsUNet

TIMES = torch.tensor([3.0, 777.5])


def point(channels):
    i = torch.arange(2 * channels * 64, dtype=torch.float64)
    return torch.sin(i * i * 0.01 + i).view(2, channels, 8, 8).float()


def check(out, expected):
    """Every sixth part of the output, and its deviation, were printed with six digits."""
    flat = out.double().flatten()
    found = [*flat[:: flat.numel() // 6][:6].tolist(), float(flat.std())]
    assert found == pytest.approx(expected, abs=1e-5)


GUIDED = [
    (
        {"heads": 2},
        [-0.084345, -0.067604, -0.026446, -0.140672, -0.065021, -0.029156, 0.061684],
    ),
    (
        {
            "head_dim": 16,
            "num_classes": 3,
            "scale_shift": True,
            "resblock_updown": True,
            "predicts_variance": True,
        },
        [0.11756, 0.073902, -0.08623, 0.133943, 0.071366, -0.081647, 0.09647],
    ),
    (
        {
            "heads": 2,
            "heads_up": 4,
            "new_attention_order": True,
            "scale_shift": True,
            "ch_mult": (1.0, 3.0),
        },
        [-0.098784, -0.06903, -0.051514, -0.168769, -0.045482, -0.071873, 0.063465],
    ),
]
LUCIDRAINS = [
    (
        {"ch_mult": (1, 2, 4)},
        [-0.38165, 0.290775, -0.126702, 0.082202, 0.387857, 0.250991, 0.55749],
    ),
    (
        {
            "init_dim": 12,
            "full_attention": (0,),
            "heads": 2,
            "head_dim": 8,
            "in_channels": 1,
            "out_ch": 1,
        },
        [0.289307, 0.55609, -0.277601, 0.224705, -0.499181, 0.315087, 0.582787],
    ),
    (
        {"fourier_dim": 16, "predicts_variance": True},
        [-0.860372, 0.003872, -1.020248, 0.717429, -0.332563, 0.420294, 0.72011],
    ),
    (
        {"ch_mult": (2, 3), "embedding_theta": 500.0},
        [0.049231, 0.093465, -0.637326, 0.959152, 0.042865, 0.183364, 0.696612],
    ),
]


EDM = [
    ({}, [0.396552, -0.388796, 0.232476, 1.045018, -0.467094, 0.147689, 0.432109]),
    (
        {
            "ch_mult": (2, 2, 2),
            "fourier_time": True,
            "noise_dim": 32,
            "encoder": "residual",
            "resample_filter": (1, 3, 3, 1),
            "num_classes": 3,
        },
        [-0.631827, -0.18548, -0.16362, -0.022497, -0.004235, -0.223413, 0.583739],
    ),
    (
        {
            "ch_mult": (1, 2, 2),
            "encoder": "skip",
            "decoder": "skip",
            "resample_filter": (1, 3, 3, 1),
        },
        [-0.103097, 0.514515, 0.039897, -0.251919, -0.191124, 0.160832, 0.647072],
    ),
    (
        {"song": False, "ch": 64, "num_classes": 4, "time_dim": 128},
        [-0.091102, -0.044984, 0.457719, -0.067342, 0.256235, 0.175723, 0.570348],
    ),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("settings", "expected"), GUIDED)
def test_guided_computes_what_theirs_does(formula_weights, settings, expected, layout):
    settings = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, **settings}
    network = formula_weights(GuidedUNet(image_size=8, attn_resolutions=(4,), **settings)).eval()
    labels = torch.tensor([0, 2]) if settings.get("num_classes") else None
    with torch.no_grad():
        check(network(point(3).to(memory_format=layout), TIMES, labels), expected)


@pytest.mark.parametrize(("settings", "expected"), LUCIDRAINS)
def test_lucidrains_computes_what_theirs_does(formula_weights, settings, expected):
    settings = {"ch": 8, "ch_mult": (1, 2), **settings}
    network = formula_weights(LucidrainsUNet(**settings)).eval()
    with torch.no_grad():
        check(network(point(settings.get("in_channels", 3)), TIMES), expected)


@pytest.mark.parametrize(("settings", "expected"), EDM)
def test_edms_networks_compute_what_theirs_do(formula_weights, settings, expected):
    settings = {"song": True, "ch": 16, "ch_mult": (1, 2), "num_res_blocks": 1, **settings}
    network = EdmUNet(image_size=8, attn_resolutions=(4,), **settings)
    filters = {n: b.clone() for n, b in network.named_buffers() if "resample_filter" in n}
    formula_weights(network).eval().load_state_dict(filters, strict=False)
    classes = settings.get("num_classes")
    labels = torch.tensor([0, classes - 1]) if classes else None
    with torch.no_grad():
        check(network(point(3), torch.tensor([-1.2, 0.7]), labels), expected)


def config(model, **sections):
    tree = {name: sections.get(name, {}) for name in ("diffusion", "training", "sampling", "optim")}
    data = {"dataset": "FOLDER", "image_size": 8, "channels": 3, **sections.get("data", {})}
    model = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], **model}
    return validate({"data": data, "model": model, **tree}, "x")


def test_a_width_is_the_nearest_whole_number():
    """120 / 88 in floating point times 88 is a little less than 120."""
    network, _ = build(config({"name": "lucidrains", "ch": 88, "ch_mult": [1, 120 / 88]}))
    assert network.mid_attn.norm.g.shape == (1, 120, 1, 1)


def test_they_train_and_know_their_classes():
    classes = {"classes": ["cat", "dog"], "heads": 2, "dropout": 0.5}
    network, process = build(config({"name": "guided", **classes, "null_class": False}))
    assert not process.can_guide
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(UsageError, match="name a class"):
        network(x, TIMES)
    network(x, TIMES, torch.tensor([0, 1])).mean().backward()
    assert network.label_emb.weight.shape == (2, 128)
    network, process = build(config({"name": "guided", **classes}))
    assert process.can_guide
    assert torch.equal(network.eval()(x, TIMES), network(x, TIMES, torch.tensor([2, 2])))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({"name": "guided", "ch": 40}, {}, r"widths \[40, 80\] .* not divisible by the 32 groups"),
        ({"name": "guided", "heads": 3}, {}, "not divisible by .*heads"),
        ({"name": "guided"}, {"image_size": 9}, "image_size 9 cannot be halved 1 times"),
        ({"name": "guided"}, {"channels": 1}, "in_channels 3 and out_ch 3: data.channels is 1"),
        ({"name": "lucidrains"}, {"image_size": 9}, "cannot be halved 1 times"),
        ({"name": "lucidrains", "classes": ["a"]}, {}, "'lucidrains' has no classes"),
        ({"name": "lucidrains"}, {"channels": 1}, "data.channels is 1"),
        ({"name": "song"}, {"image_size": [8, 16]}, "the network 'song' takes squares"),
        ({"name": "dhariwal", "ch": 33}, {}, "do not suit the norms"),
        ({"name": "song"}, {"channels": 1}, "data.channels is 1"),
    ],
)
def test_what_they_cannot_be(model, data, message):
    with pytest.raises(UsageError, match=message):
        build(config(model, data=data))
