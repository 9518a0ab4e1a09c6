"""``ddimx info``."""

from __future__ import annotations

import json
import platform

import numpy as np
import pytest
import torch

import ddimx
from ddimx.runs.pictures import as_image, save_image
from ddimx.weights.formats.native import Header, read_tensors, save
from ddimx.weights.locate.cache import cache_folder
from tests.sampling import invoke


@pytest.fixture
def shipped(monkeypatch, tmp_path, tiny_model, tiny_config):
    """A package that comes with one model, whatever this checkout has."""
    path = tmp_path / "small.safetensors"
    info = {"images_seen": 1234, "hours": 0.5, "device": "cpu (x)", "licence": "OFL", "step": 3}
    save(path, read_tensors(tiny_model), Header("model", tiny_config, info))
    monkeypatch.setattr("ddimx.weights.describe.shipped_models", lambda: ["small"])
    monkeypatch.setattr("ddimx.weights.describe.find_model", {"small": path}.__getitem__)
    return path


def test_versions_devices_kernels_cache_and_models(shipped, monkeypatch):
    monkeypatch.setenv("DDIMX_CACHE", "/somewhere/else")
    done = invoke("info", "--json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts.keys() == {"versions", "devices", "launch", "kernels", "cache", "models"}
    assert facts["versions"]["ddimx"] == ddimx.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["devices"]["default"] in ("cpu", "cuda", "mps")
    assert (facts["devices"]["cuda"] == "not available") == (not torch.cuda.is_available())
    assert facts["devices"]["dtype auto"].split(":")[0] in ("fp32", "bf16", "fp16")
    name, _, reason = facts["kernels"]["update"].partition(" ")
    assert name in ("triton", "reference")
    assert len(reason) > len("()")
    assert facts["cache"] == "/somewhere/else"
    assert list(facts["models"]) == ["small"]


def test_the_same_for_people(shipped):
    done = invoke("info")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    titles = [line for line in lines if not line.startswith(" ")]
    assert titles == ["versions", "devices", "launch", "kernels", "cache", "models"]
    assert f"  ddimx: {ddimx.__version__}" in lines
    assert "  small" in lines
    assert "    images_seen: 1234" in lines


def test_models_says_how_each_was_trained(shipped):
    facts = json.loads(invoke("info", "--models", "--json").out)
    assert facts.keys() == {"models", "published"}
    assert facts["models"] == {
        "small": {
            "network": "unet",
            "sample": "3x8x8",
            "classes": "round, square",
            "megabytes": round(shipped.stat().st_size / 1e6, 1),
            "images_seen": 1234,
            "hours": 0.5,
            "device": "cpu (x)",
            "licence": "OFL",
        }
    }
    published = facts["published"]
    assert list(published)[:2] == ["cifar10, ema", "cifar10, raw"]
    assert published["cifar10, ema"].keys() == {"address", "md5", "state"}
    assert published["celeba"]["md5"] == "not published"
    text = invoke("info", "--models").out.splitlines()
    assert text[:2] == ["models", "  small"]
    assert "    licence: OFL" in text


def test_a_training_run_is_a_model_whatever_arrays_lie_in_it(tiny_model, tiny_config, tmp_path):
    tensors = read_tensors(tiny_model)
    sets = {
        f"{name}.{n}": value for name in ("model", "ema2", "ema") for n, value in tensors.items()
    }
    path = tmp_path / "run" / "checkpoints" / "checkpoint-00000007.safetensors"
    path.parent.mkdir(parents=True)
    save(path, sets, Header("checkpoint", tiny_config, {"step": 7}))
    np.savez(tmp_path / "run" / "fid-reference.npz", mu=np.zeros(3), sigma=np.eye(3))
    done = invoke("info", tmp_path / "run", "--weights", "ema2", "--json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)["model"]
    assert (facts["weights"], facts["sets"]) == ("ema2", "ema, ema2, raw")
    assert facts["file"] == str(path)


def test_without_models_it_says_so(monkeypatch):
    monkeypatch.setattr("ddimx.weights.describe.shipped_models", list)
    assert invoke("info", "--models").out.startswith("models\n  (none)\npublished\n")
    assert json.loads(invoke("info", "--models", "--json").out)["models"] == {}


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DDIMX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ddimx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "ddimx"
    monkeypatch.setenv("DDIMX_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"


def test_a_picture_that_was_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((4, 5, 3), np.uint8)
    facts = {"index": "7", "class": "dog", "prompt": "a\x1b[2J\nb"}
    for kind in ("png", "webp"):
        save_image(tmp_path / f"a.{kind}", pixels, kind, facts)
        done = invoke("info", f"a.{kind}")
        assert (done.code, done.err) == (0, "")
        size, index, category, prompt = done.out.splitlines()[1:]
        assert size == f"  size: 5x4 {kind.upper()}"
        assert (index, category, prompt) == ("  index: 7", "  class: dog", "  prompt: a?[2J?b")
    assert json.loads(invoke("info", "a.png", "--json").out)["a.png"]["class"] == "dog"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("absent.png",), 2, "absent.png: no such file"),
        (("text.png",), 1, "text.png: not a readable picture"),
        (("plain.png",), 1, "plain.png: 5x4 PNG, and it does not say where it comes from"),
        (("plain.png", "--weights", "raw"), 2, "--weights is for models; plain.png is a picture"),
    ],
)
def test_other_pictures(tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("text")
    as_image(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "plain.png")
    done = invoke("info", *args)
    assert done.code == code
    assert done.err.startswith(f"error: {message}")
