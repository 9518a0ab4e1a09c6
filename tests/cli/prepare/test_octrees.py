"""``ddimx prepare octrees`` and ``ddimx prepare furniture``: files, messages, exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from ddimx.octree.file import read_shape
from tests.conftest import cli_environment
from tests.data.shapes.meshes import BOX, glb, library, npz, obj, ply, stl
from tests.sampling import invoke, state_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def meshes(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def manifest(folder):
    rows = {}
    for part in ("train", "val", "test"):
        for line in (folder / f"{part}.jsonl").read_text().splitlines():
            row = json.loads(line)
            rows[row["shape_id"]] = (part, row)
    return rows


def octrees(*args):
    return invoke("prepare", "octrees", *args)


def test_a_folder_of_everything(here):
    meshes(
        here / "in",
        chair__a_dot_obj=obj(),
        chair__b_dot_stl=stl(),
        table__c_dot_glb=glb(),
        table__d_dot_ply=ply(faces=False),
        table__e_dot_npz=npz(points=BOX),
    )
    done = octrees("in", "out", "--depth", 4, "--split", "1,0,0", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["parts"] == {"train": 5, "val": 0, "test": 0}
    assert list(summary["categories"]) == ["chair", "table"]
    assert "out: 5 octrees of depth 4: 5 train, 0 val, 0 test" in done.err
    rows = manifest(here / "out")
    assert rows["a"][1]["source"] == "in/chair/a.obj"
    trees = {name: read_shape(here / "out" / row["file"]).tree for name, (_, row) in rows.items()}
    assert np.array_equal(trees["a"].leaves, trees["b"].leaves)
    assert trees["d"].counts == trees["e"].counts
    assert trees["d"].counts[-1] == 8


def test_what_there_is_and_what_was_passed_over_is_said(here):
    chair = "in/03001627/{}/models/model_normalized{}"
    meshes(
        here,
        **{
            chair.format(name, ending).replace("/", "__"): obj()
            for name in "ab"
            for ending in (".obj", ".mtl", ".solid.binvox")
        },
    )
    done = octrees(".", "out", "--depth", 3, "--split", "1,0,0", "--json")
    assert done.code == 0, done.err
    lines = done.err.splitlines()
    assert lines[:2] == [
        "in: ShapeNetCore: 1 category, 2 shapes",
        "passed over: 2 .binvox, 2 .mtl",
    ]
    summary = json.loads(done.out)
    assert summary["layout"] == "ShapeNetCore"
    assert summary["passed_over"] == {".binvox": 2, ".mtl": 2}
    none = octrees("in", "other", "--extension", "ply", "-q")
    assert (none.code, none.err.count("\n")) == (2, 1)
    assert "no meshes or point clouds (.ply) in in; passed over: " in none.err


def test_parts_that_the_folders_give_are_kept(here):
    for part in ("train", "val", "test"):
        meshes(here / "in" / "chair" / part, **{f"{part}1_dot_obj": obj()})
    assert octrees("in", "out", "--depth", 2, "-q").code == 0
    assert {name: part for name, (part, _) in manifest(here / "out").items()} == {
        "train1": "train",
        "val1": "val",
        "test1": "test",
    }


def test_a_bad_mesh_makes_the_exit_code_1_and_the_rest_is_there(here):
    meshes(
        here / "in", a_dot_obj=obj(), letter_dot_obj=b"Dear mesh,\n", nan_dot_obj=obj(BOX * np.nan)
    )
    done = octrees("in", "out", "--depth", 3)
    assert done.code == 1
    assert "2 could not be made (failures.json lists all):\n  in/letter.obj: " in done.err
    quiet = octrees("in", "out", "--depth", 3, "-q")
    assert quiet.code == 1
    assert quiet.err.startswith("error: 2 could not be made")
    assert list(manifest(here / "out")) == ["a"]
    failures = json.loads((here / "out" / "failures.json").read_text())
    assert [one["source"] for one in failures] == ["in/letter.obj", "in/nan.obj"]
    before = state_of(here / "out" / "shapes")
    (here / "in" / "letter.obj").unlink()
    (here / "in" / "nan.obj").unlink()
    again = octrees("in", "out", "--depth", 3)
    assert again.code == 0
    assert "1 octrees of depth 3 (1 were there already)" in again.err
    assert state_of(here / "out" / "shapes") == before
    assert not (here / "out" / "failures.json").exists()


def test_only_bad_meshes(here):
    meshes(here / "in", letter_dot_obj=b"Dear mesh,\n")
    done = octrees("in", "out")
    assert done.code == 1
    assert "none of 1 shapes could be made; the first: in/letter.obj: " in done.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere", "out"), "no folder nowhere"),
        (("empty", "out"), "no meshes or point clouds"),
        (("in", "in"), "SRC and DST are the same folder"),
        (("in", "out", "--split", "0.8,0.2"), "three numbers are needed"),
        (("in", "out", "--split", "0.8,0.1,0.2"), "add up to 1"),
        (("in", "out", "--split", "0,0.5,0.5"), "train above 0"),
        (("in", "out", "--visible", "--depth", 10), "--visible needs a --depth of at most 9"),
        (("in", "letter"), "exists and is not a folder"),
        (("in", "empty/.."), "is not a prepared set"),
        (("twins", "out"), "are both shape 'old-a' of category 'chair'; rename one of them"),
    ],
)
def test_nothing_starts(here, args, words):
    meshes(here / "in", a_dot_obj=obj())
    meshes(here / "twins" / "chair", **{"old__a_dot_obj": obj(), "old-a_dot_stl": stl()})
    (here / "empty").mkdir()
    (here / "letter").write_text("dear")
    before = state_of(here)
    done = octrees(*args)
    assert done.code == 2
    assert words in done.err
    assert state_of(here) == before


def test_other_settings_need_overwrite(here):
    meshes(here / "in", a_dot_obj=obj())
    assert octrees("in", "out", "--depth", 3, "-q").code == 0
    refused = octrees("in", "out", "--depth", 4)
    assert refused.code == 2
    assert "depth 3 instead of 4; give --overwrite" in refused.err
    assert octrees("in", "out", "--depth", 4, "-q", "--overwrite").code == 0
    assert read_shape(here / "out/shapes/in/a.npz").tree.depth == 4


def test_visible_cells_without_scipy(here, monkeypatch):
    meshes(here / "in", a_dot_obj=obj())
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = octrees("in", "out", "--visible")
    assert done.code == 2
    assert 'scipy, which visible cells need, is not installed; run pip install "ddimx' in done.err
    assert not (here / "out").exists()


def test_meshes_need_no_further_library(here, monkeypatch):
    for name in ("trimesh", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)
    contents = {"a_dot_obj": obj(), "b_dot_stl": stl(), "c_dot_ply": ply(), "d_dot_glb": glb()}
    meshes(here / "in", **contents)
    assert octrees("in", "out", "--depth", 3, "--workers", 1, "-q").code == 0


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on(here, number):
    """Ctrl-C, which all processes of a terminal get, or a killed first process, which they follow.

    Whole files, no manifests; ``communicate`` returns when the last process has closed stderr.
    """
    random = np.random.default_rng(0)
    corners = random.random((600, 1, 3)) + random.random((600, 3, 3)) / 8
    large = obj(corners.reshape(-1, 3), np.arange(1800).reshape(-1, 3))
    for i in range(24):
        meshes(here / "in", **{f"m{i:02d}_dot_obj": large})
    command = [sys.executable, "-m", "ddimx", "prepare", "octrees", "in", "out"]
    process = subprocess.Popen(
        [*command, "--depth", "7", "--workers", "2"],
        cwd=here,
        env=cli_environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    journal = here / "out" / "journal.jsonl"
    while not (journal.exists() and journal.stat().st_size) and process.poll() is None:
        os.sched_yield()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[number], err.decode()
    assert not (here / "out" / "train.jsonl").exists()
    made = list((here / "out" / "shapes" / "in").iterdir())
    whole = [path for path in made if path.suffix == ".npz"]
    assert whole == made or number == signal.SIGKILL  # else swept by the next run
    assert 0 < len(whole) < 24
    assert all(read_shape(path).tree.depth == 7 for path in whole)
    for i in range(3, 24):  # few remain, for the test's sake
        (here / "in" / f"m{i:02d}.obj").unlink()
    done = octrees("in", "out", "--depth", 7, "--json", "-q")
    assert done.code == 0
    assert json.loads(done.out)["found"] > 0
    assert len(list((here / "out" / "shapes" / "in").iterdir())) == 3


def furniture_library(path):
    shapes = {"chair": 1.0, "stool": 2.0, "bar chair": 0.5}
    items = [
        {
            "id": f"Lib#{name.replace(' ', '_')}",
            "name": name.capitalize(),
            "obj": obj(BOX * [1, y, 1]),
        }
        | {"width": "40", "depth": "20", "height": str(10 * y)}
        for name, y in shapes.items()
    ]
    items += [{"id": "Lib#rug", "name": "Rug"}, {"id": "Lib#desk", "name": "Desk"}]
    return library(path, items)


def test_furniture(here):
    furniture_library(here / "a.sh3f")
    done = invoke("prepare", "furniture", "--library", "a.sh3f", "--depth", 4, "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["path"] == "data/furniture"
    assert summary["categories"]["chair"] == {"train": 1, "val": 1, "test": 1}
    assert summary["categories"]["table"] == {"train": 1, "val": 0, "test": 0}
    folder = here / "data" / "furniture"
    part, row = manifest(folder)["lib-desk"]
    assert part == "train"
    assert (row["name"], row["creator"], row["licence"]) == ("Desk", "Ada", "CC BY 3.0")
    assert read_shape(folder / row["file"]).tree.edge == pytest.approx(40 / 0.99)  # centimetres
    text = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "- Ada: bar\\_chair, chair, desk, stool" in text
    again = invoke("prepare", "furniture", "--library", "a.sh3f", "--depth", 4, "--json")
    assert json.loads(again.out)["found"] == 4


def test_furniture_has_variants_to_train_on(here):
    furniture_library(here / "a.sh3f")
    command = ("prepare", "furniture", "--library", "a.sh3f", "--depth", 4, "--workers", 1, "-q")
    assert invoke(*command, "--variants", 3, "--out", "out").code == 0
    rows = manifest(here / "out")
    assert {part: row.get("variants") for part, row in rows.values()} == {
        "train": 3,
        "val": None,
        "test": None,
    }
    refused = invoke(*command, "--out", "out")
    assert "recipe 3; 3 variants, seed 0' instead of a.sh3f; recipe 3; 24 variants" in refused.err
    refused = invoke(*command, "--recipe", 2, "--variants", 2, "--out", "old")
    assert (refused.code, "--variants needs --recipe 3" in refused.err) == (2, True)


def test_furniture_of_one_category(here):
    furniture_library(here / "a.sh3f")
    command = ("prepare", "furniture", "--library", "a.sh3f", "--depth", 3, "--out", "out")
    assert invoke(*command, "--category", "table", "-q").code == 0
    assert list(manifest(here / "out")) == ["lib-desk"]
    assert invoke(*command, "-q").code == 2  # another set
    wrong = invoke(*command, "--category", "tables")
    assert wrong.code == 2
    assert "unknown category 'tables'; did you mean 'table'?" in wrong.err


def test_furniture_as_the_shipped_model_has_it(here):
    """The first recipe fills the notch of a polygon; a set of it is not continued by another."""
    notch = obj([(0, 0, 0), (2, 0, 0), (2, 2, 0), (1, 0.2, 0), (0, 2, 0)], [range(5)])
    library(here / "a.sh3f", [{"id": "Test#chair", "name": "Chair", "obj": notch}])
    command = ("prepare", "furniture", "--library", "a.sh3f", "--depth", 4, "--workers", 1, "-q")
    assert invoke(*command, "--out", "one", "--recipe", 1).code == 0
    assert invoke(*command, "--out", "two", "--recipe", 2).code == 0
    cells = [
        set(read_shape(here / name / "shapes/chair/test-chair.npz").tree.leaves.tolist())
        for name in ("one", "two")
    ]
    assert cells[1] < cells[0]
    refused = invoke(*command, "--out", "one", "--recipe", 2)
    assert refused.code == 2
    assert "source 'a.sh3f' instead of a.sh3f; recipe 2; give --overwrite" in refused.err


def test_furniture_with_a_missing_model(here):
    furniture_library(here / "a.sh3f")
    shutil.copy(here / "a.sh3f", here / "b.sh3f")
    content = (here / "b.sh3f").read_bytes()
    (here / "b.sh3f").write_bytes(content.replace(b"v 4.0 0.0", b"v 4.0 9.9", 1))  # a bad checksum
    done = invoke("prepare", "furniture", "--library", "b.sh3f", "--depth", 3, "--out", "out")
    assert done.code == 1
    assert (
        "b.sh3f: cannot read models/chair/chair.obj (not a readable compressed file: Bad CRC-32"
        in done.err
    )
    assert "lib-chair" not in manifest(here / "out")
    assert "- Ada: bar\\_chair, desk, stool\n" in (here / "out" / "ATTRIBUTION.md").read_text(
        encoding="utf-8"
    )
