"""``python -m benchmarks card`` end to end, on tiny models and a network of three numbers."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.card import shapes
from benchmarks.card.drawing import sheet
from benchmarks.card.markdown import fragment
from ddimx import api
from ddimx.config_file import override
from ddimx.evaluation.fid import features
from ddimx.evaluation.fid.compare import statistics_of
from ddimx.evaluation.fid.frechet import frechet_distance
from ddimx.evaluation.fid.images import open_images
from ddimx.evaluation.neighbors import neighbors
from ddimx.evaluation.shapes.quality import Protocol
from ddimx.models.factory import build
from ddimx.progress import Progress
from ddimx.runs import shape_sink
from ddimx.weights.formats.native import Header, save
from tests.evaluation.fid.tiny_features import MeanColors
from tests.evaluation.likelihood.token_models import DEPTH, saved, trees
from tests.evaluation.shapes import prepared


class Named(MeanColors):
    def __init__(self, device):
        super().__init__()
        self.about["figure"] = "Fréchet distance on mean colors (no FID)"


def run(model, data, out, *words):
    args = [str(model), "--data", str(data), "--out", str(out), "--seeds", "7", "--device", "cpu"]
    code = main(["card", *args, "--quiet", *words])
    record = json.loads((out / "figures.json").read_text()) if code == 0 else {}
    return code, record.get("parts", {})


def test_the_card_of_a_model_of_images(
    tiny_config, formula_weights, tiny_npz, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "EfficientNetLite", Named)
    own = override(tiny_config, ["sampling.steps=2"])
    tiny_model, weights = tmp_path / "tiny.safetensors", formula_weights(build(own)[0])
    save(tiny_model, weights.state_dict(), Header("model", own, {"step": 0}))
    out = tmp_path / "card"
    few = ("--grid", "5", "--count", "6", "--against", "--steps 3 --eta 0", "--examples", "1")
    settings = ("--setting=--steps 3", "--setting-seeds", "20", "--setting-count", "4")
    (tmp_path / "log").write_text('{"step": 9, "validation_train": 0.25}\n{"step": 10}\n')
    code, parts = run(
        tiny_model, tiny_npz, out, *few, *settings, "--log", str(tmp_path / "log"),
        "--only", "grids,loss,novelty,distance,steps,judge",
    )  # fmt: skip
    assert code == 0
    # What stands in the card is what other functions say of the same samples.
    drawn = open_images(str(out / "runs" / "default-n-5-seed-7"))
    train, held_out = (open_images(str(tiny_npz), split=s).source for s in ("train", "held-out"))
    near = neighbors(drawn.read(range(5)), train, held_out, mirrored=True)
    assert parts["novelty"]["figures"]["7"]["least"] == near.distances.min()
    quiet = Progress(quiet=True)
    ours = statistics_of(str(out / "runs" / "default-n-6-seed-7"), Named(None), 9, quiet)
    np.savez(tmp_path / "train.npz", images=train.images(np.arange(len(train))))
    theirs = statistics_of(str(tmp_path / "train.npz"), Named(None), 9, quiet)
    figures = parts["distance"]["figures"]["samples"]
    assert figures["train"]["frechet_distance"] == pytest.approx(
        frechet_distance(ours, theirs),
        abs=1e-6,  # features are kept in float32
    )
    assert (figures["train"]["count"], figures["held-out"]["count"]) == (14, 2)
    assert parts["steps"]["figures"]["--steps 3"]["passes"] == 3
    assert parts["loss"]["rows"][0] == ["loss, train", "0.25", "the training's log at step 9"]
    answers = json.loads((out / "judge-seed-7.json").read_text())
    manifest = json.loads((out / "runs" / "default-n-5-seed-7" / "manifest.json").read_text())
    assert list(answers["classes"].values()) == manifest["samples"]["class"]
    # A part that runs alone leaves the others' figures; the same x_T is drawn on both sides.
    code, parts = run(tiny_model, tiny_npz, out, *few, "--only", "paired")
    assert code == 0
    assert list(parts) == ["grids", "loss", "judge", "novelty", "distance", "paired", "steps"]
    pair = parts["paired"]["figures"]
    assert pair["the defaults"]["train"] == figures["train"]
    assert [pair[name]["passes"] for name in ("the defaults", "--steps 3 --eta 0")] == [2, 3]
    card = (out / "card.md").read_text()
    assert "no FID" in card
    for name in ("grid-seed-7.png", "novelty.png", "paired-seed-7.png"):
        assert f"]({name})" in card
        Image.open(out / name).verify()


def test_the_card_of_a_model_of_shapes(tmp_path, capsys, monkeypatch):
    def thumbnail(tree, size=8):
        return np.full((size, size, 3), len(tree.leaves), np.uint8)

    for module in (api, shape_sink):  # a renderer is no part of what is tested
        monkeypatch.setattr(module, "render_thumbnail", thumbnail)
    monkeypatch.setattr(shapes, "Protocol", partial(Protocol, points=32))
    model = saved(tmp_path / "tiny.safetensors")
    deep = DEPTH + 1
    data = prepared(
        tmp_path / "set", train=trees(8, 0, deep), val=trees(2, 1, deep), test=trees(5, 2, deep)
    )
    out = tmp_path / "card"
    words = ("--grid", "4", "--count", "12", "--examples", "2", "--setting-count", "12")
    some = "grids,pieces,quality,novelty,steps"
    code, parts = run(model, data, out, *words, "--setting=--steps 1", "--only", some)
    assert code == 0
    pieces = parts["pieces"]["figures"]["as drawn"]
    counts = {name: each["count"] for name, each in pieces.items()}
    assert counts.pop("all") == 12 == sum(counts.values())
    assert 0 <= parts["novelty"]["figures"]["max"] <= 1
    quality = parts["quality"]["figures"]["7"]
    assert quality["counts"]["reference"] == 7
    assert quality["depth"] == DEPTH
    assert "1-NNA, Chamfer" in (out / "card.md").read_text()
    assert (out / "novelty-closest.png").is_file()
    for wrong, message in (
        (("--only", "steps", "--setting-seeds", "7"), "settings are chosen on seeds from 20"),
        (("--only", "paired"), "did you mean"),
    ):
        assert run(model, data, out, *words, *wrong)[0] == 2
        assert message in capsys.readouterr().err


def test_a_sheet_and_a_fragment():
    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    drawn = sheet(pictures, 2, scale=3)
    assert drawn.shape == (2 * (6 + 2) + 2, 2 * (6 + 2) + 2, 3)
    assert (drawn[2:8, 10:16] == 1).all()
    assert (drawn[10:16, 2:8] == 2).all()
    part = {
        "rows": [["a", "1", "b"]],
        "tables": [["T", ["x"], [["2"]]]],
        "pictures": {"p.png": "what `it` shows", "judge-seed-7.png": "hidden"},
        "machine": {"device": "M", "commit": "c"},
    }
    text = fragment({"model": {"hours": 1}, "parts": {"one": part}})
    assert "| a | 1 | b |" in text
    assert "T:\n\n| x |\n|---|\n| 2 |" in text
    assert "![what it shows](p.png)\n\nWhat `it` shows." in text
    assert "hidden" not in text
