"""A token network that is defined outside the package is trained, sampled and exported."""

from __future__ import annotations

import json

import pytest

from ddimx.config_file import dump_yaml, override
from ddimx.octree.file import read_shape
from ddimx.training import preview
from tests.data.shapes.prepared import write_set
from tests.sampling import invoke, names_in

from .small import octree_config

# As a user might write one: tokens see their own level's mean, their cell and the class.
SOURCE = '''
import torch
from torch import nn


class Net(nn.Module):
    """Predict tokens from cell, level, time and the mean of the coarser level's tokens."""

    process = "discrete"
    answer = "{answer}"

    def __init__(self, depth, width, classes):
        super().__init__()
        self.depth = depth
        self.token = nn.Embedding(256, width)
        self.level = nn.Embedding(depth, width)
        self.label = nn.Embedding(classes + 1, width)
        self.rest = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width))
        self.head = nn.Linear(width, 256)

    @classmethod
    def from_config(cls, config):
        return cls(config.data.max_depth, config.model.hidden_dim, len(config.model.classes))

    def forward(self, noised, clean, condition):
        layout = noised.layout
        assert clean is None or max(clean.layout.levels) < self.depth - 1
        unit = (layout.cells + 0.5) / (2.0 ** layout.level)[:, None]
        t = noised.t.flatten()[layout.row][:, None] / 50
        h = self.token(noised.ids.long()) + self.level(layout.level)
        h = h + self.label(condition.label)[layout.shape] + self.rest(torch.cat([unit, t], 1))
        logits = self.head(h)
        if self.answer == "pair":
            return logits, torch.zeros(len(h))
        return logits[:, 1:] if self.answer == "short" else logits
'''


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Write the module under a name of its own and train its network for two steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preview, "SAMPLES", 2)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_set(tmp_path / "set")

    def run(answer):
        module = f"foreign_{answer}"
        (tmp_path / f"{module}.py").write_text(SOURCE.format(answer=answer))
        steps = ["training.n_iters=2", "training.snapshot_freq=2", "training.validation_freq=2"]
        config = override(octree_config("set"), [f"model.name={module}:Net", *steps])
        (tmp_path / "own.yml").write_text(dump_yaml(config))
        return invoke(
            "train", "-q", "-c", "own.yml", "-o", "run", "--device", "cpu", "--trust-code"
        )

    return run


@pytest.mark.parametrize("answer", ["logits", "pair"])
def test_it_is_trained_sampled_and_exported(train, tmp_path, answer):
    done = train(answer)
    assert done.code == 0, done.err
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert 0 < log[-1]["validation_held_out"] < 7
    assert "step-00000002.png" in names_in(tmp_path / "run" / "samples")
    done = invoke(
        "sample",
        "-m",
        "run",
        "-n",
        2,
        "--category",
        "table",
        "--out",
        "drawn",
        "--device",
        "cpu",
        "--trust-code",
    )
    assert done.code == 0, done.err
    shape = read_shape(tmp_path / "drawn" / "000001.npz", depth=3)
    assert shape.category == "table"
    manifest = json.loads((tmp_path / "drawn" / "manifest.json").read_text())
    # What floats it makes of ids and cells is its own business: "auto" leaves them as they are.
    assert manifest["dtype"]["name"] == "fp32"
    assert manifest["network_calls"] == manifest["nfe"] == 5  # 1 + 2 + 2
    done = invoke("export", "drawn", "--format", "ply", "--out", "splats")
    assert done.code == 0, done.err
    header = (tmp_path / "splats" / "000001.ply").read_bytes().split(b"end_header")[0]
    assert f"element vertex {len(shape.tree.leaves)}".encode() in header


def test_an_answer_of_another_shape_is_one_clear_line(train):
    done = train("short")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "a token network must return logits [" in line
    assert line.endswith(", 255)")
