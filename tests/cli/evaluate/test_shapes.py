"""``ddimx evaluate shapes`` on folders of tiny octrees."""

import json

import numpy as np
import pytest

from ddimx.octree import geometry
from ddimx.octree.file import read_shape
from tests.evaluation.shapes import blocks, prepared, save
from tests.sampling import invoke


def evaluate(*args):
    return invoke("evaluate", "shapes", "--points", 32, *args)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A prepared data set, and a run of 6 samples of which one file is broken."""
    root = tmp_path_factory.mktemp("shapes")
    prepared(root / "data", train=blocks(8, 0), val=blocks(3, 1), test=blocks(6, 2))
    save(root / "run", blocks(5, 3), "chair")
    np.save(root / "run" / "000005.npy", np.array([255, 1, 1]))
    (root / "run" / "manifest.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def record(folders):
    path = folders / "record.json"
    done = evaluate("--samples", folders / "run", "--reference", folders / "data", "--out", path)
    assert done.code == 0, done.err
    return done, json.loads(path.read_text())


def test_a_run_against_a_prepared_data_set(folders, record):
    done, found = record
    assert found["counts"] == {"samples": 5, "reference": 6, "train": 8, "invalid": 1}
    assert found["reference"] == str(folders / "data" / "test.jsonl")
    assert found["train"] == str(folders / "data" / "train.jsonl")
    assert found["compared"] == 5
    assert found["validity"]["value"] == pytest.approx(5 / 6)
    assert "the level above says 8 cells" in found["invalid"][0]
    rows = {line[:20].strip(): line[20:].split() for line in done.out.splitlines()}
    nearest = found["novelty"]["nearest"]
    assert [row["sample"] for row in nearest] == [f"{i:06d}.npz" for i in range(5)]
    ious = [
        geometry.iou(
            read_shape(folders / "run" / row["sample"]).tree,
            read_shape(folders / "data" / row["training"]).tree,
        )
        for row in nearest
    ]
    assert ious == [row["iou"] for row in nearest]
    assert max(ious) == found["novelty"]["samples"]["max"]
    assert "of a perfect generator: 44.4%" in done.out
    assert rows["valid"][0] == "83.3%"
    nna = found["chamfer"]["1-NNA"]
    assert rows["1-NNA chamfer"][:2] == [f"{100 * nna['value']:.1f}%", f"{100 * nna['low']:.1f}"]
    assert rows["MMD chamfer x1000"][0] == f"{1000 * found['chamfer']['MMD']['value']:.3f}"
    assert "32 points uniform inside occupied cells" in done.err
    assert "makes it meaningless" in done.err
    assert "000005.npy" in done.err


def test_json_is_the_record_and_quiet_is_quiet(folders, record):
    done = evaluate(
        "--samples", folders / "run", "--reference", folders / "data", "--json", "--quiet"
    )
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == record[1]


def test_a_category_and_another_part(folders):
    done = evaluate(
        *("--samples", folders / "run", "--reference", folders / "data", "--split", "val"),
        *("--category", "chair", "--train", folders / "run", "--no-floors", "--emd"),
        *("--emd-points", 4, "--point-seeds", 2, "--json", "-q"),
    )
    # The training set is read strictly, and this one has a broken file.
    assert (done.code, done.out) == (1, "")
    assert "000005.npy" in done.err
    done = evaluate(
        *("--samples", folders / "run", "--reference", folders / "data", "--split", "val"),
        *("--category", "chair", "--no-floors", "--emd", "--emd-points", 4, "--json", "-q"),
    )
    found = json.loads(done.out)
    assert found["counts"] == {"samples": 5, "reference": 2, "train": 4, "invalid": 1}
    assert found["categories"] == ["chair"]
    assert {"emd", "chamfer"} < found.keys()
    assert "floor" not in found


def test_point_clouds_as_a_reference(folders, tmp_path):
    """PC15k: the points of the reference's own cells give its octrees, at the samples' depth."""
    for part, trees in (("train", blocks(3, 0)), ("test", blocks(6, 2))):
        folder = tmp_path / "pc15k" / "03001627" / part
        folder.mkdir(parents=True)
        for i, tree in enumerate(trees):
            np.save(folder / f"{i}.npy", tree.centers().astype(np.float32))
    args = ("--samples", folders / "run", "--reference", tmp_path / "pc15k", "--json", "-q")
    done = evaluate(*args, "--category", "chair")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["counts"] == {"samples": 5, "reference": 6, "train": 3, "invalid": 1}
    assert found["depth"] == blocks(1, 0)[0].depth
    assert found["reference"] == f"{tmp_path / 'pc15k'}: test"
    refused = evaluate(*args, "--split", "val")
    assert refused.code == 2
    assert "PC15k: 1 category, 9 shapes (3 train, 6 test): there is no 'val'" in refused.err


def test_bad_input_is_told_and_nothing_is_written(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "one", blocks(1, 0))
    data, run, out = folders / "data", folders / "run", tmp_path / "out.json"
    cases = [
        ((tmp_path / "empty", data), 2, "no token files"),
        ((tmp_path / "missing", data), 2, "no such folder"),
        ((data, data), 2, "name a list"),
        ((tmp_path / "one", data), 2, "samples: 1 shapes, at least 2 are needed"),
        ((run, tmp_path / "one"), 2, "reference: 1 shapes"),
        ((run, run), 1, "000005.npy"),
        ((run, data, "--split", "tset"), 2, "did you mean 'test'"),
        ((run, data, "--category", "table"), 2, "there are: chair"),
        ((run, data, "--emd", "--emd-points", 33), 2, "33 of the 32 points"),
    ]
    for (samples, reference, *more), code, message in cases:
        done = evaluate("--samples", samples, "--reference", reference, "--out", out, *more)
        assert (done.code, done.out) == (code, ""), message
        assert message in done.err
        assert done.err.count("error:") == 1
    assert not out.exists()


def test_a_record_is_not_replaced_unasked(folders, tmp_path):
    out = tmp_path / "q.json"
    out.write_text("mine")
    args = ("--samples", folders / "run", "--reference", folders / "data", "--out", out, "-q")
    done = evaluate(*args, "--no-distances")
    assert done.code == 2
    assert out.read_text() == "mine"
    assert evaluate(*args, "--no-distances", "--overwrite").code == 0
    assert "chamfer" not in json.loads(out.read_text())


def test_as_a_program(folders, run_cli):
    done = run_cli(
        *("evaluate", "shapes", "--samples", folders / "run", "--reference", folders / "data"),
        *("--points", 32, "--workers", 2, "--json", "-q"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["counts"]["samples"] == 5
