"""From a name to a network and its process, ours or somebody else's."""

import importlib.metadata

import pytest
import torch
from torch import nn

from ddimx.config_file import override
from ddimx.errors import UsageError
from ddimx.models import factory
from ddimx.models.factory import build
from ddimx.models.gaussian import GaussianProcess
from ddimx.models.unet import UNet


class Process:
    """The least that can be built."""

    def __init__(self, shape):
        self.shape = shape

    @classmethod
    def from_config(cls, config):
        return cls(config.sample_shape)


class WithProcess(nn.Module):
    """A network that brings its own process."""

    process = Process

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    @classmethod
    def from_config(cls, config):
        return cls(config.model.ch)


class Plain(WithProcess):
    """A network of the default process."""

    process = "gaussian"


class Default(nn.Module):
    @classmethod
    def from_config(cls, config):
        return cls()


class Odd(WithProcess):
    process = "quantum"


class Unbuildable(nn.Module):
    """No from_config."""


def named(config, name):
    return override(config, [f"model.name={name}"])


def test_the_unet(tiny_config):
    network, process = build(tiny_config)
    assert isinstance(network, UNet)
    assert isinstance(process, GaussianProcess)
    assert network.num_classes == process.num_classes == 2


def test_a_class_by_its_path_with_its_own_process(tiny_config):
    network, process = build(named(tiny_config, f"{__name__}:WithProcess"), trust_code=True)
    assert type(network) is WithProcess
    assert network.layer.in_features == 8
    assert type(process) is Process
    assert process.shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["Plain", "Default"])
def test_a_class_of_the_gaussian_process(tiny_config, name):
    network, process = build(named(tiny_config, f"{__name__}:{name}"), trust_code=True)
    assert type(network).__name__ == name
    assert isinstance(process, GaussianProcess)


def test_another_models_class_is_not_held_to_the_unets_rules(tiny_config):
    items = [f"model.name={__name__}:WithProcess", "model.ch=7", "data.image_size=5"]
    assert build(override(tiny_config, items), trust_code=True)[0].layer.in_features == 7


def test_an_entry_point(tiny_config, monkeypatch):
    point = importlib.metadata.EntryPoint("mine", f"{__name__}:WithProcess", "ddimx.models")

    def points(*, group):
        return [point] if group == "ddimx.models" else []

    monkeypatch.setattr(factory, "entry_points", points)
    assert type(build(named(tiny_config, "mine"))[0]) is WithProcess
    with pytest.raises(
        UsageError, match=r"'min'; did you mean 'mine'\? Allowed: .*lucidrains, mine, octree"
    ):
        build(named(tiny_config, "min"))


REFUSED = [
    (
        "unett",
        r"unknown model\.name 'unett'; did you mean 'unet'\? Allowed: dhariwal, discrete, ",
    ),
    (
        "zzz",
        r"unknown model\.name 'zzz'\. Allowed: dhariwal, discrete, guided, lucidrains, octree, "
        "song, unet, or",
    ),
    ("no.such.module:Class", r"'no\.such\.module:Class' cannot be imported: No module named 'no'"),
    (f"{__name__}:Absent", "cannot be imported: .*no attribute 'Absent'"),
    (f"{__name__}:Unbuildable", r"the class needs a method from_config\(config\)"),
    (f"{__name__}:Odd", r"unknown process 'quantum'\. Allowed: gaussian, discrete\."),
    (":Class", "write package.module:Class"),
    ("module:", "write package.module:Class"),
]


@pytest.mark.parametrize(("name", "message"), REFUSED)
def test_names_that_lead_nowhere(tiny_config, name, message):
    with pytest.raises(UsageError, match=message):
        build(named(tiny_config, f"'{name}'"), trust_code=True)


def test_an_error_inside_the_other_module_is_not_hidden(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "broken_model.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        build(named(tiny_config, "broken_model:Class"), trust_code=True)


def test_building_draws_from_torchs_generator_only(tiny_config):
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(build(tiny_config)[0].state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
