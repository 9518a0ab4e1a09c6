"""The README's first block, example and table, held to what the program does.

What all pages have in common is tested in ``tests/docs``.
"""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ddimx
from ddimx.cli.app import app
from ddimx.weights import configure
from ddimx.weights.formats.native import read_header
from tests.weights import original_list, plain, weights

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command line in this process, in an empty folder; return its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        result = CliRunner().invoke(app, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code

    return run


@pytest.fixture
def sampled(call, tiny_model, tmp_path):
    """Sample two images from the tiny model and return the manifest."""

    def run(*args, count=2):
        extra = () if "--steps" in args else ("--steps", 2)
        counted = () if "--count" in args else ("--count", count)
        out = () if "--out" in args else ("--out", "there")
        assert call("sample", "--model", tiny_model, "-q", *args, *extra, *counted, *out) == 0
        (manifest,) = tmp_path.glob("*/manifest.json")
        return json.loads(manifest.read_text())

    return run


def test_the_first_block_holds_the_install_and_test_commands():
    language, block = BLOCKS[0]
    assert language == "bash"
    assert block.splitlines() == [
        'pip install -c constraints.txt -e ".[test]" && ddimx sample --steps 50',
        "pytest",
    ]


def test_the_python_example_runs(tiny_model, tmp_path, monkeypatch, capsys):
    """Run the example with the tiny model in place of the one of images, and draw one chair."""
    (code,) = [block for language, block in BLOCKS if language == "python"]
    load = ddimx.load_model
    monkeypatch.setattr(ddimx, "load_model", lambda name: load(tiny_model), raising=False)
    monkeypatch.chdir(tmp_path)
    values = {}
    assert 'count=4, category="chair"' in code
    exec(compile(code.replace("count=4, cat", "count=1, cat"), "README.md", "exec"), values)
    assert values["images"].shape == (4, 3, 8, 8)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 20
    assert (values["step"].y - values["images"]).abs().max() < 1e-5
    with Image.open("first.png") as first:
        assert first.size == (8, 8)
    assert len(list(tmp_path.glob("chairs/*.3dgs.ply"))) == 1
    assert len(list(tmp_path.glob("chairs/*.png"))) == 1


def test_the_commands_on_weights_from_elsewhere_run(call, monkeypatch, tmp_path):
    """All but the two that download, on a small list of shapes that a configuration has."""
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?--to diffusers.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("#")[0].split()[1:] for line in block.splitlines()]
    lines = [line for line in lines if "cifar10" not in " ".join(line)]
    assert [line[0] for line in lines] == ["info", "sample", "convert", "convert", "convert"]
    config = plain()
    monkeypatch.setattr(configure, "shipped_configs", lambda: ["plain"])
    monkeypatch.setattr(configure, "load_config", lambda _: config)
    torch.save(original_list(weights(config, 1), weights(config, 2)), tmp_path / "ckpt.pth")
    for line in lines:
        assert call(*line, *(("-n", 1) if line[0] == "sample" else ())) == 0
    states = torch.load(tmp_path / "again.pth", weights_only=True)
    assert all(torch.equal(states[-1][name], value) for name, value in weights(config, 2).items())


def rows():
    """The flag table's left column, code only, keyed to the right column."""
    table = README.split("| `main.py` | `ddimx` |")[1].split("\n\n")[0]
    cells = [line.strip("|").split(" | ") for line in table.strip().splitlines()[1:]]
    return {left.strip(): right.strip(" |") for left, right in cells}


def trained(call, config, tmp_path, *args):
    path = tmp_path / "tiny.yml"
    path.write_text(ddimx.config_file.dump_yaml(config))
    return call("train", "--config", path, "-q", *args)


