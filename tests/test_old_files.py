"""Files of earlier versions are read, and what was begun then goes on.

The files are in ``tests/fixtures``; its README says how each was made. What is there already is
kept to the byte. What is added is not compared with recorded pixels, for CPUs differ in the last
bit.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddimx.data.images.packed import PackedSource
from ddimx.octree.file import read_shape
from ddimx.solvers.plan_file import read_plan
from ddimx.weights.model import load_model
from tests.conftest import ROOT
from tests.data.shapes.meshes import obj
from tests.sampling import image_names, invoke, manifest_of, names_in

OLD = ROOT / "tests" / "fixtures" / "0.1.0"
THEN = "/home/user/ddimx-0.1.0"  # where the sets were prepared
MODIFIED = 1_700_000_000
SAMPLE = ("sample", "-m", "tiny.safetensors", "--device", "cpu", "--dtype", "fp32", "--steps", 4)


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the files, and it is the current folder."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def kept(folder: Path) -> dict[str, bytes]:
    """What an interrupted run has written, unfinished files and its record aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part")
    ours = {"manifest.json", "journal.jsonl", "prepare.json"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name not in ours}


EDIT = ("-m", "tiny.safetensors", "--device", "cpu", "--steps", 4)
FRAMES = [f"{i:06d}/{row:04d}.png" for i in range(2) for row in range(4)]
STRIPS = [f"{i:06d}-{what}" for i in range(2) for what in ("strip.png", "steps.webp")]

