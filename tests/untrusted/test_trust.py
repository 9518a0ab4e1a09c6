"""A file that names a class does not run it: every door, with a class that would leave a mark."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import ddimx
from ddimx.config_file import dump_yaml, override
from ddimx.errors import UsageError
from ddimx.models.factory import build
from ddimx.weights.formats.native import Header, save
from tests.conftest import ROOT
from tests.sampling import invoke, manifest_of

# Imported, it leaves a mark; it is also a working network.
PLANTED = """
from pathlib import Path
Path({mark!r}).touch()
from ddimx.models.unet import UNet
class Net(UNet):
    pass
"""
NAME = "planted:Net"
TRUST = "--trust-code"


@pytest.fixture
def planted(tmp_path, tiny_config, formula_weights, monkeypatch):
    """A folder as somebody might download it: weights, a configuration, and a module beside them.

    Returns whether the module has run.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mark = tmp_path / "it-ran"
    (tmp_path / "planted.py").write_text(PLANTED.format(mark=str(mark)))
    config = override(tiny_config, [f"model.name={NAME}"])
    network, _ = build(tiny_config)
    tensors = formula_weights(network).state_dict()
    save(tmp_path / "m.safetensors", tensors, Header("model", config, {"weights": "ema"}))
    (tmp_path / "own.yml").write_text(dump_yaml(config))
    yield mark.exists
    sys.modules.pop("planted", None)


