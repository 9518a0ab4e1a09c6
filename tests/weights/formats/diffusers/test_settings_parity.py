"""Every setting of UNet2DModel that is not refused: the same outputs, read and written back."""

import pytest
import torch
from diffusers import UNet2DModel

import ddimx
from ddimx.config_file import override
from ddimx.editing.settings import resolve_editing
from ddimx.errors import DdimxError, UsageError
from ddimx.options import Options
from ddimx.sampling.settings import resolve
from ddimx.weights.formats.diffusers.folder import write_folder
from ddimx.weights.formats.diffusers.settings import UNET_DEFAULTS
from ddimx.weights.locate.source import Source, read_source
from ddimx.weights.model import load_model
from tests.weights import plain, same, weights
from tests.weights.formats.diffusers.models import pipeline

# All else is as diffusers has it by default: heads of 8 columns, padding on all sides, ...
THEIRS = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}
ATTENDING = {
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
}
SETTINGS = {
    "by default": {},
    "in gray, with mish": {"in_channels": 1, "out_channels": 1, "act_fn": "mish"},
    "not square, with gelu": {"sample_size": (8, 16), "act_fn": "gelu"},
    "classes": {"num_class_embeds": 5},
    "a variance": {"out_channels": 6},
    "widths that are no multiples": {"block_out_channels": (24, 40)},
    "odd widths": {"block_out_channels": (33, 66), "norm_num_groups": 3, "attention_head_dim": 11},
    "heads that leave columns over": {"block_out_channels": (32, 16), "attention_head_dim": 12},
    "one head": {"attention_head_dim": None},
    "attention elsewhere on the way up": {"up_block_types": ("UpBlock2D", "AttnUpBlock2D")},
    "old names of blocks": {
        "down_block_types": ("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),
        "up_block_types": ("UNetResAttnUpBlock2D", "UNetResUpBlock2D"),
    },
    "no attention in the middle": {"add_attention": False},
    "no middle": {"mid_block_type": None},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "scale and shift with a norm": {
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,
    },
    "residual blocks that resample": {
        **ATTENDING,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "residual blocks of other kinds": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "UpBlock2D"),
        "dropout": 0.1,
    },
    "padding on one side, with relu": {"downsample_padding": 0, "act_fn": "relu"},
    "another embedding of time": {
        "norm_eps": 1e-3,
        "time_embedding_dim": 24,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
    },
}


def outputs(model, size):
    """What a network of theirs or ours returns for fixed inputs, and as x if it returns more."""
    theirs = isinstance(model, UNet2DModel)
    config = model.config if theirs else None
    channels = config.in_channels if theirs else model.out_ch
    rows = config.num_class_embeds if theirs else model.num_classes
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(3, channels, *size, generator=draw)
    t, labels = torch.tensor([3.0, 500.0, 999.0]), torch.tensor([0, 4, 2]) if rows else None
    with torch.no_grad():
        return (model(x, t, labels).sample if theirs else model(x, t, labels))[:, :channels]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_same_outputs_both_ways(tmp_path, settings):
    torch.manual_seed(0)
    theirs = UNet2DModel(**{**THEIRS, **settings}).eval()
    pipeline(theirs).save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs", device="cpu", dtype="fp32")
    size = model.config.data.sides
    expected = outputs(theirs, size)
    assert expected.std() > 0.1
    # Some 30 layers of float32 one after another; both ways round otherwise.
    assert (outputs(model.network, size) - expected).abs().max() < 1e-5

    write_folder(tmp_path / "ours", model.network.state_dict(), model.config, {}, "raw")
    back = UNet2DModel.from_pretrained(tmp_path / "ours" / "unet", low_cpu_mem_usage=False).eval()
    assert same(back.state_dict(), theirs.state_dict())
    assert torch.equal(outputs(back, size), expected)
    again = read_source(Source(str(tmp_path / "ours")))[1]
    assert again == model.config


def test_each_setting_is_tried_refused_or_free():
    """A setting that a later diffusers adds is missed here first."""
    free = {"sample_size", "in_channels", "num_train_timesteps"}
    refused = {"center_input_sample", "time_embedding_type", "mid_block_scale_factor"}
    refused |= {"class_embed_type"}
    tried = {key for settings in (THEIRS, *SETTINGS.values()) for key in settings}
    assert tried | free | refused == UNET_DEFAULTS.keys()


# --- classes --------------------------------------------------------------------------------------


@pytest.fixture
def with_classes(tmp_path):
    torch.manual_seed(0)
    pipeline(UNet2DModel(**THEIRS, num_class_embeds=5)).save_pretrained(tmp_path / "classes")
    return tmp_path / "classes"


def test_classes_without_names_are_numbers(with_classes):
    model = load_model(with_classes, device="cpu", dtype="fp32")
    assert model.classes == ("0", "1", "2", "3", "4")
    assert not model.config.model.null_class
    assert not model.process.can_guide
    with pytest.raises(UsageError, match="no prediction without one: name a class"):
        model.network(torch.zeros(1, 3, 8, 8), torch.zeros(1))


def test_without_a_class_for_none_nothing_is_guided_or_edited_without_a_class(with_classes):
    model = load_model(with_classes, device="cpu", dtype="fp32")
    with pytest.raises(UsageError, match=r"--guidance: model .* was never trained without a class"):
        resolve(Options(guidance=2.0), model)
    with pytest.raises(UsageError, match=r"category 'none'.*Allowed: 0, 1, 2, 3, 4\."):
        resolve(Options(category="none"), model)
    with pytest.raises(UsageError, match=r"give --category, one of 0, 1, 2, 3, \.\.\."):
        resolve_editing(Options(), model)
    assert resolve_editing(Options(category="3"), model).category == "3"
    samples = ddimx.sample(model, count=2, steps=2)  # each of a class of its own
    assert samples.isfinite().all()


def test_a_configuration_names_the_classes_and_which_is_none(with_classes):
    config = read_source(Source(str(with_classes)))[1]
    four = override(config, ["model.classes=[a, b, c, d]", "model.null_class=true"])
    assert read_source(Source(str(with_classes), config=four))[1] == four
    five = override(config, ["model.classes=[a, b, c, d, e]", "model.null_class=true"])
    message = r"model\.classes has 5 names, with one for no class .*, the file 5 rows of classes"
    with pytest.raises(UsageError, match=message):
        read_source(Source(str(with_classes), config=five))


def test_our_class_for_none_is_the_last_row_there(tmp_path):
    config = plain(model={"classes": ["a", "b"]})
    write_folder(tmp_path / "ours", weights(config), config, {}, "ema")
    there = UNet2DModel.from_pretrained(tmp_path / "ours" / "unet", low_cpu_mem_usage=False).eval()
    assert there.config.num_class_embeds == 3
    ours = load_model(tmp_path / "ours", device="cpu", dtype="fp32")
    assert ours.classes == ("a", "b")
    x, t = torch.ones(1, 3, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        none = there(x, t, torch.tensor([2])).sample
        assert (ours.network(x, t) - none).abs().max() < 1e-5


def test_more_classes_than_the_file_has_rows_build_nothing(with_classes):
    config = with_classes / "unet" / "config.json"
    config.write_text(
        config.read_text().replace('"num_class_embeds": 5', '"num_class_embeds": 9999999999')
    )
    with pytest.raises(
        DdimxError, match=r"5 rows of classes, but num_class_embeds .* is 9999999999"
    ):
        load_model(with_classes)
