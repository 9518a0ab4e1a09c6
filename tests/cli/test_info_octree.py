"""``ddimx info`` of token files."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ddimx.octree.file import Shape, write_shape
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import from_leaves
from tests.conftest import cli_environment
from tests.sampling import invoke

# Four cells in a row, one that touches their end at a corner, and one far away.
CELLS = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 1, 1), (7, 7, 7)]


@pytest.fixture
def chair(tmp_path):
    path = tmp_path / "chair.npz"
    tree = from_leaves(keys_of(np.array(CELLS)), 3, (1.0, 2.0, 3.0), 4.0)
    write_shape(path, Shape(tree, "chair", "x1"))
    return path


def test_the_facts_of_a_file(chair):
    done = invoke("info", chair, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {
        "file": {
            "path": str(chair),
            "bytes": chair.stat().st_size,
            "category": "chair",
            "shape_id": "x1",
        },
        "octree": {
            "valid": True,
            "depth": 3,
            "nodes": [1, 3, 4, 6],
            "tokens": 14,
            "leaves": 6,
            "bounds_min": [1.0, 2.0, 3.0],
            "bounds_max": [5.0, 6.0, 7.0],
            "leaf_edge": 0.5,
        },
        "connectivity": {
            "parts": 2,
            "largest_share": 5 / 6,
            "parts_by_faces": 3,
            "largest_share_by_faces": 4 / 6,
        },
    }


def test_without_scipy_all_but_the_parts_is_said(chair, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    facts = json.loads(invoke("info", chair, "--json").out)
    assert facts["octree"]["leaves"] == 6
    reason = 'scipy, which connected parts need, is not installed; run pip install "ddimx[3d]"'
    assert facts["connectivity"] == {"omitted": reason}
    assert f"  omitted: {reason}" in invoke("info", chair).out.splitlines()


def test_for_people_with_a_picture(chair):
    lines = invoke("info", chair).out.splitlines()
    assert "  nodes: 1, 3, 4, 6" in lines
    assert "  largest_share_by_faces: 0.6666666666666666" in lines
    picture = lines[lines.index("") + 1 :]
    assert picture[0].split() == ["front", "side", "top"]
    assert len(picture) == 13
    assert "█" in "".join(picture)


def test_a_bare_stream(tmp_path):
    np.save(tmp_path / "bare.npy", np.array([1, 128, 1, 0, 0]))
    facts = json.loads(invoke("info", tmp_path / "bare.npy", "--json").out)
    assert facts["octree"]["nodes"] == [1, 1, 1]
    assert facts["octree"]["bounds_min"] == [0, 0, 0]  # as the original project has it
    assert facts["octree"]["bounds_max"] == [1, 1, 1]


def test_what_is_no_octree_is_an_error(tmp_path):
    np.savez(tmp_path / "broken.npz", tokens=np.array([255, 1, 1]))
    for arguments in (
        ["info", tmp_path / "broken.npz"],
        ["info", tmp_path / "broken.npz", "--json"],
    ):
        done = invoke(*arguments)
        assert (done.code, done.out) == (1, "")
        assert "broken.npz: the stream ends early" in done.err
        assert "(level 1, token 3)" in done.err
    done = invoke("info", tmp_path / "absent.npz")
    assert (done.code, done.out) == (1, "")
    assert "no file" in done.err


def test_options_for_models_are_refused(chair):
    for option in (["--weights", "raw"], ["--config", "cifar10"], ["--models"]):
        done = invoke("info", chair, *option)
        assert (done.code, done.out) == (2, "")
        assert f"{option[0]} is for models" in done.err


def test_a_folder_is_counted_and_its_broken_files_are_named(chair, tmp_path):
    small = from_leaves(np.array([0]), 2)
    write_shape(tmp_path / "shapes" / "lamp" / "b.npz", Shape(small, "lamp"))
    done = invoke("info", tmp_path, "--json")
    assert done.code == 0
    assert json.loads(done.out) == {
        "folder": {"path": str(tmp_path), "files": 2, "valid": 2},
        "depths": {"2": 1, "3": 1},
        "categories": {"chair": 1, "lamp": 1},
        "leaves": {"least": 1, "median": 3, "most": 6},
        "broken": [],
    }
    np.save(tmp_path / "c.npy", np.array([3, 1]))
    done = invoke("info", tmp_path)
    assert done.code == 1
    assert "c.npy: the stream ends early" in done.out
    assert "1 of 3 files" in done.err


def test_a_folder_of_a_model_is_a_model(chair, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    done = invoke("info", tmp_path)
    assert done.code != 0
    assert "octree" not in done.err


def test_it_starts_without_torch_and_draws_what_the_terminal_can_show(chair):
    code = (
        "import sys; from ddimx.cli.app import run; sys.argv = ['ddimx', 'info', sys.argv[1]]\n"
        "try: run()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    environment = cli_environment() | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(chair)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "False\n"
    assert "###" in done.stdout