VERBS = {
    "sample": ("sample", "-m", "m.safetensors", "-n", 1, "--steps", 1, "-o", "out"),
    "dry run": ("sample", "-m", "m.safetensors", "--dry-run"),
    "explain": ("sample", "-m", "m.safetensors", "--explain"),
    "inpaint": ("inpaint", "a.png", "-m", "m.safetensors", "--steps", 1, "--mask", "left"),
    "encode": ("encode", "a.png", "-m", "m.safetensors", "--steps", 1),
    "interpolate": ("interpolate", 1, 2, "-m", "m.safetensors", "--steps", 1, "--frames", 2),
    "sequence": ("sequence", "-m", "m.safetensors", "--steps", 1, "-n", 1),
    "neighbors": ("evaluate", "neighbors", "-m", "m.safetensors", "--steps", 1, "-n", 1),
    "nll": ("evaluate", "nll", "-m", "m.safetensors", "-n", 1, "--terms", 1, "--flow-steps", 0),
    "solvers": (
        *("evaluate", "solvers", "-m", "m.safetensors", "--nfe", 2, "-n", 1, "--solver", "ddim"),
        *("--spacing", "trailing", "--reference", 20),
    ),
    "train": ("train", "--config", "own.yml", "--out", "run"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_builds_a_network_refuses_it_and_obeys_the_option(verb, planted, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    command = (*VERBS[verb], "--device", "cpu")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = invoke(*command)
    file = "own.yml" if verb == "train" else "m.safetensors"
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == (
        f"error: {file} names the network '{NAME}', and to import it is to run its module: if you "
        f"trust that code, give {TRUST} (in Python: trust_code=True)"
    )
    assert not planted()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    done = invoke(*command, TRUST)
    assert done.code == 0, done.err
    assert planted()
    for record in tmp_path.rglob("manifest.json"):  # where a later command could take it from
        assert "trust_code" not in json.loads(record.read_text())["asked"]


def test_steps_of_octrees_need_it_too(tmp_path, planted):
    from tests.models.octree.small import octree_config

    config = override(octree_config(), [f"model.name={NAME}"])
    save(tmp_path / "o.safetensors", {"a": torch.zeros(1)}, Header("model", config, {}))
    done = invoke("evaluate", "steps", "--reference", ".", "-m", "o.safetensors", "-o", "out")
    assert done.code == 2
    assert f"o.safetensors names the network '{NAME}'" in done.err
    assert not planted()


def test_verbs_that_only_move_tensors_import_nothing(planted, tmp_path):
    """convert and info need no trust: nothing of the class is run."""
    for command in (
        ("convert", "m.safetensors", "copy.safetensors", "--dtype", "fp16"),
        ("info", "m.safetensors"),
        ("train", "-c", "plain.yml", "--init", "m.safetensors", "-o", "run", "--device", "cpu"),
    ):
        text = (tmp_path / "own.yml").read_text().replace(f"name: {NAME}", "name: unet")
        (tmp_path / "plain.yml").write_text(text)
        done = invoke(*command)
        assert done.code == 0, done.err
        assert not planted()
    assert invoke("sample", "-m", "copy.safetensors", "--dry-run").code == 2


def test_python(planted):
    for trust in ({}, {"trust_code": False}):
        with pytest.raises(
            UsageError, match=r"m\.safetensors names .*'planted:Net'.*trust_code=True"
        ):
            ddimx.load_model("m.safetensors", device="cpu", **trust)
    assert not planted()
    model = ddimx.load_model("m.safetensors", device="cpu", trust_code=True)
    assert planted()
    assert ddimx.sample(model, count=1, steps=1).shape == (1, 3, 8, 8)


def test_a_configuration_beside_foreign_weights(planted, tmp_path):
    """ddimx.json of a diffusers folder, and --config: the message names the one that says it."""
    assert invoke("convert", "m.safetensors", "x.safetensors", "-q").code == 0
    from tests.weights.formats.diffusers.models import pipeline

    pipeline().save_pretrained(tmp_path / "pipe")
    model = ddimx.load_model("pipe", device="cpu")  # as the folder is, without a class of its own
    tree = json.loads(override(model.config, [f"model.name={NAME}"]).model_dump_json())
    (tmp_path / "other.yml").write_text(json.dumps(tree))
    ours = {"schema": 1, "weights": "ema", "config": tree, "info": {}}
    (tmp_path / "pipe" / "ddimx.json").write_text(json.dumps(ours))
    done = invoke("sample", "-m", "pipe", "-n", 1)
    assert done.code == 2
    assert f"{os.path.join('pipe', 'ddimx.json')} names the network '{NAME}'" in done.err
    (tmp_path / "pipe" / "ddimx.json").unlink()
    done = invoke("sample", "-m", "pipe", "-n", 1, "--config", "other.yml")
    assert done.code == 2
    assert f"other.yml names the network '{NAME}'" in done.err
    assert not planted()


def test_an_override_is_no_trust(planted, tmp_path, tiny_config):
    (tmp_path / "plain.yml").write_text(dump_yaml(tiny_config))
    done = invoke("train", "-c", "plain.yml", "--set", f"model.name={NAME}", "--device", "cpu")
    assert done.code == 2
    assert f"--set names the network '{NAME}'" in done.err
    assert not planted()


def test_training_is_resumed_only_with_it(planted, tmp_path):
    done = invoke("train", "-c", "own.yml", "-o", "run", "--device", "cpu", TRUST)
    assert done.code == 0, done.err
    os.remove("it-ran")
    sys.modules.pop("planted")
    more = ("train", "--resume", "run", "--set", "training.n_iters=7", "--device", "cpu")
    done = invoke(*more)
    assert done.code == 2
    assert f"checkpoint-00000006.safetensors names the network '{NAME}'" in done.err
    assert not planted()
    shutil.move("run/checkpoints", "kept")  # as after a kill before the first one
    done = invoke(*more)
    assert done.code == 2
    assert f"{os.path.join('run', 'config.yml')} names the network '{NAME}'" in done.err
    assert not planted()
    shutil.move("kept", "run/checkpoints")
    assert invoke(*more, TRUST).code == 0
    assert planted()


def test_sampling_is_resumed_only_with_it(planted, tmp_path):
    """The option is not remembered: a manifest could say so, too."""
    done = invoke("sample", "-m", "m.safetensors", "-n", 1, "--steps", 1, "-o", "out", TRUST)
    assert done.code == 0, done.err
    assert "trust_code" not in json.dumps(manifest_of(tmp_path / "out")["asked"])
    os.remove("it-ran")
    sys.modules.pop("planted")
    record = manifest_of(tmp_path / "out")
    asked = record["asked"] | {"trust_code": True}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(record | {"asked": asked}))
    done = invoke("sample", "--resume", "out", "-n", 2)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert not planted()
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(record))
    done = invoke("sample", "--resume", "out", "-n", 2)
    assert done.code == 2
    assert TRUST in done.err
    assert not planted()
    assert invoke("sample", "--resume", "out", "-n", 2, TRUST).code == 0
    assert planted()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asked": {"model": "m.safetensors"}}, "model_sha256: "),
        ({"identity": {"seed": 5}}, "seed: 5 -> 0"),
        ({"count": 9}, "holds 9 samples of this run, 1 were asked for"),
        ({"files": ["../m.safetensors"]}, "the name '../m.safetensors' is refused"),
    ],
    ids=["model", "seed", "count", "files"],
)
def test_a_manifest_of_another_run_loads_nothing(change, message, planted, tmp_path, tiny_model):
    """Even trusted: the class is that of a model which the run was not begun with."""
    done = invoke("sample", "-m", tiny_model, "-n", 1, "--steps", 1, "-o", "out")
    assert done.code == 0, done.err
    record = manifest_of(tmp_path / "out")
    record["asked"]["model"] = "m.safetensors"
    for key, value in change.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(record))
    done = invoke("sample", "--resume", "out", TRUST)
    assert done.code in (1, 2)
    assert message in done.err
    assert not planted()


