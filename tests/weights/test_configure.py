"""Whose configuration bare tensors get: inferred and said, completed, or refused by name."""

from pathlib import Path

import pytest
import torch

from ddimx.config_file import load_config, override, validate
from ddimx.errors import DdimxError, UsageError
from ddimx.models.factory import build
from ddimx.weights import configure as subject
from ddimx.weights.architecture import from_config, from_tensors
from ddimx.weights.configure import configure
from ddimx.weights.weight_set import WeightSet
from tests.weights import plain

ORIGINALS = ["cifar10", "celeba", "bedroom", "church"]


def shapes(config):
    """The state dict of a configuration's network, without memory for its numbers."""
    with torch.device("meta"):
        return build(config)[0].state_dict()


def bare(config):
    """What is found in a state dict of this configuration's network."""
    tensors = shapes(config)
    architecture = from_tensors(tensors, "file")
    return WeightSet(
        "state dict", Path("file"), tensors, "unstated", ("unstated",), None, architecture
    )


@pytest.mark.parametrize(
    "config",
    [
        *map(load_config, ORIGINALS),
        plain(),
        plain(model={"ch_mult": [2, 2, 4], "attn_resolutions": [8, 2], "num_res_blocks": 3}),
        plain(model={"attn_resolutions": [], "resamp_with_conv": False}),
        plain(model={"ch_mult": [1], "attn_resolutions": [], "resamp_with_conv": False}),
        plain(data={"channels": 1}, model={"in_channels": 1, "out_ch": 1}),
    ],
    ids=lambda config: f"{config.data.dataset}-{config.model.ch_mult}",
)
def test_the_tensors_tell_the_architecture(config):
    assert from_tensors(shapes(config), "x") == from_config(config)


def test_published_architectures():
    """The known facts of the original: parameters (35.7 and 113.7 million) and attention."""
    facts = {}
    for name in ("cifar10", "bedroom"):
        tensors = shapes(load_config(name))
        architecture = from_tensors(tensors, name)
        facts[name] = (sum(t.numel() for t in tensors.values()), sorted(architecture.attention))
    assert facts == {"cifar10": (35_746_307, [1]), "bedroom": (113_673_219, [4])}


@pytest.mark.parametrize("name", ORIGINALS)
def test_bare_tensors_get_the_shipped_configuration_of_their_shapes(name):
    config, (note,) = configure(bare(load_config(name)), None, "file")
    expected = "bedroom" if name == "church" else name  # they differ in data.category alone
    assert config == load_config(expected)
    assert "inferred" in note
    assert name in note
    assert f"image size {config.data.image_size} and the linear noise schedule" in note


def test_without_a_fitting_configuration_the_tensors_are_described():
    with pytest.raises(UsageError, match=r"no shipped.*ch 32, ch_mult \(1, 2\).*give --config"):
        configure(bare(plain()), None, "file")


def test_two_fitting_configurations_that_differ_are_not_chosen_between(monkeypatch):
    known = {"one": plain(), "two": plain(diffusion={"beta_schedule": "cosine"})}
    monkeypatch.setattr(subject, "shipped_configs", lambda: list(known))
    monkeypatch.setattr(subject, "load_config", known.__getitem__)
    with pytest.raises(UsageError, match=r"fit the configurations one and two.*choose with"):
        configure(bare(plain()), None, "file")
    config, _ = configure(bare(plain()), known["two"], "file")
    assert config == known["two"]


def test_a_configuration_of_patches_or_classes_is_none_of_bare_tensors(monkeypatch):
    patched = plain(data={"channels": 3}, model={"patch_size": 2, "attn_resolutions": [2]})
    known = {"patched": patched, "classes": plain(model={"classes": ["a"]})}
    monkeypatch.setattr(subject, "shipped_configs", lambda: list(known))
    monkeypatch.setattr(subject, "load_config", known.__getitem__)
    with pytest.raises(UsageError, match="no shipped configuration"):
        configure(bare(plain()), None, "file")


def test_a_given_configuration_says_what_the_tensors_cannot():
    given = plain(
        data={"random_flip": True},
        model={"norm_groups": 16},
        diffusion={"beta_schedule": "const", "num_diffusion_timesteps": 100},
        sampling={"eta": 0.5},
    )
    assert configure(bare(plain()), given, "file")[0] == given


def test_keys_that_a_given_configuration_leaves_out_are_read_off_the_tensors():
    sparse = load_config("cifar10")
    tree = sparse.model_dump(exclude_unset=True)
    tree["data"].update(image_size=16)
    tree["model"] = {"attn_resolutions": [8], "norm_groups": 16}
    wanted = plain(data={"image_size": 16}, model={"ch_mult": [1, 2, 2], "attn_resolutions": [8]})
    config, _ = configure(bare(wanted), validate(tree, "given"), "file")
    assert from_config(config) == from_config(wanted)
    assert (config.model.norm_groups, config.data.image_size) == (16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.ch=64", r"model.ch is 64, the file has 32"),
        ("model.ch_mult=[1, 1]", r"model.ch_mult is \(1, 1\), the file has \(1, 2\)"),
        ("model.num_res_blocks=2", r"model.num_res_blocks is 2, the file has 1"),
        ("model.resamp_with_conv=false", r"model.resamp_with_conv is False, the file has True"),
        ("model.attn_resolutions=[8]", r"attn_resolutions \[8\] means .* levels \[0\].* on \[1\]"),
        ("model.classes=[a, b]", r"model.classes is \('a', 'b'\), the file's format has none"),
    ],
)
def test_a_contradiction_is_named(change, message):
    found = bare(plain())
    with pytest.raises(UsageError, match=message):
        configure(found, override(plain(), [change]), "file")


def test_channels_that_contradict():
    gray = plain(data={"channels": 1}, model={"in_channels": 1, "out_ch": 1})
    with pytest.raises(UsageError, match=r"model.in_channels is 1, the file has 3"):
        configure(bare(plain()), gray, "file")


def test_a_file_with_a_configuration_of_its_own_takes_no_other():
    found = WeightSet("ddimx model", Path("m"), {}, "ema", ("ema",), plain())
    assert configure(found, None, "m") == (plain(), ())
    with pytest.raises(UsageError, match="carries its own configuration: omit --config"):
        configure(found, plain(), "m")


def test_widths_that_are_no_multiples():
    tensors = dict(shapes(plain()))
    tensors["down.1.block.0.conv1.weight"] = torch.empty(40, 32, 3, 3, device="meta")
    with pytest.raises(DdimxError, match=r"widths \[32, 40\] are not multiples of ch 32"):
        from_tensors(tensors, "file")
