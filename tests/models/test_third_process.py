"""A kind of model that the package has never heard of trains, samples, resumes and is exported."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ddimx
from ddimx.errors import UsageError
from tests.conftest import cli_environment
from tests.models import toy_process
from tests.sampling import invoke

TOY = Path(toy_process.__file__)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_npz):
    """A folder in which the toy was trained for 20 steps."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copy(TOY, folder / "toy.py")
    config = {
        "data": {"dataset": "NPZ", "root": str(tiny_npz), "image_size": 8, "channels": 3},
        "model": {"name": "toy:Network"},
        "diffusion": {},
        "sampling": {},
        "training": {"batch_size": 4, "n_iters": 20, "snapshot_freq": 10, "validation_freq": 10},
        "optim": {"lr": 0.1},
    }
    (folder / "toy.yml").write_text(yaml.safe_dump(config))
    environment = cli_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment["PYTHONPATH"]])
    train = ["train", "--config", "toy.yml", "--trust-code", "--out", "trained"]
    done = subprocess.run(
        [sys.executable, "-m", "ddimx", *train],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    """The same folder, from which Python now imports and in which commands run."""
    monkeypatch.syspath_prepend(str(trained))
    monkeypatch.chdir(trained)
    return trained


def sample(*options):
    done = invoke("sample", "--model", "trained", "--trust-code", "--seed", "7", "--json", *options)
    assert done.code == 0, done.err
    return json.loads(done.out)


def rows(folder):
    return {path.name: path.read_text() for path in sorted(folder.glob("*.txt"))}


def test_it_trains(trained):
    log = [json.loads(line) for line in (trained / "trained" / "log.jsonl").open()]
    losses = [line["validation_train"] for line in log if "validation_train" in line]
    assert losses[0] > losses[-1]
    assert (trained / "trained" / "samples" / "step-00000010.png").is_file()


def test_it_samples_and_a_run_grows_and_resumes(here):
    record = sample("--steps", "3", "-n", "3", "--out", "run")
    assert record["files"][:3] == ["000000.txt", "000001.txt", "000002.txt"]
    assert (record["nfe"], record["identity"]["solver"]) == (3, "halving")
    first = rows(here / "run")
    assert all(0 <= int(n) < toy_process.TOP for text in first.values() for n in text.split())
    (here / "run" / "000001.txt").unlink()
    sample("--steps", "3", "-n", "5", "--batch-size", "2", "--out", "run")
    grown = rows(here / "run")
    assert len(grown) == 5
    assert {name: grown[name] for name in first} == first
    assert (here / "run" / "grid.png").is_file()
    sample("--steps", "3", "-n", "5", "--invariant", "--out", "again")
    assert rows(here / "again") == grown


def test_options_of_other_kinds_are_refused_by_its_own_name(here):
    done = invoke("sample", "--model", "trained", "--trust-code", "--format", "png")
    assert done.code == 2
    assert "draws integers, which are written as txt" in done.err
    model = ddimx.load_model(here / "trained", device="cpu", dtype="fp32", trust_code=True)
    for option, draws in (({"clip": 1.0}, "images"), ({"temperature": 2.0}, "octrees")):
        with pytest.raises(UsageError) as error:
            ddimx.sample(model, count=1, **option)
        assert f"{next(iter(option))}: for models of {draws}, " in str(error.value)
        assert "draws integers" in str(error.value)


def test_it_is_explained_and_its_time_is_told(here):
    done = invoke("sample", "--model", "trained", "--trust-code", "--dry-run", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["plan"] == {"solver": "halving", "times": [4, 2, 1]}
    assert told["costs"]["memory_bytes"] is None


def test_in_python_it_is_a_model_as_others(here):
    sample("--steps", "3", "-n", "3", "--dtype", "fp32", "--out", "by-command")
    model = ddimx.load_model(here / "trained", device="cpu", dtype="fp32", trust_code=True)
    assert repr(model).startswith("Model 'checkpoint-00000020': integers, no classes")
    drawn = ddimx.sample(model, steps=3, count=3, seed=7)
    assert (drawn.shape, drawn.dtype) == ((3, 64), torch.int64)
    written = rows(here / "by-command")
    for index, row in enumerate(drawn):
        assert np.array_equal(row, [int(n) for n in written[f"{index:06d}.txt"].split()])
    *_, last = ddimx.stream(model, steps=3, count=3, seed=7)
    assert torch.equal(last, drawn)
    with pytest.raises(UsageError, match="needs a model of octrees, and this one draws integers"):
        ddimx.sample_shapes(model)


def test_nobody_outside_the_models_asks_which_kind_it_is():
    names = ("DiscreteProcess", "GaussianProcess", "LatentProcess", "TextProcess")
    for path in (TOY.parents[2] / "ddimx").rglob("*.py"):
        if "models" in path.relative_to(TOY.parents[2]).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                assert not any(name in ast.unparse(node.args[1]) for name in names), path
