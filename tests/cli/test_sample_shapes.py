"""``ddimx sample`` with a model of octrees: files, record, resuming, splats, refusals."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import ddimx
from ddimx.config_file import override
from ddimx.errors import UsageError
from ddimx.models.octree.network import OctreeNet
from ddimx.octree.clean import cleaned
from ddimx.octree.file import read_shape
from ddimx.runs import shape_sink
from ddimx.runs.shape_sink import ShapeSink
from ddimx.splats.preview.render import render_thumbnail
from tests.conftest import ROOT
from tests.models.octree.small import octree_config, write_model
from tests.sampling import image_names, invoke, manifest_of, names_in, sample, sampled, state_of

RECORD = ["grid.png", "manifest.json"]


@pytest.fixture(scope="module")
def shape_model(tmp_path_factory):
    config = octree_config(diffusion={"transitions": ["absorbing", "uniform"]})
    return write_model(tmp_path_factory.mktemp("model") / "shapes.safetensors", config)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The pictures, which take longest, are blank here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shape_sink, "render_thumbnail", blank)


def blank(tree, *, size):
    return np.full((size, size, 3), 255, np.uint8)


def files(count, start=0):
    return image_names(range(start, start + count), "npz")


def splats(count):
    return image_names(range(count), "3dgs.ply")


def tokens(folder, index):
    return read_shape(folder / f"{index:06d}.npz", depth=3).tree.tokens().tolist()


def counting(patch):
    """Count the network's calls and the shapes in each."""
    calls, real = [], OctreeNet.forward

    def forward(self, noised, *rest):
        calls.append(noised.layout.batch)
        return real(self, noised, *rest)

    patch.setattr(OctreeNet, "forward", forward)
    return calls


# --- files --------------------------------------------------------------------------------------


