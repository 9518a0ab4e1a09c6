"""``ddimx convert``: from a training checkpoint to a model file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from ddimx.models.factory import build
from ddimx.training.state import TrainState, save_checkpoint
from ddimx.weights.formats.native import Header, read_header, read_tensors, save
from tests.sampling import invoke, names_in

STEP = 7


def save_run(folder, config):
    """Write a training run's folder with one checkpoint whose average differs from the weights."""
    torch.manual_seed(0)
    network, _ = build(config)
    state = TrainState.fresh(network, config)
    for value in state.ema.values():
        value.mul_(0.5)
    state.step, state.seconds = STEP, 5400.0
    info = {"command": "ddimx train", "licence": "none yet"}
    return save_checkpoint(folder, state, config, info, keep=3), state


@pytest.fixture
def run(tmp_path, tiny_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save_run(tmp_path / "runs" / "0001-train-tiny", tiny_config)


def test_an_average_becomes_a_small_model_that_knows_its_history(run, tmp_path, tiny_config):
    checkpoint, state = run
    note = "OFL 1.1; see a=b"
    done = invoke(
        "convert", checkpoint.parent, "small.safetensors", "--dtype", "fp16",
        "--note", f"licence={note}", "--note", "by=us",
    )  # fmt: skip
    assert (done.code, done.out) == (0, "")
    target = tmp_path / "small.safetensors"
    assert (
        done.err
        == f"small.safetensors: {target.stat().st_size / 1e6:.1f} MB, ema weights in fp16\n"
    )
    stored = read_tensors(target)
    assert stored.keys() == state.ema.keys()
    for name, value in state.ema.items():
        assert stored[name].dtype == torch.float16
        assert torch.equal(stored[name], value.half())
    header = read_header(target)
    assert header.kind == "model"
    assert header.config == tiny_config
    assert header.info == {
        "command": "ddimx train",
        "licence": note,
        "by": "us",
        "step": STEP,
        "seconds": 5400.0,
        "images_seen": STEP * tiny_config.training.batch_size,
        "hours": 1.5,
        "weights": "ema",
        "dtype": "fp16",
    }
    assert target.stat().st_size < checkpoint.stat().st_size / 3
    with safe_open(target, framework="pt") as file:  # other readers of safetensors read it too
        assert json.loads(file.metadata()["ddimx.info"])["licence"] == note


def test_raw_weights_and_quiet(run, tmp_path):
    checkpoint, state = run
    done = invoke("convert", checkpoint, "raw.safetensors", "--weights", "raw", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    stored = read_tensors(tmp_path / "raw.safetensors")
    for name, value in state.network.state_dict().items():
        assert torch.equal(stored[name], value)
    assert read_header(tmp_path / "raw.safetensors").info["weights"] == "raw"

    # A model made of a model keeps what it knows, and says which weights it holds.
    assert invoke("convert", "raw.safetensors", "b.safetensors", "--dtype", "bf16").code == 0
    info = read_header(tmp_path / "b.safetensors").info
    assert (info["weights"], info["dtype"], info["hours"]) == ("raw", "bf16", 1.5)


def test_what_was_converted_can_be_sampled_from(run, tmp_path):
    assert invoke("convert", run[0], "m.safetensors", "--dtype", "fp16").code == 0
    done = invoke("sample", "-m", "m.safetensors", "-n", 1, "--steps", 1, "--out", "a")
    assert done.code == 0, done.err
    assert "000000.png" in names_in(tmp_path / "a")


def test_a_target_is_kept_unless_told_otherwise(run, tmp_path):
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"mine")
    done = invoke("convert", run[0], target)
    assert (done.code, done.err) == (2, f"error: {target} exists; --overwrite replaces it\n")
    assert target.read_bytes() == b"mine"
    assert invoke("convert", run[0], target, "--overwrite").code == 0
    assert read_header(target).kind == "model"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["RUN", "m.pth"], 2, "m.pth: a model of form 'native' ends in .safetensors"),
        (["RUN", "m.safetensors", "--dtype", "fp15"], 2, "unknown dtype 'fp15'; did you mean 'fp1"),
        (["RUN", "m.safetensors", "--weights", "emma"], 2, "did you mean 'ema'?"),
        (["RUN", "m.safetensors", "--note", "licence"], 2, "--note licence: write KEY=TEXT"),
        (["RUN", "m.safetensors", "--note", "=x"], 2, "--note : write KEY=TEXT"),
        (["absent", "m.safetensors"], 2, "unknown model 'absent'"),
        (["empty", "m.safetensors"], 1, "empty: no checkpoint in this folder"),
        (["text", "m.safetensors"], 1, "text: not a readable model, neither"),
        (["RUN", "text/m.safetensors"], 1, "cannot write text/m.safetensors: "),
    ],
)
def test_a_wrong_command_says_what_is_wrong_and_writes_nothing(run, tmp_path, args, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no weights")
    done = invoke("convert", *(str(run[0]) if a == "RUN" else a for a in args))
    assert done.code == code
    assert done.err.startswith("error: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert names_in(tmp_path) == ["empty", "runs", "text"]


def test_weights_beyond_fp16_are_refused(run, tmp_path, tiny_config):
    tensors = dict(run[1].network.state_dict())
    name = next(iter(tensors))
    tensors[name] = torch.full_like(tensors[name], 1e5)
    save(tmp_path / "big.safetensors", tensors, Header("model", tiny_config, {}))
    done = invoke("convert", "big.safetensors", "m.safetensors", "--dtype", "fp16")
    assert done.code == 2
    assert "exceed the range of fp16; use bf16 or fp32" in done.err
    assert invoke("convert", "big.safetensors", "m.safetensors", "--dtype", "bf16").code == 0
    assert names_in(tmp_path) == ["big.safetensors", "m.safetensors", "runs"]


def test_sampling_defaults_can_be_given_along(tiny_model, tmp_path):
    target = tmp_path / "with.safetensors"
    done = invoke("convert", tiny_model, target, "--set", "sampling.eta=0.5", "-q")
    assert done.code == 0, done.err
    assert read_header(target).config.sampling.eta == 0.5
    refused = invoke("convert", tiny_model, tmp_path / "x.safetensors", "--set", "model.ch=16")
    assert refused.code == 2
    assert "only sampling.* can change" in refused.err
