"""Configurations: the shipped ones, what is refused and in which words, --set, and YAML."""

import json

import pytest

from ddimx.config import OptimConfig
from ddimx.config_file import dump_yaml, load_config, override, shipped_configs, validate
from ddimx.errors import UsageError

# What the four of the original have in common, and where each differs: the original's own files.
COMMON = {
    "data": {
        "channels": 3,
        "logit_transform": False,
        "uniform_dequantization": False,
        "gaussian_dequantization": False,
        "random_flip": True,
        "rescaled": True,
    },
    "model": {
        "type": "simple",
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "num_res_blocks": 2,
        "attn_resolutions": (16,),
        "ema": True,
        "resamp_with_conv": True,
    },
    "diffusion": {
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "num_diffusion_timesteps": 1000,
    },
    "training": {"n_epochs": 10000, "n_iters": 5_000_000, "snapshot_freq": 5000},
    "sampling": {"last_only": True},
    "optim": {
        "weight_decay": 0.0,
        "optimizer": "Adam",
        "beta1": 0.9,
        "amsgrad": False,
        "eps": 1e-8,
    },
}
LSUN = {
    "data": {"dataset": "LSUN", "image_size": 256, "num_workers": 32},
    "model": {
        "ch_mult": (1, 1, 2, 2, 4, 4),
        "dropout": 0.0,
        "var_type": "fixedsmall",
        "ema_rate": 0.999,
    },
    "training": {"batch_size": 64, "validation_freq": 2000},
    "sampling": {"batch_size": 32},
    "optim": {"lr": 2e-5, "grad_clip": None},
}
SMALL = {
    "model": {"dropout": 0.1, "var_type": "fixedlarge", "ema_rate": 0.9999},
    "training": {"batch_size": 128},
    "optim": {"lr": 2e-4, "grad_clip": 1.0},
}
CIFAR10 = {
    "data": {"dataset": "CIFAR10", "image_size": 32, "num_workers": 4, "category": None},
    "model": {"ch_mult": (1, 2, 2, 2)},
    "training": {"validation_freq": 2000},
    "sampling": {"batch_size": 64},
}
CELEBA = {
    "data": {"dataset": "CELEBA", "image_size": 64, "num_workers": 4, "category": None},
    "model": {"ch_mult": (1, 2, 2, 2, 4)},
    "training": {"validation_freq": 20000},
    "sampling": {"batch_size": 32},
}
ORIGINAL = {
    "cifar10": (COMMON, SMALL, CIFAR10),
    "celeba": (COMMON, SMALL, CELEBA),
    "bedroom": (COMMON, LSUN, {"data": {"category": "bedroom"}}),
    "church": (COMMON, LSUN, {"data": {"category": "church_outdoor"}}),
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_originals_values(name):
    config = load_config(name)
    for part in ORIGINAL[name]:
        for section, values in part.items():
            read = {key: getattr(getattr(config, section), key) for key in values}
            assert read == values, section


@pytest.mark.parametrize("name", ORIGINAL)
def test_our_own_keys_leave_the_original_as_it_was(name):
    config = load_config(name)
    assert config.model.name == "unet"
    assert config.model.patch_size == 1
    assert config.model.norm_groups == 32
    assert config.model.classes == ()
    assert config.data.balance == "none"
    assert config.diffusion.prediction == "epsilon"
    assert config.optim.beta2 == 0.999
    assert config.optim.learning_rate(0, 10) == config.optim.lr == config.optim.learning_rate(9, 10)


def test_every_shipped_config_loads_and_survives_yaml(tmp_path):
    names = shipped_configs()
    assert {*ORIGINAL, "emoji"} <= set(names)
    for name in names:
        config = load_config(name)
        path = tmp_path / f"{name}.yml"
        path.write_text(dump_yaml(config))
        assert load_config(path) == config


def test_yaml_leaves_out_what_was_left_out():
    assert "norm_groups" not in dump_yaml(load_config("cifar10"))
    assert "norm_groups: 8" in dump_yaml(load_config("emoji"))


def test_derived_sizes():
    config = load_config("emoji")
    assert config.resolutions == (16, 8, 4)
    assert config.sample_shape == (3, 48, 48)


# Where the error is, what it must say.
REFUSED = {
    "training.batchsize=4": ("training.batchsize: unknown key", "'batch_size'?", "snapshot_freq"),
    "model.zzzz=4": ("model.zzzz: unknown key.", "Allowed:", "attn_resolutions"),
    "optimizer.lr=1": ("optimizer: unknown key", "did you mean 'optim'?", "sampling"),
    "model.ch.x=1": ("model.ch.x: unknown key",),
    "training.batch_size=many": ("training.batch_size", "integer", "'many'"),
    "training.batch_size=4.5": ("training.batch_size", "integer", "4.5"),
    "training.batch_size=0": ("training.batch_size", "greater than or equal to 1"),
    "model.ch_mult=3": ("model.ch_mult", "given: 3"),
    "model.ch_mult=[]": ("model.ch_mult: needs at least one multiplier",),
    "optim.lr=fast": ("optim.lr", "number", "'fast'"),
    "optim.lr=.inf": ("optim.lr", "finite"),
    "optim.eps=.nan": ("optim.eps",),
    "diffusion.prediction=eps": (
        "diffusion.prediction",
        "'epsilon', 'x0', 'v', 'flow' or 'edm'",
        "'eps'",
    ),
    "diffusion.beta_start=0.5": ("beta_start 0.5 exceeds beta_end 0.02",),
    "data.logit_transform=true": ("rescaled and logit_transform exclude each other",),
    "model.ch_mult=[1,1e308]": ("ch times ch_mult is too large",),
    "model.ch=41": ("widths [41, 82, 164]", "norm_groups=8"),
    "model.attn_resolutions=[7]": ("attn_resolutions [7] never occur", "[16, 8, 4]"),
    "data.image_size=40": ("image_size 40 is not divisible by 12", "patch_size 3", "3 levels"),
    "data.image_size=64x36": ("image_size 64x36 is not divisible by 12",),
    "data.image_size=64x": ("data.image_size: write pixels as 64", "64x48, width first"),
    "data.image_size=0": ("data.image_size: write pixels as 64",),
    "data.background=pink": ("data.background", "white|black|#", "'pink'"),
    "data.white=0": ("data.white", "greater than 0"),
    "data.root=\udcb5": ("data.root holds bytes that are no UTF-8", "rename the folder"),
    "data.channels=1": ("model.in_channels is 3 but data.channels is 1",),
    "model.out_ch=6": ("model.out_ch is 6 but data.channels is 3",),
    "model.classes=[a, b, a]": ("classes holds a name twice",),
}


@pytest.mark.parametrize("item", REFUSED)
def test_what_is_refused_and_how(item):
    with pytest.raises(UsageError) as error:
        load_config("emoji", [item])
    for words in ("configs/emoji.yml: invalid configuration", *REFUSED[item]):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "size", "sides"),
    [
        ("64", 64, (64, 64)),
        ("64x48", (48, 64), (48, 64)),
        ("[48, 64]", (48, 64), (48, 64)),
        ("64x64", 64, (64, 64)),
    ],
)
def test_images_may_be_longer_one_way(text, size, sides):
    keys = ["model.attn_resolutions=[16]", "model.patch_size=2"]
    config = load_config("emoji", [f"data.image_size={text}", *keys])
    assert (config.data.image_size, config.data.sides) == (size, sides)
    assert config.sample_shape == (3, *sides)
    assert config.resolutions == (32, 16, 8)  # of the longer side, in patches of 2
    assert validate(json.loads(config.model_dump_json()), "again") == config