def test_a_run_folder_holds_a_token_file_per_shape_a_contact_sheet_and_the_record(
    shape_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(shape_sink, "render_thumbnail", render_thumbnail)
    calls = counting(monkeypatch)
    done = sampled(shape_model, "-n", 3, "--format", "npz", "--batch-size", 2)
    folder = tmp_path / "runs" / "0001-sample-shapes"
    assert names_in(folder) == [*files(3), *RECORD]
    drawn = [
        read_shape(folder / name, depth=3) for name in files(3)
    ]  # raises if it is not an octree
    assert [shape.shape_id for shape in drawn] == ["000000", "000001", "000002"]
    assert {shape.category for shape in drawn} <= {"chair", "table"}
    assert all((shape.tree.lower, shape.tree.edge) == ((-0.5,) * 3, 1.0) for shape in drawn)
    assert len({tuple(shape.tree.leaves) for shape in drawn}) == 3
    with Image.open(folder / "grid.png") as grid:
        pixels = np.asarray(grid.convert("RGB"))
        assert pixels.shape[0] >= 192
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 16
    record = manifest_of(folder)
    assert record["status"] == "complete"
    assert record["files"] == files(3)
    assert record["nfe"] == record["forward_passes_per_sample"] == 7  # 1 + 3 + 3
    assert record["network_calls"] == len(calls) == 14  # two batches
    assert calls == [2] * 7 + [1] * 7
    assert record["plan"]["transition"] == "absorbing"
    assert record["identity"]["format"] == "npz"
    assert done.err.endswith("see runs/0001-sample-shapes/grid.png\n")


def test_pfdiff_and_guidance_are_counted_as_they_are_called(shape_model, monkeypatch, tmp_path):
    calls = counting(monkeypatch)
    options = ("-n", 2, "--steps", 5, "--solver", "pfdiff:1,1")
    sampled(shape_model, *options, "--out", "a")
    record = manifest_of(tmp_path / "a")
    assert record["nfe"] == record["network_calls"] == len(calls) == 1 + 3 + 3
    calls.clear()
    sampled(shape_model, *options, "--guidance", 3, "--category", "chair", "--out", "b")
    record = manifest_of(tmp_path / "b")
    assert (record["nfe"], record["forward_passes_per_sample"]) == (7, 14)
    assert record["network_calls"] == len(calls) == 14
    assert {read_shape(tmp_path / "b" / name).category for name in files(2)} == {"chair"}
    calls.clear()
    sampled(shape_model, *options, "--guidance", "3@0.5-1", "--category", "chair", "--out", "c")
    record = manifest_of(tmp_path / "c")
    # Of a level's 1, 3 and 3 calls the middles 1/2, and 1/2 and 5/6 of three, lie in the interval.
    assert record["forward_passes_per_sample"] == record["network_calls"] == len(calls) == 7 + 5
    assert record["identity"]["guided"] == [0.5, 1.0]


def test_nfe_chooses_the_steps(shape_model, tmp_path):
    done = invoke("sample", "-m", shape_model, "--nfe", 9, "--explain", "--json")
    plan = json.loads(done.out)["plan"]
    assert (plan["nfe"], plan["level"]) == (9, [0] + [1] * 4 + [2] * 4)


def test_a_category_is_the_files_category_and_none_is_none(shape_model, tmp_path):
    for name, written in (("table", "table"), ("none", "")):
        sampled(shape_model, "-n", 1, "--category", name, "--out", name)
        assert read_shape(tmp_path / name / "000000.npz").category == written
    assert tokens(tmp_path / "table", 0) != tokens(tmp_path / "none", 0)


def test_invariant_files_are_the_same_bits_whatever_the_batch_and_the_start(shape_model, tmp_path):
    options = ("-n", 5, "--invariant", "--seed", 3)
    for name, size in (("a", 5), ("b", 2), ("c", 1)):
        sampled(shape_model, *options, "--batch-size", size, "--out", name)
    sampled(shape_model, *options[2:], "-n", 2, "--start-index", 3, "--out", "d")
    for name in files(5):
        whole = (tmp_path / "a" / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == whole
        assert (tmp_path / "c" / name).read_bytes() == whole
    for name in files(2, start=3):
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


# --- the same in Python ---------------------------------------------------------------------------


def test_python_draws_the_shapes_of_the_command_line(shape_model, tmp_path):
    sampled(shape_model, "-n", 3, "--category", "chair", "--out", "a")
    model = ddimx.load_model(shape_model, device="cpu", dtype="fp32")
    trees = ddimx.sample_shapes(model, count=3, steps=3, category="chair", batch_size=2)
    assert [t.tokens().tolist() for t in trees] == [tokens(tmp_path / "a", i) for i in range(3)]
    *_, last = ddimx.stream_shapes(model, count=1, start_index=2, steps=3, category="chair")
    assert [level.ids.tolist() for level in last.levels] == [m.tolist() for m in trees[2].masks]
    alone = ddimx.sample_shapes(model, count=1, start_index=1, steps=3, category="chair")
    assert np.array_equal(alone[0].leaves, trees[1].leaves)


def test_python_refuses_the_other_kind_of_model(shape_model, tiny_model):
    tokens_, images = (ddimx.load_model(m, device="cpu") for m in (shape_model, tiny_model))
    for call in (ddimx.sample_shapes, ddimx.stream_shapes):
        with pytest.raises(
            UsageError, match=r"needs a model of octrees, and this one draws images"
        ):
            call(images)
    trees = ddimx.sample(tokens_, count=2, steps=1, seed=3)
    *_, last = ddimx.stream(tokens_, count=2, steps=1, seed=3)
    assert all(isinstance(tree, ddimx.Octree) for tree in trees)
    for tree, again in zip(trees, tokens_.process.finish(last), strict=True):
        assert np.array_equal(tree.leaves, again.leaves)
    with pytest.raises(UsageError, match="start has shape"):
        ddimx.sample(tokens_, count=1, start=torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match="steps must be at least 1, got 0"):
        ddimx.sample_shapes(tokens_, steps=0)


# --- going on -------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_with_its_options(shape_model, tmp_path, monkeypatch):
    options = ("-n", 5, "--seed", 2, "--batch-size", 2, "--temperature", 0.8, "--invariant")
    sampled(shape_model, *options, "--out", "whole")
    real = ShapeSink.write

    def write(self, *batch):
        real(self, *batch)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ShapeSink, "write", write)
        done = sample(shape_model, *options, "--export", "3dgs", "--out", "cut")
    assert done.code == 130
    assert done.err.endswith("interrupted; go on: ddimx sample --resume cut\n")
    assert names_in(tmp_path / "cut") == [*files(2), "manifest.json"]
    assert manifest_of(tmp_path / "cut")["status"] == "interrupted"

    calls = counting(monkeypatch)
    assert invoke("sample", "--resume", "cut", "--device", "cpu").code == 0
    assert len(calls) == 3 * 7
    assert names_in(tmp_path / "cut") == sorted([*files(5), *splats(5), *RECORD])
    for name in files(5):
        cut, whole = ((tmp_path / folder / name).read_bytes() for folder in ("cut", "whole"))
        assert cut == whole
    record = manifest_of(tmp_path / "cut")
    assert (record["status"], record["network_calls"]) == ("complete", 5 * 7)
    assert record["exported"] == splats(5)


def test_a_stop_within_a_batch_leaves_whole_files_only(shape_model, tmp_path, monkeypatch):
    calls, real = [], OctreeNet.forward

    def forward(self, *arguments):
        calls.append(1)
        if len(calls) == 10:
            signal.raise_signal(signal.SIGINT)
        return real(self, *arguments)

    monkeypatch.setattr(OctreeNet, "forward", forward)
    assert sample(shape_model, "-n", 4, "--batch-size", 2, "--out", "a").code == 130
    assert names_in(tmp_path / "a") == [*files(2), "manifest.json"]
    assert len(calls) == 10


def test_the_same_command_does_nothing_twice_and_a_larger_count_adds(
    shape_model, tmp_path, monkeypatch
):
    sampled(shape_model, "-n", 2, "--out", "a")
    before = state_of(tmp_path / "a")
    calls = counting(monkeypatch)
    sampled(shape_model, "-n", 2, "--out", "a")
    assert calls == []
    after = state_of(tmp_path / "a")
    assert all(after[name] == before[name] for name in files(2))
    sampled(shape_model, "-n", 3, "--out", "a")
    assert calls == [1] * 7
    assert names_in(tmp_path / "a") == [*files(3), *RECORD]
    done = sample(shape_model, "-n", 3, "--out", "a", "--temperature", 0.5)
    assert done.code == 2
    assert "holds a different run" in done.err


# --- splats ---------------------------------------------------------------------------------------


def test_export_writes_splats_beside_the_tokens_and_overwrite_takes_them_away(
    shape_model, tmp_path
):
    options = ("-n", 2, "--out", "a")
    done = sampled(shape_model, *options, "--export", "3dgs,ply", "--json")
    named = [f"00000{i}.{kind}" for i in (0, 1) for kind in ("3dgs.ply", "ply")]
    assert names_in(tmp_path / "a") == sorted([*files(2), *named, *RECORD])
    told = json.loads(done.out)
    assert told.pop("folder") == "a"
    assert told == manifest_of(tmp_path / "a")
    assert sorted(told["exported"]) == sorted(named)
    leaves = len(read_shape(tmp_path / "a" / "000000.npz").tree.leaves)
    assert f"element vertex {leaves}\n".encode() in (tmp_path / "a" / "000000.ply").read_bytes()

    before = state_of(tmp_path / "a")
    sampled(shape_model, *options, "--export", "3dgs")  # adds nothing, forgets nothing
    assert sorted(manifest_of(tmp_path / "a")["exported"]) == sorted(named)
    assert all(state_of(tmp_path / "a")[name] == before[name] for name in named)
    sampled(shape_model, *options, "--seed", 1, "--export", "3dgs", "--overwrite")
    assert names_in(tmp_path / "a") == sorted([*files(2), *splats(2), *RECORD])
    changed = state_of(tmp_path / "a")
    assert all(changed[name][2] != before[name][2] for name in splats(2))
    sampled(shape_model, *options, "--seed", 2, "--overwrite")
    assert names_in(tmp_path / "a") == [*files(2), *RECORD]


def test_cleaned_shapes_are_recorded_and_the_same_in_python(shape_model, tmp_path):
    options = ("-n", 5, "--seed", 2, "--batch-size", 2, "--out", "a")
    sampled(shape_model, *options, "--clean")
    record = manifest_of(tmp_path / "a")
    assert record["identity"]["clean"] is True
    trees = ddimx.sample(shape_model, count=5, seed=2, steps=3, clean=True)
    plain = ddimx.sample(shape_model, count=5, seed=2, steps=3)
    for i, (tree, before) in enumerate(zip(trees, plain, strict=True)):
        in_file = read_shape(tmp_path / "a" / f"{i:06d}.npz").tree
        exact = cleaned(before)
        assert in_file.leaves.tolist() == tree.leaves.tolist() == exact.leaves.tolist()
        assert record["samples"]["cells_removed"][i] == exact.removed == tree.removed
        assert record["samples"]["cells_added"][i] == exact.added == tree.added
    sampled(shape_model, *options, "--clean")  # what is there already is recorded again
    assert manifest_of(tmp_path / "a")["samples"] == record["samples"]
    done = sample(shape_model, *options)
    assert done.code == 2
    assert "clean" in done.err
    sampled(shape_model, *options, "--no-clean", "--overwrite")
    record = manifest_of(tmp_path / "a")
    assert "clean" not in record["identity"]
    assert "cells_removed" not in record["samples"]


# --- looking before -------------------------------------------------------------------------------


def test_explain_and_dry_run_show_the_plan_and_write_nothing(shape_model, tmp_path):
    common = ("-n", 2, "--transition", "uniform", "--eta", 0.5)
    done = sampled(shape_model, *common, "--explain")
    head, *rows = [line for line in done.out.splitlines() if line.strip()]
    assert head.strip().startswith("ddim on uniform tokens, random routing, eta 0.5; 7 rows")
    assert [row.split()[:3] for row in rows if row.split()[0].isdigit()] == [
        [str(i), str(level), "yes"] for i, level in enumerate([0, 1, 1, 1, 2, 2, 2])
    ]
    table = [row.split() for row in rows if row.split()[0].isdigit()]
    assert all(abs(sum(map(float, row[5:8])) - 1) < 2e-6 for row in table)  # the three routes
    done = sampled(shape_model, *common, "--dry-run", "--json")
    costs = json.loads(done.out)["costs"]
    assert costs.pop("estimated_seconds") > 0
    assert costs == {
        "nfe": 7,
        "forward_passes_per_sample": 7,
        "count": 2,
        "batch_size": 2,
        "memory_bytes": None,
    }
    assert "7 forward passes each, about " in sampled(shape_model, *common, "--dry-run").out
    assert names_in(tmp_path) == []


def test_defaults_come_from_the_models_file(tmp_path):
    config = override(
        octree_config(),
        [
            "sampling.steps=2",
            "sampling.eta=0.25",
            "sampling.temperature=0.7,0.7,1-0.5",
            "sampling.routing=confidence",
            "sampling.solver=pfdiff:1,1",
            "sampling.redraw=2",
            "sampling.guidance=2",
            "diffusion.transitions=[uniform]",
        ],
    )
    path = write_model(tmp_path / "own.safetensors", config)
    done = invoke("sample", "-m", path, "--explain", "--json")
    plan = json.loads(done.out)["plan"]
    assert (plan["transition"], plan["routing"]) == ("uniform", "confidence")
    assert plan["temperature"] == [0.7] * 3 + [1.0, 0.5]
    assert plan["label"] == (
        "pfdiff:1,1 on uniform tokens, confidence routing, eta 0.25, at most 2 redraws of a level"
    )
    more = ("--steps", "1/3/2", "--temperature", "1-0.6", "--solver", "ddim")
    done = invoke("sample", "-m", path, *more, "--explain", "--json")
    plan = json.loads(done.out)["plan"]
    assert plan["redraw"] == 2
    entropy = ("--routing", "entropy:2.5", "--eta", 0)
    done = invoke("sample", "-m", path, *entropy, "--explain", "--json")
    assert json.loads(done.out)["plan"]["entropy_bound"] == 2.5
    assert plan["level"] == [0, 1, 1, 1, 2, 2]
    assert plan["temperature"] == [1.0, 1.0, 0.8, 0.6, 1.0, 0.6]
    done = invoke("sample", "-m", path, "-n", 1, "--dry-run", "--json", "--transition", "absorbing")
    assert "note: this model was not trained on absorbing noise" in done.err.replace(
        str(tmp_path) + "/", ""
    )
    assert json.loads(done.out)["costs"]["forward_passes_per_sample"] == 10


# --- refusals -------------------------------------------------------------------------------------

REFUSED = [
    (("--clip", "1"), "--clip: for models of images"),
    (("--clip", "none"), "--clip: for models of images"),
    (("--variance", "small"), "--variance: for models of images"),
    (("--timesteps", "9,5"), "--timesteps: for models of images"),
    (("--plan", str(ROOT / "pyproject.toml")), "--plan: for models of images"),
    (("--init-noise", str(ROOT / "pyproject.toml")), "--init-noise is for images"),
    (("--format", "png"), "draws octrees, which are written as npz; --export writes"),
    (("--format", "npy", "--dry-run"), "draws octrees, which are written as npz"),
    (("--format", "ply"), "unknown format 'ply'"),
    (("--export", "obj"), "unknown format 'obj'"),
    (("--steps", "0"), "steps must be at least 1, got 0"),
    (("--steps", "3", "--nfe", "7"), "omit --steps"),
    (("--nfe", "8"), "no number of steps per level makes exactly 8 evaluations; nearest: 7 and 9"),
    (("--nfe", "2"), "exactly 2 evaluations; nearest: 3"),
    (("--nfe", "99"), "exactly 99 evaluations; nearest: 73"),
    (("--solver", "unipc:2"), "tokens have ddim and pfdiff:k,h"),
    (("--solver", "auto"), "--solver auto: tokens have ddim and pfdiff:k,h"),
    (("--solver", "ddmi"), "unknown solver 'ddmi'; did you mean"),
    (("--spacing", "trailing"), "unknown spacing of tokens 'trailing'. Allowed: cosine, linear."),
    (("--transition", "mask"), "unknown transition 'mask'. Allowed: absorbing, uniform."),
    (("--steps", "1,2"), "2 numbers of steps for 3 levels: one each is needed"),
    (("--temperature", "1,0.5"), "2 temperatures for 3 levels: one each is needed"),
    (("--routing", "best"), "unknown routing 'best'. Allowed: confidence, entropy, random."),
    (("--temperature", "-1"), "temperature must be at least 0, got -1.0"),
    (("--eta", "2"), "eta must lie in [0, 1]"),
    (("--category", "chiar"), "unknown category 'chiar'; did you mean 'chair'?"),
    (("--guidance", "nan"), "guidance must be a finite number"),
    (("-n", "0"), "count must be at least 1"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(shape_model, tmp_path, options, said):
    done = invoke("sample", "-m", shape_model, "--device", "cpu", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--export", "3dgs"), "--export writes octrees as splats, and"),
        (("--transition", "uniform"), "--transition: for models of octrees"),
        (("--routing", "random"), "--routing: for models of octrees"),
        (("--temperature", "0.5"), "--temperature: for models of octrees"),
    ],
)
def test_a_model_of_images_has_no_options_of_octrees(tiny_model, tmp_path, option, said):
    done = sample(tiny_model, *option)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err
    assert names_in(tmp_path) == []


def test_verbs_for_images_refuse_a_model_of_octrees_in_one_line(shape_model, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    for verb in (
        ("inpaint", "x.png", "--mask", "center"),
        ("interpolate", "x.png", "x.png"),
        ("sequence",),
        ("evaluate", "solvers"),
    ):
        done = invoke(*verb, "-m", shape_model, "--device", "cpu")
        assert (done.code, done.err.count("\n")) == (2, 1), (verb, done.err)
        assert "no images" in done.err or "octrees" in done.err, verb
    assert names_in(tmp_path) == ["x.png"]