RUNS = {
    "interrupted": ((*SAMPLE, "-n", 6, "--guidance", 2), image_names(range(6))),
    "killed": ((*SAMPLE, "-n", 6, "--solver", "unipc:2"), image_names(range(6))),
    "killed-array": ((*SAMPLE, "-n", 6, "--eta", 0.5, "--format", "npy"), ["samples.npy"]),
    "killed-plan": (
        ("sample", "-m", "tiny.safetensors", "--device", "cpu", "--plan", "plan-3.json", "-n", 4),
        image_names(range(4)),
    ),
    "killed-octrees": (
        ("sample", "-m", "octrees.safetensors", "--device", "cpu", "--steps", 2, "-n", 4),
        image_names(range(4), "npz"),
    ),
    "killed-inpaint": (
        ("inpaint", "pictures", "--mask", "left", "-n", 2, *EDIT),
        [f"{name}-{i:02d}.png" for name in "abc" for i in range(2)],
    ),
    "killed-sequence": (
        ("sequence", *EDIT, "-n", 2),
        [*image_names(range(2)), *FRAMES, *STRIPS],
    ),
    "killed-interpolate": (
        ("interpolate", 0, 1, "--frames", 5, *EDIT),
        [*image_names(range(5)), "animation.webp"],
    ),
    "killed-encode": (("encode", "pictures", *EDIT), ["latents.npy"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_begun_then_goes_on(old, name):
    command, files = RUNS[name]
    folder = old / name
    before, record = kept(folder), manifest_of(folder)
    parts = {path for path in before if path.startswith("parts/")}
    done = invoke(*command, "--out", name)
    assert done.code == 0, done.err
    assert "are there already" in done.err or not set(before) & set(files) - set(FRAMES)
    after = kept(folder)
    assert set(after) == {*files, "grid.png"}
    assert all(after[path] == before[path] for path in set(before) - parts - set(FRAMES))
    assert sorted(p for p in folder.rglob("*") if p.suffix == ".part") == []
    now = manifest_of(folder)
    assert (now["status"], now["schema"], now["identity"]["schema"]) == ("complete", 2, 2)
    assert now["dtype"] == record["dtype"]  # bf16, where "auto" took it then
    assert invoke(*command, "--out", name).code == 0


@pytest.mark.parametrize(
    ("name", "change", "difference"),
    [
        ("interrupted", ("--guidance", 3), "guidance: 2.0 -> 3.0"),
        ("killed", ("--solver", "unipc:3"), "solver: another plan, unipc:2 -> unipc:3"),
        ("killed", ("--spacing", "leading"), "solver: another plan, unipc:2 -> unipc:2"),
        ("killed-array", ("--eta", 0.4), "solver: another plan, ddim, eta 0.5 -> ddim"),
        ("killed-plan", ("--clip", 1), "solver: another plan, searched"),
        ("killed-octrees", ("--steps", 3), "solver: another plan, ddim on absorbing tokens"),
        ("killed-inpaint", ("--mask", "top"), "mask_sha256"),
        ("killed-interpolate", ("--frames", 6), "columns: 5 -> 6"),
    ],
)
def test_another_run_is_told_from_one_that_was_begun_then(old, name, change, difference):
    before = kept(old / name)
    done = invoke(*RUNS[name][0], "--out", name, *change)
    assert done.code == 2
    assert f"{name} holds a different run (" in done.err
    assert difference in done.err
    assert kept(old / name) == before


def test_an_interrupted_run_is_resumed_by_its_folder(old):
    for name in ("interrupted", "killed-plan"):
        done = invoke("sample", "--resume", name, "--device", "cpu")
        assert done.code == 0, done.err
        assert manifest_of(old / name)["status"] == "complete"


def test_a_complete_run_stays_and_grows(old):
    before = kept(old / "complete")
    assert invoke(*SAMPLE, "-n", 3, "--out", "complete").code == 0
    assert {**before, "grid.png": b""} == {**kept(old / "complete"), "grid.png": b""}
    assert invoke(*SAMPLE, "-n", 5, "--out", "complete").code == 0
    assert {*before, "000003.png", "000004.png"} == set(kept(old / "complete"))
    assert invoke(*SAMPLE, "-n", 1, "--seed", 1, "--out", "complete", "--overwrite").code == 0
    assert names_in(old / "complete") == ["000000.png", "grid.png", "manifest.json"]


def test_models_are_loaded(old):
    images = load_model(old / "tiny.safetensors", device="cpu", dtype="fp32")
    assert (images.process.shape, images.classes) == ((3, 4, 4), ("round", "square"))
    octrees = load_model(old / "octrees.safetensors", device="cpu", dtype="fp32")
    assert octrees.classes == ("chair", "table")
    checkpoint = load_model(old / "training", device="cpu", dtype="fp32")
    assert checkpoint.info["step"] == 2


def test_a_plan_is_read(old):
    plan, found = read_plan(old / "plan-3.json")
    assert (len(plan), plan.history, found["nfe"]) == (3, "x0", 3)
    assert np.array_equal(plan.t, [999.0, 525.7894736842105, 52.578947368421055])


def test_a_training_goes_on(old):
    done = invoke("train", "--resume", "training", "--set", "training.n_iters=4", "--device", "cpu")
    assert done.code == 0, done.err
    names = names_in(old / "training" / "checkpoints")
    assert "checkpoint-00000004.safetensors" in names


def test_a_packed_set_is_read(old):
    whole = [PackedSource(old / "packed.npy", held_out=held_out) for held_out in (False, True)]
    pixels = [np.asarray(Image.open(old / "pictures" / f"{name}.png")) for name in "abc"]
    read = [picture for source in whole for picture in source.images(np.arange(len(source)))]
    assert sorted(p.tobytes() for p in read) == sorted(p.tobytes() for p in pixels)


def test_a_packed_set_that_was_begun_then_is_finished(old):
    (old / "more-pictures").mkdir()
    for i in range(300):
        data = np.full((4, 4, 3), i % 256, np.uint8)
        data[0, 0, 0] = i // 256
        Image.fromarray(data).save(old / "more-pictures" / f"{i:03d}.png")
    shutil.copytree(old / "half.npy.unfinished", old / "copy")
    done = invoke("prepare", "images", "more-pictures", "half.npy", "--size", 4)
    assert done.code == 0, done.err
    assert "256 were there already" in done.err
    assert invoke("prepare", "images", "more-pictures", "again.npy", "--size", 4).code == 0
    assert (old / "half.npy").read_bytes() == (old / "again.npy").read_bytes()
    assert not (old / "half.npy.unfinished").exists()


@pytest.mark.parametrize("name", ["set", "set-complete"])
def test_a_set_of_octrees_goes_on(old, name):
    for i in range(6):
        path = old / "meshes" / ("chair", "table")[i % 2] / f"{i}.obj"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(obj())
        os.utime(path, (MODIFIED, MODIFIED))
    record = old / name / "prepare.json"  # which names the source by its whole path
    record.write_text(record.read_text().replace(THEN, str(old)))
    before = kept(old / name)
    done = invoke("prepare", "octrees", "meshes", name, "--depth", 3, "--workers", 1)
    assert done.code == 0, done.err
    found = {"set": 3, "set-complete": 6}[name]
    assert f"{found} were there already" in done.err
    after = kept(old / name)
    shapes = {f"shapes/{('chair', 'table')[i % 2]}/{i}.npz" for i in range(6)}
    assert set(after) == shapes | {"train.jsonl", "val.jsonl", "test.jsonl"}
    assert all(after[path] == before[path] for path in shapes & set(before))
    for file in shapes:
        assert read_shape(old / name / file, depth=3).tree.counts[-1] == 64
    lines = (old / name / "journal.jsonl").read_text().splitlines()
    assert {json.loads(line)["file"] for line in lines if line} == shapes


def test_a_set_from_another_place_is_refused_with_the_reason(old):
    (old / "meshes").mkdir()
    (old / "meshes" / "a.obj").write_bytes(obj())
    done = invoke("prepare", "octrees", "meshes", "set", "--depth", 3)
    assert done.code == 2
    assert f"source '{THEN}/meshes' instead of {old}/meshes" in done.err
