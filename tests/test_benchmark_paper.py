"""``python -m benchmarks paper`` end to end, with a feature network of three numbers."""

import json

import numpy as np
import pytest

from benchmarks import paper
from benchmarks.__main__ import main
from ddimx.api import sample
from ddimx.evaluation.fid.compare import statistics_of
from ddimx.evaluation.fid.frechet import Accumulator, frechet_distance
from ddimx.pixels import to_bytes
from ddimx.progress import Progress
from ddimx.weights.model import load_model
from tests.evaluation.fid.tiny_features import MeanColors


@pytest.fixture(autouse=True)
def tiny_features(monkeypatch):
    monkeypatch.setattr(paper, "inception", lambda *args, **kwargs: MeanColors())


def run(model, reference, out, *words):
    fixed = ["--device", "cpu", "--count", "5", "--batch-size", "3", "--out", str(out)]
    return main(["paper", "--model", str(model), "--reference", str(reference), *fixed, *words])


def by_hand(model_path, reference, **options):
    """FID of the same five samples, drawn at once."""
    model = load_model(model_path, device="cpu", dtype="fp32")
    drawn = sample(model, count=5, guidance=1.0, spacing="ddim", **options)
    total = Accumulator()
    total.add(MeanColors()(to_bytes(drawn, model.config.data).permute(0, 3, 1, 2)).numpy())
    known = statistics_of(str(reference), MeanColors(), 50, Progress(quiet=True))
    return frechet_distance(total.statistics({}), known)


def test_every_cell_is_the_fid_of_its_samples(tiny_model, tiny_npz, tmp_path, capsys):
    out = tmp_path / "paper.json"
    words = ("--steps", "2,4", "--noise", "0,1,sigma-hat")
    assert run(tiny_model, tiny_npz, out, *words) == 0
    record = json.loads(out.read_text())
    assert list(record["cells"]) == ["0 2", "0 4", "1 2", "1 4", "sigma-hat 2", "sigma-hat 4"]
    expected = {
        "0 4": by_hand(tiny_model, tiny_npz, steps=4, eta=0.0, clip="none"),
        "1 2": by_hand(tiny_model, tiny_npz, steps=2, eta=1.0, clip="none"),
        "sigma-hat 4": by_hand(tiny_model, tiny_npz, steps=4, solver="ddpm", variance="large"),
    }
    for name, value in expected.items():
        # Another batch size may round a pixel to the next level: 1/255 of 64 in a mean.
        assert record["cells"][name]["fid"] == pytest.approx(value, abs=1e-3)
    assert len({round(cell["fid"], 9) for cell in record["cells"].values()}) == 6
    assert (record["count"], record["reference"]["count"]) == (5, 16)
    shown = capsys.readouterr().out
    assert f"| 0 | {record['cells']['0 2']['fid']:.2f} | " in shown
    assert "arXiv" not in shown  # the paper has no such model


def test_a_finished_cell_is_not_drawn_again(tiny_model, tiny_npz, tmp_path, capsys):
    out = tmp_path / "paper.json"
    assert run(tiny_model, tiny_npz, out, "--steps", "2", "--noise", "0") == 0
    record = json.loads(out.read_text())
    record["cells"]["0 2"]["fid"] = 123.0
    out.write_text(json.dumps(record))
    assert run(tiny_model, tiny_npz, out, "--steps", "2,3", "--noise", "0", "--json") == 0
    cells = json.loads(out.read_text())["cells"]
    assert (cells["0 2"]["fid"], list(cells)) == (123.0, ["0 2", "0 3"])
    capsys.readouterr()
    assert run(tiny_model, tiny_npz, out, "--steps", "2", "--seed", "1") == 2
    assert "made with another seed" in capsys.readouterr().err


def test_the_papers_figures_stand_in_brackets():
    cells = {"0.5 100": {"fid": 4.5, "paper": 4.46}, "0.5 7": {"fid": 9.0, "paper": None}}
    facts = {"count": 50000, "model": "cifar10", "spacing": "quad", "reference": {"count": 9}}
    shown = paper.text({**facts, "cells": cells})
    assert "| eta | 7 | 100 |" in shown
    assert "| 0.5 | 9.00 | 4.50 (4.46) |" in shown
    assert "arXiv 2010.02502" in shown


def test_the_papers_table_is_whole():
    """The spacing as the paper's code has it, and figures that fall with steps at eta 0."""
    assert {name: t.spacing for name, t in paper.TABLES.items()} == {
        "cifar10": "quad",
        "celeba": "ddim",
    }
    for table in paper.TABLES.values():
        assert tuple(table.fid) == paper.NOISES
        values = np.array(list(table.fid.values()))
        assert values.shape == (5, 5)
        assert (np.diff(values, axis=1) < 0).all()
    assert paper.TABLES["cifar10"].fid["0"][3] == 4.16
    assert paper.TABLES["celeba"].fid["sigma-hat"][0] == 299.71


@pytest.mark.parametrize("words", [("--steps", "0"), ("--noise", "2"), ("--spacing", "x")])
def test_wrong_options(tiny_model, tiny_npz, tmp_path, words):
    with pytest.raises(SystemExit) as caught:
        run(tiny_model, tiny_npz, tmp_path / "p.json", *words)
    assert caught.value.code == 2
