"""Checkpoint lists and state dicts: which weights are taken, and that nothing is unpickled."""

import os

import pytest
import torch

from ddimx.errors import DdimxError, UsageError
from ddimx.weights.formats.pickled import read_pickled, write_list
from ddimx.weights.model import load_model
from tests.weights import config_file, original_list, plain, same, weights

CONFIG = plain()
RAW, EMA = weights(CONFIG, 1), weights(CONFIG, 2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ckpt.pth"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_list_gives_the_average_unless_told_otherwise(path, prefix, zipped):
    states = original_list(RAW, EMA, prefix=prefix)
    torch.save(states, path, _use_new_zipfile_serialization=zipped)
    found = read_pickled(path)
    assert same(found.tensors, EMA)
    assert (found.which, found.form, found.info) == ("ema", "ermongroup list", {"step": 12})
    assert same(read_pickled(path, "ema").tensors, EMA)
    raw = read_pickled(path, "raw")
    assert same(raw.tensors, RAW)
    assert raw.which == "raw"


def test_an_average_with_prefixes_is_read_too(path):
    prefixed = {f"module.{name}": value for name, value in EMA.items()}
    torch.save(original_list(RAW, prefixed), path)
    assert same(read_pickled(path).tensors, EMA)


def test_a_list_without_an_average_gives_what_it_has_and_no_more(path):
    torch.save(original_list(RAW, None), path)
    found = read_pickled(path)
    assert found.which == "raw"
    assert same(found.tensors, RAW)
    with pytest.raises(DdimxError, match="holds no ema weights but raw weights"):
        read_pickled(path, "ema")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_state_dict_does_not_say_what_it_holds(path, zipped):
    torch.save(RAW, path, _use_new_zipfile_serialization=zipped)
    found = read_pickled(path)
    assert same(found.tensors, RAW)
    assert (found.which, found.form) == ("unstated", "state dict")
    with pytest.raises(UsageError, match=r"does not say .* omit --weights ema"):
        read_pickled(path, "ema")


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


def test_code_in_a_pickle_is_not_run(path, tmp_path):
    proof = tmp_path / "proof"
    torch.save([RAW, Payload(proof), 0, 0, EMA], path)
    with pytest.raises(DdimxError, match="not a file of tensors alone"):
        read_pickled(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # so the file was dangerous indeed


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.98])
def test_a_truncated_file_is_named(path, zipped, kept):
    torch.save(original_list(RAW, EMA), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DdimxError, match=r"ckpt\.pth: not a"):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "model": [RAW]}, "holds a dict with epoch, model; neither a state dict nor"),
        ([dict(RAW), {}], "holds a list of dict, dict; neither"),
        ([1, 2, 3, 4, 5], "holds a list of int, int, int, int, int; neither"),
        (torch.zeros(3), "holds a Tensor; neither"),
        ({}, "holds an empty dict"),
        ({"model": {"fc.weight": torch.zeros(2, 2)}}, r"begin model\.fc\.weight, which no network"),
        ({"model": {"down_blocks.0.x": torch.zeros(2)}}, "names are diffusers'.*save_pretrained"),
        ({"fc.weight": torch.zeros(2, 2)}, "not the UNet of ermongroup/ddim; its tensors begin fc"),
        (
            {"conv_in.weight": torch.zeros(2, 2), "down_blocks.0.x": torch.zeros(2)},
            "its names are diffusers': give the folder",
        ),
    ],
)
def test_other_content_is_outlined(path, content, message):
    torch.save(content, path)
    with pytest.raises(DdimxError, match=message):
        read_pickled(path)


def test_what_is_written_is_what_the_original_reads(path):
    """As its runner does: DataParallel's names in [0], the average in the last place."""
    write_list(path, RAW, EMA, CONFIG, step=7)
    states = torch.load(path, weights_only=True)
    assert [type(state) for state in states] == [dict, dict, int, int, dict]
    assert states[2:4] == [0, 7]
    assert same(states[0], {f"module.{name}": value for name, value in RAW.items()})
    assert same(states[-1], EMA)
    optimizer = torch.optim.Adam([torch.nn.Parameter(value) for value in RAW.values()])
    optimizer.load_state_dict(states[1])
    assert optimizer.param_groups[0]["lr"] == 0.001


def test_the_same_list_is_the_same_file(tmp_path):
    for name in ("a.pth", "another name.pth"):
        write_list(tmp_path / name, RAW, EMA, CONFIG, step=7)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "another name.pth").read_bytes()


def test_a_model_is_loaded_from_it(path, tmp_path):
    torch.save(original_list(RAW, EMA), path)
    model = load_model(path, device="cpu", dtype="fp32", config=config_file(tmp_path, CONFIG))
    assert same(model.network.state_dict(), EMA)
    assert (model.weights, model.form) == ("ema", "ermongroup list")
    assert model.notes == ("what the file does not say is taken from --config",)