def test_dequantizations_that_cannot_be_combined():
    both = ["data.uniform_dequantization=true", "data.gaussian_dequantization=true"]
    with pytest.raises(UsageError, match="choose one of uniform_dequantization"):
        load_config("emoji", both)
    logit = ["data.rescaled=false", "data.logit_transform=true"]
    assert load_config("emoji", logit).data.logit_transform
    with pytest.raises(UsageError, match="logit_transform and gaussian_dequantization"):
        load_config("emoji", [*logit, "data.gaussian_dequantization=true"])


def test_several_mistakes_are_told_at_once():
    with pytest.raises(UsageError) as error:
        load_config("emoji", ["model.chs=3", "optim.lr=x"])
    assert "model.chs" in str(error.value)
    assert "optim.lr" in str(error.value)


ACCEPTED = [
    ("optim.lr=2e-5", ("optim", "lr"), 2e-5),
    ("optim.lr = 0.25", ("optim", "lr"), 0.25),
    ("training.batch_size=7", ("training", "batch_size"), 7),
    ("model.ch_mult=[1,1]", ("model", "ch_mult"), (1, 1)),
    ("model.attn_resolutions=[]", ("model", "attn_resolutions"), ()),
    ("data.random_flip=false", ("data", "random_flip"), False),
    ("data.root=a=b.npz", ("data", "root"), "a=b.npz"),
    ("data.root=null", ("data", "root"), None),
    ("optim.grad_clip=null", ("optim", "grad_clip"), None),
]


