"""``ddimx train`` as a process: stopping, going on, and wrong commands."""

import json
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from ddimx.config_file import dump_yaml, override
from ddimx.runs.lock import lock_folder
from ddimx.weights.formats.native import read_header, read_tensors
from tests import weights as others
from tests.conftest import ROOT, cli_environment
from tests.sampling import invoke


@pytest.fixture
def config_file(tiny_config, tmp_path):
    path = tmp_path / "tiny.yml"
    path.write_text(dump_yaml(tiny_config))
    return path


@pytest.fixture
def train(config_file, tmp_path, monkeypatch):
    """Run ``ddimx train`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        return invoke("train", "-q", "--device", "cpu", *args)

    return run


def weights(folder, step, prefix="model."):
    return read_tensors(folder / "checkpoints" / f"checkpoint-{step:08d}.safetensors", prefix)


def test_a_run_leaves_checkpoints_curves_and_pictures(train, config_file, tmp_path):
    assert train("-c", config_file, "--seed", 4).code == 0
    folder = tmp_path / "runs" / "0001-train-tiny"
    names = {path.name for path in folder.iterdir()}
    assert {"checkpoints", "config.yml", "log.jsonl", "samples", "tensorboard"} <= names
    header = read_header(folder / "checkpoints" / "checkpoint-00000006.safetensors")
    assert (header.kind, header.info["step"], header.info["seed"]) == ("checkpoint", 6, 4)
    assert header.info["command"].startswith("ddimx train")
    assert len(header.info["data_sha256"]) == 64
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_held_out" in line] == [3, 6]
    assert (folder / "samples" / "step-00000006.png").stat().st_size > 0


def test_a_resumed_run_ends_with_the_same_bits(train, config_file, tmp_path):
    assert train("-c", config_file, "-o", "whole").code == 0
    assert train("-c", config_file, "-o", "halves", "--set", "training.n_iters=3").code == 0
    assert train("--resume", "halves", "--set", "training.n_iters=6").code == 0
    for prefix in ("model.", "ema.", "optim."):
        whole, halves = (weights(tmp_path / name, 6, prefix) for name in ("whole", "halves"))
        assert whole.keys() == halves.keys()
        assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_init_starts_from_a_models_weights(train, config_file, tiny_model, tmp_path):
    options = ("--set", "training.n_iters=1", "--set", "optim.lr=1e-12")
    assert train("-c", config_file, "--init", tiny_model, "-o", "tuned", *options).code == 0
    start, end = read_tensors(tiny_model), weights(tmp_path / "tuned", 1)
    assert max((start[n] - end[n]).abs().max().item() for n in start) < 1e-6


@pytest.mark.parametrize(("args", "place"), [((), 1), (("--weights", "raw"), 0)])
def test_init_takes_a_list_too(train, config_file, tiny_config, tmp_path, args, place):
    sets = [others.weights(tiny_config, seed) for seed in (1, 2)]
    torch.save(others.original_list(*sets), tmp_path / "ckpt.pth")
    options = ("--set", "training.n_iters=1", "--set", "optim.lr=1e-12", *args)
    done = train("-c", config_file, "--init", "ckpt.pth", "-o", "tuned", *options)
    assert done.code == 0, done.err
    end = weights(tmp_path / "tuned", 1)
    assert max((sets[place][n] - end[n]).abs().max().item() for n in end) < 1e-6


def test_weights_without_init_are_refused(train, config_file):
    done = train("-c", config_file, "--weights", "raw")
    assert done.code == 2
    assert "--weights raw chooses among those of --init" in done.err


def test_nccl_without_cuda_is_refused_of_one_process_too(train, config_file, tmp_path):
    done = train("-c", config_file, "-o", "run", "--set", "training.backend=nccl")
    assert done.code == 2
    assert "needs CUDA devices, and this process computes on cpu" in done.err
    assert not (tmp_path / "run" / "config.yml").exists()


def test_resume_and_init_exclude_each_other(train, tiny_model):
    done = train("--resume", "last", "--init", tiny_model)
    assert done.code == 2
    assert "choose one" in done.err


def test_the_command_of_a_run_goes_on_with_it(train, config_file, tmp_path):
    assert train("-c", config_file, "-o", "whole", "--seed", 4).code == 0
    assert train("-c", config_file, "-o", "there", "--seed", 4).code == 0
    (tmp_path / "there" / "checkpoints" / "checkpoint-00000006.safetensors").unlink()
    assert train("-c", config_file, "-o", "there", "--seed", 4).code == 0
    whole, there = (weights(tmp_path / name, 6, "") for name in ("whole", "there"))
    assert whole.keys() == there.keys()
    assert all(torch.equal(whole[name], there[name]) for name in whole)
    info = read_header(tmp_path / "there" / "checkpoints" / "checkpoint-00000006.safetensors").info
    assert [entry["step"] for entry in info["resumed"]] == [3]
    done = train("-c", config_file, "-o", "there", "--seed", 5)
    assert done.code == 2
    assert "go on with --resume there" in done.err


def test_a_run_without_a_checkpoint_begins_again(train, config_file, tiny_model, tmp_path):
    start = ("--seed", 4, "--init", tiny_model)
    assert train("-c", config_file, "-o", "whole", *start).code == 0
    assert train("-c", config_file, "-o", "killed", *start).code == 0
    for path in (tmp_path / "killed" / "checkpoints").iterdir():
        path.unlink()
    done = invoke("train", "--device", "cpu", "--resume", "killed")
    assert done.code == 0, done.err
    assert "killed: no checkpoint yet; beginning again" in done.err
    whole, again = (weights(tmp_path / name, 6, "") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    (tmp_path / "killed" / "train.json").unlink()
    for path in (tmp_path / "killed" / "checkpoints").iterdir():
        path.unlink()
    assert "no checkpoint in killed" in train("--resume", "killed").err


def test_the_command_is_recorded_as_it_can_be_given_again(train, config_file, tmp_path):
    setting = "model.classes=[round, square]"
    assert train("-c", config_file, "-o", "a b", "--set", setting).code == 0
    (*_, last) = sorted((tmp_path / "a b" / "checkpoints").iterdir())
    command = read_header(last).info["command"]
    assert shlex.split(command)[-4:] == ["-o", "a b", "--set", setting]


def test_a_training_that_version_0_1_0_stopped_goes_on(tmp_path, monkeypatch):
    there = ROOT / "tests" / "fixtures" / "0.1.0"
    shutil.copytree(there / "training", tmp_path / "training")
    shutil.copy(there / "tiny.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    (checkpoint,) = (tmp_path / "training" / "checkpoints").iterdir()
    before = read_header(checkpoint).info
    assert "losses" not in before
    done = invoke("train", "--device", "cpu", "--resume", "training", "--set", "training.n_iters=4")
    assert done.code == 0, done.err
    assert f"training: going on from step {before['step']}" in done.err
    (*_, newest) = sorted((tmp_path / "training" / "checkpoints").iterdir())
    after = read_header(newest).info
    assert after["step"] == 4
    assert len(after["losses"]) == 4 - before["step"]
    assert after["seed"] == before["seed"]


def test_a_second_process_is_refused(train, config_file, tmp_path):
    with lock_folder(tmp_path / "run"):
        done = train("-c", config_file, "-o", "run")
    assert done.code == 2
    assert "another process is writing run" in done.err


def test_a_folder_with_a_run_is_not_overwritten(train, config_file):
    assert train("-c", config_file, "-o", "there", "--set", "training.n_iters=1").code == 0
    done = train("-c", config_file, "-o", "there")
    assert done.code == 2
    assert "go on with --resume there" in done.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "name a configuration with --config"),
        (("-c", "cifar11"), 2, "did you mean 'cifar10'?"),
        (("-c", "emoji"), 1, "run 'ddimx prepare emoji'"),
        (("-c", "cifar10", "--offline"), 1, "data/cifar10/cifar-10-python.tar.gz"),
        (("-c", "cifar10", "--set", "data.root=absent"), 1, "put cifar-10-python.tar.gz there"),
        (("-c", "celeba"), 1, "put img_align_celeba.zip there"),
        (("-c", "bedroom"), 1, "unpack bedroom_train_lmdb.zip there"),
        (("-c", "cifar10", "--set", "data.dataset=CIFAR"), 2, "did you mean 'CIFAR10'?"),
        (("--resume", "last"), 1, "no 'train' run"),
        (("-c", "emoji", "--set", "optim.learning_rate=1"), 2, "unknown key"),
        (("-c", "emoji", "--set", "lr=1"), 2, "write section.key=value"),
        (("-c", "emoji", "--device", "tpu"), 2, "unknown device 'tpu'"),
    ],
)
def test_a_wrong_command_is_one_clear_message(train, tiny_npz, tmp_path, args, code, message):
    if "--device" in args:
        args = (*args, "--set", f"data.root={tiny_npz}", "--set", "data.image_size=8")
        args = (*args, "--set", "model.classes=[round, square]", "--set", "model.ch_mult=[1, 2]")
        args = (*args, "--set", "model.attn_resolutions=[2]", "--set", "model.patch_size=2")
    done = train(*args)
    assert done.code == code
    assert message in done.err
    assert done.err.count("error:") == 1
    assert not any(tmp_path.glob("runs/*"))  # nothing was begun
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.full), (signal.SIGTERM, 143)],
)
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on(
    tiny_config, tmp_path, monkeypatch, number, code
):
    endless = override(tiny_config, ["training.n_iters=1000000", "training.snapshot_freq=5"])
    (tmp_path / "endless.yml").write_text(dump_yaml(endless))
    process = subprocess.Popen(
        [sys.executable, "-m", "ddimx", "train", "-c", "endless.yml", "-o", "run"],
        cwd=tmp_path,
        env=cli_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "checkpoint written" in line:
            break
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=120) == code
    assert "go on: ddimx train --resume run" in rest
    (*_, newest) = sorted((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    step = read_header(newest).info["step"]
    assert f"stopped at step {step}" in rest
    goal = ("--set", f"training.n_iters={step + 2}")
    monkeypatch.chdir(tmp_path)
    done = invoke("train", "--resume", "run", *goal)
    assert done.code == 0, done.err
    assert f"{step + 2} steps done" in done.err
