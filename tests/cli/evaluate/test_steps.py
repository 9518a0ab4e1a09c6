"""``ddimx evaluate steps``: every way is drawn, counted, measured, kept and shown."""

import csv
import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddimx.evaluation.shapes.quality import Protocol, quality
from ddimx.evaluation.shapes.sets import find, read
from ddimx.evaluation.steps import study as study_module
from ddimx.evaluation.steps.drawing import mixed_as
from ddimx.evaluation.steps.variants import Ways, names_of
from ddimx.octree.file import read_shape
from tests.evaluation.likelihood.token_models import DEPTH, saved, trees
from tests.evaluation.shapes import prepared
from tests.sampling import invoke

OPTIONS = ("--count", 5, "--batch-size", 2, "--device", "cpu", "--points", 32, "--workers", 1)
GRID = ("--steps", "2,1", "--transition", "uniform", "--solver", "ddim", "--solver", "pfdiff:1,1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared set, one level deeper than the model, with 3 chairs and 2 tables as its test."""
    root = tmp_path_factory.mktemp("octrees")
    deep = DEPTH + 1
    return prepared(root, train=trees(8, 0, deep), val=trees(2, 1, deep), test=trees(5, 2, deep))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def evaluate(weights, data, *args):
    return invoke("evaluate", "steps", "-m", weights, "--reference", data, *OPTIONS, *args)


@pytest.fixture(scope="module")
def finished(weights, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("steps") / "out"
    more = ("--guidance", "1,2", "--routing", "random", "--distances")
    done = evaluate(weights, data, *GRID, *more, "--out", out)
    assert done.code == 0, done.err
    return out, done, json.loads((out / "steps.json").read_text())


def test_every_way_is_there_with_the_calls_that_its_plan_says(finished):
    _, done, record = finished
    assert record["status"] == "complete"
    rows = record["rows"]
    ways = [(row["steps"], row["solver"], row["guidance"]) for row in rows]
    assert len(set(ways)) == len(rows) == 8
    assert {row["transition"] for row in rows} == {"uniform"}
    for row in rows:
        # A level of n rows costs n calls, with pfdiff:1,1 one and then half of the rest.
        level_1 = {1: 1, 2: 2}[row["steps"]]
        assert row["nfe"] == 1 + level_1
        assert row["calls"] == row["nfe"] * (2 if row["guidance"] != 1 else 1)
    assert record["mix"] == "reference"
    assert record["categories"] == ["chair", "table"]
    assert "note: pfdiff" in done.err


def test_figures_are_those_of_the_shapes_that_sample_draws(finished, weights, data, tmp_path):
    """With --category both verbs draw the same, so evaluate shapes must say the same."""
    out, run = tmp_path / "out", tmp_path / "run"
    grid = ("--steps", 2, "--transition", "absorbing", "--routing", "confidence")
    one = ("--category", "chair", "--temperature", "0.8", "--seed", 3)
    done = evaluate(weights, data, *grid, *one, "--distances", "--out", out, "-q", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    sampled = invoke("sample", "-m", weights, "-n", 5, *grid, *one, "--device", "cpu", "--dtype",
                     "fp32", "--out", run)  # fmt: skip
    assert sampled.code == 0, sampled.err
    drawn = [read_shape(path).tree for path in sorted(run.glob("*.npz"))]
    chairs = [read(find(data, part), categories=["chair"]).trees for part in ("test", "train")]
    protocol = Protocol(points=32, seed=3, floors=False, workers=1)
    expected = quality(drawn, *chairs, protocol)
    (row,) = record["rows"]
    for name in ("1-NNA", "COV", "MMD"):
        assert row[name] == expected["chamfer"][name]
    assert row["iou"] == expected["novelty"]["samples"]["mean"]
    assert row["copies"] == expected["novelty"]["copies"]["moved"]
    for name in ("largest_share", "one_component"):
        assert row[name] == expected["connectivity"]["samples"][name]
    assert row["leaves"] == np.mean([len(tree.leaves) for tree in drawn])
    assert record["reference_connectivity"] == expected["connectivity"]["reference"]
    assert record["reference_shapes"] == 3


def test_table_csv_and_picture_hold_the_rows(finished):
    out, done, record = finished
    with (out / "steps.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row, result in zip(rows, record["rows"], strict=True):
        assert float(row["1-NNA"]) == result["1-NNA"]["value"]
        assert float(row["one_component_low"]) == result["one_component"]["low"]
        assert (row["solver"], int(row["steps"])) == (result["solver"], result["steps"])
    assert Image.open(out / "steps.png").size == (900, 4 * 400)
    lines = [line.split() for line in done.out.splitlines()]
    shown = {tuple(line[:5]): line for line in lines}
    for row in record["rows"]:
        name = [f"{row['solver']},", "g", f"{row['guidance']:g}"]
        line = shown[(*name, str(row["steps"]), f"{row['calls']:g}")]
        assert line[-3] == f"{100 * row['1-NNA']['value']:.1f}%"
    assert "training shapes" in done.out
    assert record["training"]["compared"] == 5


@pytest.mark.full
def test_it_goes_on_where_it_stopped_and_only_there(finished, weights, data, tmp_path, monkeypatch):
    record = finished[2]
    drawn = []
    real = study_module.draw_trees

    def counted(model, settings, *rest):
        drawn.append(settings)
        return real(model, settings, *rest)

    monkeypatch.setattr(study_module, "draw_trees", counted)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "steps.json").write_text(json.dumps({**record, "rows": record["rows"][:5]}))
    args = (*GRID, "--guidance", "1,2", "--routing", "random", "--distances", "--out", kept)
    assert evaluate(weights, data, *args).code == 0
    assert len(drawn) == 3
    again = json.loads((kept / "steps.json").read_text())
    for row, before in zip(again["rows"], record["rows"], strict=True):
        assert {**row, "seconds_per_shape": 0} == {**before, "seconds_per_shape": 0}
    other = evaluate(weights, data, *args, "--seed", 1)
    assert (other.code, other.out) == (2, "")
    assert "another study (seed, protocol)" in other.err
    assert len(drawn) == 3
    assert evaluate(weights, data, *args, "--seed", 1, "--steps", 1, "--overwrite").code == 0
    assert json.loads((kept / "steps.json").read_text())["seed"] == 1


def test_ctrl_c_leaves_whole_files_and_what_was_measured(weights, data, tmp_path, monkeypatch):
    real, count = study_module.draw_trees, []

    def interrupted(*args):
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(study_module, "draw_trees", interrupted)
    out = tmp_path / "out"
    args = ("--steps", "1,2", "--routing", "random", "--transition", "absorbing", "--out", out)
    done = evaluate(weights, data, *args)
    assert done.code == 130
    record = json.loads((out / "steps.json").read_text())
    assert record["status"] == "interrupted"
    assert [row["steps"] for row in record["rows"]] == [1]
    assert f"the same command with --out {out} goes on" in done.err
    assert {path.name for path in out.iterdir()} == {"steps.json", "steps.csv", "steps.png"}
    assert evaluate(weights, data, *args).code == 0
    assert len(json.loads((out / "steps.json").read_text())["rows"]) == 2


def test_without_matplotlib_all_but_the_chart_is_there(weights, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    done = evaluate(weights, data, "--steps", "1,2", "--routing", "random", "--out", out)
    assert done.code == 0, done.err
    assert {path.name for path in out.iterdir()} == {"steps.json", "steps.csv"}
    lines = [line for line in done.err.splitlines() if "omitted" in line]
    assert len(lines) == 1  # though the files were written after each way
    assert lines[0].startswith("steps.png is omitted: matplotlib, which charts need, is not in")


def test_categories_as_the_reference_has_them():
    names = ["b"] * 6 + ["a"] * 3 + ["c"]
    counts = torch.bincount(mixed_as(names, ("c", "b", "a"), 10), minlength=3)
    assert counts.tolist() == [1, 6, 3]
    assert torch.bincount(mixed_as(names, ("c", "b", "a"), 20)).tolist() == [2, 12, 6]
    assert mixed_as(names, (), 20) is None


def test_ways_are_all_combinations_named_by_what_varies():
    ways = Ways(
        steps=(1, 2), routing=("random",), temperature=(1.0, 0.5), guidance=(1.0, 2.0)
    ).all()
    assert len(set(ways)) == 8
    names = names_of(ways)
    assert list(dict.fromkeys(names.values())) == [
        "T 1, g 1",
        "T 1, g 2",
        "T 0.5, g 1",
        "T 0.5, g 2",
    ]
    assert set(names_of(Ways(routing=("random",)).all()).values()) == {"absorbing"}
    falling = Ways(steps=(2, "1/2"), routing=("random",), temperature=(0.8, "1-0.6")).all()
    assert set(names_of(falling).values()) == {"T 0.8", "T 1-0.6"}
    redrawn = Ways(steps=(2,), routing=("random",), redraw=(0, 4)).all()
    assert [*names_of(redrawn).values()] == ["redraw 0", "redraw 4"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--steps", "1,x"), "--steps 1,x: write values with commas"),
        (("--steps", "0"), "steps must be at least 1, got 0"),
        (("--transition", "unifrm"), "did you mean 'uniform'"),
        (("--solver", "unipc:2"), "tokens have ddim and pfdiff"),
        (("--split", "tset"), "did you mean 'test'"),
        (("--mix", "evn"), "did you mean 'even'"),
        (("--category", "chiar"), "did you mean 'chair'"),
        (("--eta", "2"), "eta must lie in [0, 1]"),
    ],
)
def test_wrong_options(weights, data, tmp_path, args, message):
    done = evaluate(weights, data, *args, "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_a_model_of_images_and_a_foreign_record(tiny_model, weights, data, tmp_path):
    done = evaluate(tiny_model, data, "--out", tmp_path / "out")
    assert done.code == 2
    assert "draws images" in done.err
    (tmp_path / "steps.json").write_text('{"rows": 1')
    done = evaluate(weights, data, "--out", tmp_path)
    assert done.code == 2
    assert "not the record of a study" in done.err


def test_all_parts_of_a_reference_below_home_are_measured(weights, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(data.parent))
    parts = ("--split", "val,test", "--steps", 1, "--transition", "uniform", "--routing", "random")
    done = evaluate(weights, f"~/{data.name}", *parts, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert record["reference_shapes"] == 2 + 5