# --- the current folder ---------------------------------------------------------------------------


def in_process(folder, *command):
    """Run from ``folder``, with the checkout on the path as an installation would be."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, "-m", "ddimx", *map(str, command)],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def register(folder, group, value):
    """Make a folder look as if a package were installed in it."""
    info = folder / "planted-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    with (info / "entry_points.txt").open("a") as stream:
        stream.write(f"[{group}]\nmine = {value}\n")


def test_python_m_from_a_download(planted, tmp_path):
    """Also not by the name of what is imported later, nor by a record that it were installed."""
    for name in ("tensorboard", "trimesh", "plyfile", "safetensors", "yaml"):
        shutil.copy(tmp_path / "planted.py", tmp_path / f"{name}.py")
    register(tmp_path, "torch.backends", "planted:Net")  # which torch runs when it is imported
    register(tmp_path, "ddimx.models", "planted:Net")
    command = ("sample", "-m", "m.safetensors", "-n", 1, "--steps", 1, "--device", "cpu")
    done = in_process(tmp_path, *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{NAME}'" in done.stderr
    assert not planted()


def test_python_m_from_a_download_that_is_trusted(planted, tmp_path):
    command = ("sample", "-m", "m.safetensors", "-n", 1, "--steps", 1, "--device", "cpu")
    done = in_process(tmp_path, *command, TRUST)
    assert done.returncode == 0, done.stderr
    assert planted()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no safe path before 3.11")
def test_processes_that_are_started_do_not_look_there_either(planted, tmp_path):
    """Python begins them with the current folder first, before anything of ours can be said."""
    shutil.copy(tmp_path / "planted.py", tmp_path / "socket.py")  # multiprocessing imports it
    (tmp_path / "clouds").mkdir()
    for i in range(9):
        np.save(tmp_path / "clouds" / f"{i}.npy", np.random.RandomState(i).rand(20, 3))
    done = in_process(tmp_path, "prepare", "octrees", "clouds", "set", "--depth", 2, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "set" / "train.jsonl").is_file()
    assert not planted()


def test_only_what_is_installed_registers_itself(planted, tmp_path, tiny_config, monkeypatch):
    """In the current folder a distribution's record is a file like any other."""
    register(tmp_path, "ddimx.models", NAME)
    config = override(tiny_config, ["model.name=mine"])
    for entry in (str(tmp_path), "", "."):
        monkeypatch.setattr(sys, "path", [entry, *sys.path[1:]])
        with pytest.raises(UsageError, match=r"unknown model\.name 'mine'"):
            build(config)
        assert sys.path[0] == entry
    assert not planted()
    # The same folder, as an installation adds it: behind the standard library.
    monkeypatch.setattr(sys, "path", [*sys.path[1:], str(tmp_path)])
    assert type(build(config)[0]).__name__ == "Net"
    assert planted()