class TestFlags:
    """One test for every row of the table; the last test holds the two lists equal."""

    def test_config(self, call, tiny_config, tmp_path):
        """`--config cifar10.yml` (training)"""
        assert trained(call, tiny_config, tmp_path) == 0
        assert list(tmp_path.glob("runs/0001-train-tiny/checkpoints/*"))

    def test_exp_doc(self, call, tiny_config, tmp_path):
        """`--exp DIR --doc NAME`"""
        assert trained(call, tiny_config, tmp_path, "--out", "DIR") == 0
        assert list(tmp_path.glob("DIR/checkpoints/*"))

    def test_seed(self, sampled):
        """`--seed 1234`"""
        assert sampled("--seed", 1234)["identity"]["seed"] == 1234

    def test_resume_training(self, call, tiny_config, tmp_path):
        """`--resume_training`"""
        short = ("--set", "training.n_iters=3")
        assert trained(call, tiny_config, tmp_path, *short) == 0
        assert call("train", "--resume", "last", "--set", "training.n_iters=5", "-q") == 0
        names = [p.name for p in tmp_path.glob("runs/0001-train-tiny/checkpoints/*")]
        assert "checkpoint-00000005.safetensors" in names

    def test_sample_fid(self, sampled, tmp_path):
        """`--sample --fid`"""
        assert sampled("--count", 11)["count"] == 11
        assert len(list(tmp_path.glob("there/0*.png"))) == 11

    def test_timesteps(self, sampled):
        """`--timesteps 50`"""
        assert sampled("--steps", 50)["network_calls"] == 50

    def test_eta(self, sampled):
        """`--eta 0.5`"""
        assert sampled("--eta", 0.5)["plan"]["label"] == "ddim, eta 0.5"

    def test_skip_uniform(self, sampled):
        """`--skip_type uniform`"""
        times = sampled("--spacing", "ddim", "--steps", 7)["plan"]["t"]
        assert times == list(range(0, 1000, 1000 // 7))[::-1]

    def test_skip_quad(self, sampled):
        """`--skip_type quad`"""
        times = sampled("--spacing", "quad", "--steps", 3)["plan"]["t"]
        assert times == [800, 200, 0]

    def test_generalized(self, sampled):
        """`--sample_type generalized`"""
        assert sampled("--solver", "ddim")["plan"]["label"] == "ddim, eta 0"

    def test_ddpm_noisy(self, sampled):
        """`--sample_type ddpm_noisy`"""
        plan = sampled("--solver", "ddpm", "--variance", "large")["plan"]
        assert (plan["label"], plan["clip"]) == ("ddpm, large variance", 1.0)

    def test_sequence(self, call, tiny_model, tmp_path):
        """`--sequence`"""
        options = ("--model", tiny_model, "-q", "--steps", 3, "-n", 1, "--out", "there")
        assert call("sequence", *options) == 0
        assert len(list(tmp_path.glob("there/000000/*.png"))) == 3

    def test_interpolation(self, call, tiny_model, tmp_path):
        """`--interpolation`"""
        options = ("--model", tiny_model, "-q", "--steps", 3, "--out", "there")
        assert call("interpolate", 1, 2, *options) == 0
        assert len(list(tmp_path.glob("there/0*.png"))) == 11  # as many as the original's

    def test_image_folder(self, sampled, tmp_path):
        """`--image_folder DIR`"""
        sampled("--out", "DIR")
        assert (tmp_path / "DIR" / "000001.png").is_file()

    def test_ni(self, sampled):
        """`--ni`"""
        before = sampled("--seed", 1)["identity"]["seed"]
        assert (before, sampled("--seed", 2, "--overwrite")["identity"]["seed"]) == (1, 2)

    def test_use_pretrained(self, call, tiny_model, monkeypatch, tmp_path):
        """`--use_pretrained`"""
        from ddimx.weights.locate import source

        asked = []

        def fetch(name, which, **_):
            asked.append((name, which))
            return Path(tiny_model)

        monkeypatch.setattr(source, "published_file", fetch)
        settings = tmp_path / "tiny.yml"
        config = read_header(tiny_model).config
        settings.write_text(ddimx.config_file.dump_yaml(config))
        entry = dataclasses.replace(source.PUBLISHED["cifar10"], config=str(settings))
        monkeypatch.setitem(source.PUBLISHED, "cifar10", entry)
        assert call("sample", "--model", "cifar10", "-q", "-n", 1, "--steps", 1) == 0
        assert asked == [("cifar10", None)]

    def test_every_row_is_here(self):
        tested = [getattr(self, name).__doc__ for name in dir(self) if name.startswith("test_")]
        assert set(rows()) == {doc for doc in tested if doc}
