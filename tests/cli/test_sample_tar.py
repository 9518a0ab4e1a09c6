"""``ddimx sample --format tar``: taken up again, grown, replaced, trained on, measured."""

import json
import tarfile

import numpy as np
import pytest

from ddimx.evaluation.fid import compare as fid
from ddimx.evaluation.fid.images import open_images
from ddimx.progress import Progress
from ddimx.runs import tar_sink
from ddimx.runs.tar_sink import TarSink
from ddimx.weights.formats.native import read_header
from tests.cli.test_sample_resume import interrupted
from tests.conftest import CLASSES
from tests.evaluation.fid.tiny_features import MeanColors
from tests.sampling import (
    counted_calls,
    invoke,
    manifest_of,
    names_in,
    pictures,
    sample,
    sampled,
    state_of,
)

RECORD = ["grid.png", "manifest.json"]
QUIET = Progress(quiet=True)


@pytest.fixture(autouse=True)
def _small_tars_in_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)
    monkeypatch.setattr(tar_sink, "UNIT", 5)


def tars(folder):
    """Every tar of a run, by name, and its contact sheet."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD[1]}


def test_ended_in_the_middle_and_taken_up(tiny_model, tmp_path):
    options = ("-n", 12, "--start-index", 3, "--batch-size", 4, "--invariant", "--format", "tar")
    sampled(tiny_model, *options, "--out", "whole")
    names = [f"samples-00000{j}.tar" for j in range(3)]
    assert names_in(tmp_path / "whole") == [*RECORD, *names]
    assert manifest_of(tmp_path / "whole")["files"] == names
    assert interrupted(tiny_model, *options, "--out", "a", after=2, sink=TarSink).code == 130
    folder = tmp_path / "a"
    assert names_in(folder) == ["manifest.json", "parts", names[0]]
    assert names_in(folder / "parts") == ["00000008-3.piece"]
    with counted_calls() as calls:
        done = sampled(tiny_model, *options, "--out", "a")
    assert done.err.startswith("a: 8 of 12 samples are there already\n")
    assert len(calls) == 3
    assert tars(folder) == tars(tmp_path / "whole")
    before = state_of(folder)
    with counted_calls() as calls:
        sampled(tiny_model, *options, "--out", "a")
    assert calls == []
    assert all(state_of(folder)[name] == before[name] for name in names)
    (folder / names[1]).unlink()  # what is lost is made again, and only it
    sampled(tiny_model, *options, "--out", "a")
    assert tars(folder) == tars(tmp_path / "whole")
    assert state_of(folder)[names[0]] == before[names[0]]


def test_a_finished_run_grows(tiny_model, tmp_path):
    options = ("--batch-size", 4, "--invariant", "--format", "tar", "--out")
    sampled(tiny_model, "-n", 12, *options, "whole")
    sampled(tiny_model, "-n", 7, *options, "a")
    interrupted(tiny_model, "-n", 12, *options, "a", after=1, sink=TarSink)
    sampled(tiny_model, "-n", 12, *options, "a")
    assert tars(tmp_path / "a") == tars(tmp_path / "whole")


def test_overwrite_removes_tars_and_pieces_and_nothing_else(tiny_model, tmp_path):
    options = ("-n", 9, "--batch-size", 4, "--format", "tar", "--out", "a")
    assert interrupted(tiny_model, *options, after=2, sink=TarSink).code == 130
    for name in ("mine.tar", "samples-000099.tar", "parts/mine.piece"):
        (tmp_path / "a" / name).write_text("mine")
    sampled(tiny_model, "-n", 1, "--out", "a", "--overwrite")
    kept = ["mine.tar", "parts", "samples-000099.tar"]
    assert names_in(tmp_path / "a") == ["000000.png", RECORD[0], RECORD[1], *kept]
    assert names_in(tmp_path / "a" / "parts") == ["mine.piece"]


def test_a_damaged_tar_is_named(tiny_model, tmp_path):
    options = ("-n", 6, "--format", "tar", "--out", "a")
    sampled(tiny_model, *options)
    path = tmp_path / "a" / "samples-000001.tar"
    path.write_bytes(path.read_bytes()[:1024])
    done = sample(tiny_model, *options)
    assert (done.code, done.err.count("error:")) == (1, 1)
    assert "a/samples-000001.tar: not what this run wrote (it is cut); remove it, and" in done.err
    path.unlink()
    sampled(tiny_model, *options)


def test_octrees_have_no_tars(furniture_like):
    done = invoke("sample", "-m", furniture_like, "--format", "tar", "--device", "cpu", "-n", 1)
    assert done.code == 2
    assert "--format tar: " in done.err
    assert "draws octrees, which are written as npz" in done.err


@pytest.fixture
def furniture_like(tmp_path):
    from tests.models.octree.small import octree_config, write_model

    write_model(tmp_path / "shapes.safetensors", octree_config())
    return tmp_path / "shapes.safetensors"


def test_what_was_drawn_is_measured_and_trained_on(tiny_model, tmp_path):
    """A run and one of its tars, as the pictures of --format png."""
    for kind in ("png", "tar"):
        sampled(tiny_model, "-n", 12, "--format", kind, "--invariant", "--out", kind)
    expected = pictures(tmp_path / "png", range(12))
    images = open_images("tar")
    assert (images.read(range(12)) == expected).all()
    assert images.about["files"] == {"PNG": 12}
    png, tar = (fid.statistics_of(kind, MeanColors(), 5, QUIET) for kind in ("png", "tar"))
    assert np.array_equal(png.mean, tar.mean)
    assert np.array_equal(png.covariance, tar.covariance)
    (tmp_path / "tar" / "other.tar").write_bytes((tmp_path / "tar/samples-000000.tar").read_bytes())
    assert len(open_images("tar")) == 12  # of a run its own samples alone
    (tmp_path / "tar" / "other.tar").unlink()
    one = open_images("tar/samples-000001.tar")
    assert (one.read(range(5)) == expected[5:10]).all()

    drawn = manifest_of(tmp_path / "tar")["samples"]["class"]
    small = ("--steps", 1, "--batch-size", 2, "--device", "cpu", "--out", "run")
    done = invoke("train", "--data", "tar", *small)
    assert done.code == 0, done.err
    assert "tar: 12 images, none is held out" in done.err
    counts = ", ".join(f"{name} {drawn.count(name)}" for name in CLASSES)
    assert f"2 classes: {counts}" in done.err
    assert "skipped" not in done.err
    header = read_header(tmp_path / "run" / "checkpoints" / "checkpoint-00000001.safetensors")
    assert header.config.model.classes == CLASSES
    assert (header.config.data.dataset, header.config.data.root) == ("TAR", "tar")
    done = invoke("train", "--resume", "run", "--steps", 2, "-q")
    assert done.code == 0, done.err


def test_one_tar_is_edited_and_its_likelihood_measured(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 3, "--format", "tar", "--out", "a")
    where = "a/samples-000000.tar"
    done = invoke("encode", where, "-m", tiny_model, "--steps", 2, "--device", "cpu", "-o", "b")
    assert done.code == 0, done.err
    assert np.load(tmp_path / "b" / "latents.npy").shape[0] == 3
    few = ("--terms", 1, "--flow-steps", 0, "--json", "-q", "--device", "cpu", "--split", "all")
    done = invoke("evaluate", "nll", "-m", tiny_model, "--data", where, *few)
    assert done.code == 0, done.err
    assert json.loads(done.out)["count"] == 3


def test_a_reader_of_webdataset_finds_samples(tiny_model, tmp_path):
    """Members of one key stand together, its picture first: what webdataset groups them by."""
    sampled(tiny_model, "-n", 6, "--format", "tar", "--out", "a")
    keys = []
    for path in sorted((tmp_path / "a").glob("*.tar")):
        with tarfile.open(path) as archive:
            keys += [member.name.split(".", 1) for member in archive]
    assert keys == [[f"{i:06d}", kind] for i in range(6) for kind in ("png", "json")]