@pytest.mark.parametrize(("item", "where", "value"), ACCEPTED)
def test_overrides(item, where, value):
    before = load_config("emoji")
    after = override(before, [item])
    section, key = where
    assert getattr(getattr(after, section), key) == value
    assert getattr(getattr(before, section), key) != value
    changed = {s for s in type(before).model_fields if getattr(before, s) != getattr(after, s)}
    assert changed == {section}
    assert load_config("emoji", [item]) == after


def test_later_overrides_win():
    items = ["optim.lr=1", "optim.lr=2", "optim.beta1=0.5"]
    optim = load_config("emoji", items).optim
    assert (optim.lr, optim.beta1) == (2.0, 0.5)


@pytest.mark.parametrize("item", ["optim.lr", "lr=3", "optim.=3", ".lr=3", "=", ""])
def test_malformed_overrides(item):
    with pytest.raises(UsageError, match=r"write section\.key=value, as training\.batch_size=64"):
        load_config("emoji", [item])


def test_no_override_is_no_change():
    config = load_config("emoji")
    assert override(config, []) is config


NOT_A_CONFIG = [
    ("data: [1, 2", "not valid YAML"),
    ("- data\n- model\n", "expected sections such as 'data:'"),
    ("just words", "expected sections such as 'data:'"),
    ("", "expected sections such as 'data:'"),
    ("data:\n", "data: input should be a valid dictionary"),
    ("1: 2\n", "1: keys should be strings"),
    ("data: {}\n", "model: field required"),
]


@pytest.mark.parametrize(("text", "message"), NOT_A_CONFIG)
def test_files_that_are_no_configuration(tmp_path, text, message):
    path = tmp_path / "odd.yml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_config(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "message"), [("data:\n", "data.dataset"), ("data: 5\n", "data:")])
def test_an_override_into_an_empty_or_odd_section(tmp_path, text, message):
    path = tmp_path / "odd.yml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_config(path, ["data.image_size=8"])
    assert message in str(error.value)
    assert "data.image_size" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "odd.yml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read config"):
        load_config(path)


def test_missing_files_and_unknown_names(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read config .*absent\.yml: .*No such file"):
        load_config(tmp_path / "absent.yml")
    with pytest.raises(UsageError, match=r"'cifar'; did you mean 'cifar10'\?.*bedroom, celeba"):
        load_config("cifar")


def test_a_configuration_cannot_be_changed():
    config = load_config("emoji")
    with pytest.raises(ValueError, match="frozen"):
        config.optim.lr = 1.0


def test_another_models_keys_are_not_the_unets_concern():
    tree = {
        "data": {"dataset": "SHAPENET_OCTREE", "image_size": 1, "channels": 1, "max_depth": 6},
        "model": {"name": "octree", "hidden_dim": 256, "num_layers": 6, "num_heads": 8},
        "diffusion": {"beta_schedule": "sigmoid", "num_diffusion_timesteps": 200},
        "training": {},
        "sampling": {},
        "optim": {},
    }
    assert validate(tree, "octree").model.hidden_dim == 256


def test_the_learning_rate_rises_and_falls():
    optim = OptimConfig(lr=1.0, warmup_steps=4, decay_steps=5)
    rates = [optim.learning_rate(step, 20) for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[14:] == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    assert OptimConfig(lr=1.0, decay_steps=5).learning_rate(21, 20) == 0.0
    short = OptimConfig(lr=1.0, warmup_steps=4, decay_steps=4)
    assert [short.learning_rate(s, 4) for s in range(4)] == [0.25, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("name", "spacing", "fits"),
    [
        ("furniture", "cosine", True),
        ("furniture", "trailing", False),
        ("emoji", "trailing", True),
        ("emoji", "linear", False),
    ],
)
def test_images_and_octrees_have_spacings_of_their_own(name, spacing, fits):
    items = [f"sampling.spacing={spacing}"]
    if fits:
        assert load_config(name, items).sampling.spacing == spacing
        return
    with pytest.raises(UsageError, match=rf"sampling.spacing '{spacing}' is not for model.name"):
        load_config(name, items)
