"""``ddimx export`` from the command line."""

import gzip
import json

import numpy as np
import pytest
from plyfile import PlyData

from ddimx.octree.file import read_shape
from tests.exporting import write
from tests.sampling import invoke
from tests.splats.readers import read_3dgs, read_spz


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "runs" / "0003-sample-furniture"
    folder.mkdir(parents=True)
    write(folder / "000000.npz", legs=3)
    write(folder / "000001.npz", legs=4)
    return folder


def test_the_newest_run_in_several_formats(run_cli, run_dir):
    done = run_cli("export", "--format", "3dgs,spz", "--format", "glb", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "complete"
    assert told["splats"] == 64 + 27 + 64 + 36
    parts = told["seconds_by_part"]
    assert list(parts) == ["read", "decode", "splats", "encode", "draw", "write"]
    assert parts.pop("draw") == 0.0
    assert min(parts.values()) > 0
    assert sum(parts.values()) <= told["seconds"]
    suffixes = (".3dgs.ply", ".spz", ".glb")
    files = [
        f"runs/0003-sample-furniture/{stem}{s}" for stem in ("000000", "000001") for s in suffixes
    ]
    assert [f["path"] for shape in told["exported"] for f in shape["files"]] == files
    assert "exporting runs/0003-sample-furniture\n" in done.stderr
    assert "2 exported, 191 splats" in done.stderr
    ply, spz = (run_dir / f"000001{s}" for s in suffixes[:2])
    a, b = read_3dgs(ply.read_bytes()), read_spz(spz.read_bytes())
    np.testing.assert_allclose(a["positions"], b["positions"] * [1, -1, -1], atol=2**-13)


def test_options_reach_the_file(run_cli, run_dir, tmp_path):
    pytest.importorskip("plyfile")
    done = run_cli(
        "export", run_dir / "000000.npz", "--format", "ply", "--ascii", "--color", "#336699",
        "--opacity", 0.5, "--scale", 0.25, "--up", "z", "--max-depth", 4, "-o", "x/y.ply", "-q",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lines = (tmp_path / "x" / "y.ply").read_text().splitlines()
    assert lines[1] == "format ascii 1.0"
    assert lines[2] == "element vertex 91"
    values = np.array([line.split() for line in lines[-91:]], dtype=float)
    assert (values[:, 3:] == [*[0.25 / 16] * 3, 0x33, 0x66, 0x99, 0.5]).all()
    assert values[:, 2].max() == 9.5 / 16 - 0.5  # the seat, 9 cells up: z is up


def test_place_size_and_depth_reach_the_file(run_dir):
    source = write(run_dir / "000009.npz", legs=0)
    done = invoke(
        "export", source, "--format", "3dgs,spz", "--up", "y", "--sh-degree", 1, "--spz-version", 2,
        "--depth", 3, "--center", "--unit", "cube", "--scale", 1, "-q", "-o", run_dir / "x",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    ply, spz = (run_dir / "x" / f"000009{suffix}" for suffix in (".3dgs.ply", ".spz"))
    read = read_3dgs(ply.read_bytes())
    assert read["rest"].shape[1] == 9
    np.testing.assert_allclose(read["sigmas"], 1 / 8, rtol=1e-6)
    np.testing.assert_allclose(read["positions"], read_spz(spz.read_bytes())["positions"])
    assert gzip.decompress(spz.read_bytes())[4] == 2
    wrong = invoke("export", source, "--unit", "cm")
    assert (wrong.code, wrong.err) == (2, "error: --unit cm: give a number above 0, or 'cube'\n")


def test_failures_are_listed_and_the_others_made(run_cli, run_dir):
    (run_dir / "000002.npz").write_bytes(b"not a zip")
    done = run_cli("export", run_dir, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["status"] == "failed"
    assert [failed["source"] for failed in told["failed"]] == [str(run_dir / "000002.npz")]
    assert len(told["exported"]) == 2
    assert "error: 1 of 3 shapes failed, the others are written:" in done.stderr
    assert "/000002.npz: " in done.stderr


def test_in_an_empty_folder_a_chair_is_drawn_first(run_cli, tmp_path):
    done = run_cli("export", "--format", "ply")
    assert done.returncode == 0, done.stderr
    assert "sampling one from the shipped model" in done.stderr
    folder = tmp_path / "runs" / "0001-sample-furniture"
    shape = read_shape(folder / "000000.npz")
    assert (shape.category, shape.tree.depth) == ("chair", 5)
    assert PlyData.read(folder / "000000.ply")["vertex"].count == len(shape.tree.leaves)


def test_nothing_is_started_with_options_that_cannot_be_met(run_cli, run_dir):
    done = run_cli("export", "--format", "gbl")
    assert done.returncode == 2
    assert done.stderr == (
        "error: unknown format 'gbl'; did you mean 'glb'? "
        "Allowed: 3dgs, glb, json, ply, splat, spz.\n"
    )
    assert len(list(run_dir.iterdir())) == 2
