"""``ddimx evaluate fid`` with a feature network of three numbers in place of Inception."""

import json

import numpy as np
import pytest
from PIL import Image

from ddimx.evaluation.fid import features
from ddimx.evaluation.fid.frechet import read_statistics
from tests.data.images.official import celeba
from tests.evaluation.fid.tiny_features import MeanColors
from tests.sampling import invoke, sampled


@pytest.fixture(autouse=True)
def tiny_features(monkeypatch):
    monkeypatch.setattr(features, "inception", lambda *args, **kwargs: MeanColors())


@pytest.fixture(scope="module")
def drawn(tiny_model, tmp_path_factory):
    """A run folder of 6 samples and a folder of 5 images beside it."""
    folder = tmp_path_factory.mktemp("fid")
    sampled(tiny_model, "-n", 6, "--out", folder / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    (folder / "real").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "real" / f"{i}.png")
    return folder


def evaluate(*args):
    return invoke("evaluate", "fid", "--device", "cpu", *args)


def test_the_samples_of_a_run_against_a_folder(drawn, tmp_path):
    done = evaluate(
        "--samples", drawn / "run", "--reference", drawn / "real", "--out", tmp_path / "fid.json"
    )
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "fid.json").read_text())
    assert (record["samples"]["count"], record["reference"]["count"]) == (6, 5)
    assert record["samples"]["preprocessing"] == "8-bit RGB, 8x8 as stored"
    assert done.out.splitlines()[0] == f"FID {record['fid']:.4f}"
    assert "library none 1" in done.out
    assert f"KID {record['kid']['mean']:.6f} +- " in done.out.splitlines()[1]
    shares = f"precision {record['precision']:.4f}, recall {record['recall']:.4f}"
    assert done.out.splitlines()[2] == shares
    assert "biased upwards" in done.err


def test_statistics_prepared_once_give_the_same_figure(drawn, tmp_path):
    stats = tmp_path / "stats.npz"
    done = evaluate("--reference", drawn / "real", "--save-stats", stats)
    assert (done.code, done.out) == (0, "")
    assert read_statistics(stats).count == 5
    figures = []
    for reference in (stats, drawn / "real"):
        args = ("--samples", drawn / "run", "--reference", reference, "--json", "-q")
        done = evaluate(*args)
        assert (done.code, done.err) == (0, "")
        figures.append(json.loads(done.out)["fid"])
    assert figures[0] == figures[1] > 0


def test_a_data_set_by_name_is_made_as_large_as_the_samples(drawn, tmp_path):
    celeba(tmp_path / "celeba", count=6)
    out, stats = tmp_path / "fid.json", tmp_path / "stats.npz"
    args = ("--reference", "celeba", "--set", f"data.root={tmp_path / 'celeba'}")
    done = evaluate("--samples", drawn / "run", *args, "--out", out, "--save-stats", stats)
    assert done.code == 0, done.err
    record = json.loads(out.read_text())
    assert record["reference"]["preprocessing"].startswith("8-bit RGB, 8x8: 128x128 round column")
    assert record["reference"]["count"] == 2  # the training images
    done = evaluate("--samples", drawn / "run", *args, "--size", "16x24")
    assert (done.code, done.out) == (2, "")
    assert "CelebA" in done.err
    done = evaluate("--samples", drawn / "run", "--reference", stats, "--size", 16)
    assert (done.code, done.out) == (2, "")
    assert f"{stats}: statistics of images of 8, --size is 16" in done.err


def test_features_of_another_network_are_never_called_fid(drawn, monkeypatch):
    class Named(MeanColors):
        def __init__(self, device):
            super().__init__()
            self.about["figure"] = "Fréchet distance on mean colors (no FID)"

    args = ("--samples", drawn / "run", "--reference", drawn / "real", "--json", "-q")
    fid = json.loads(evaluate(*args).out)
    monkeypatch.setattr(features, "EfficientNetLite", Named)
    done = evaluate(*args, "--features", "efficientnet-lite0")
    record = json.loads(done.out)
    assert record["figure"] == "Fréchet distance on mean colors (no FID)"
    assert record["frechet_distance"] == fid["fid"]
    assert record["kernel_distance"] == fid["kid"]
    assert not {"fid", "kid"} & set(record)
    done = evaluate(*args[:-2], "--features", "efficientnet-lite0")
    distance, kernel = done.out.splitlines()[:2]
    assert distance == f"Fréchet distance on mean colors (no FID) {fid['fid']:.4f}"
    assert kernel.startswith("kernel distance on the same features (no KID) ")
    assert "the distance of 6 samples is biased upwards" in done.err


def test_a_part_of_a_prepared_set(drawn, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, held_out=np.arange(9) < 3)
    np.savez(tmp_path / "plain.npz", images=pixels)
    args = ("--samples", drawn / "run", "--json", "-q", "--reference")
    counts = {}
    for part in ("train", "held-out", "all", None):
        words = () if part is None else ("--split", part)
        done = evaluate(*args, tmp_path / "set.npz", *words)
        counts[part] = json.loads(done.out)["reference"]["count"]
    assert counts == {"train": 6, "held-out": 3, "all": 9, None: 9}
    done = evaluate(*args, tmp_path / "set.npz", "--split", "held-out")
    np.savez(tmp_path / "first.npz", images=pixels[:3])
    same = evaluate(*args, tmp_path / "first.npz")
    assert json.loads(done.out)["fid"] == json.loads(same.out)["fid"]
    for reference, message in (
        (tmp_path / "plain.npz", "needs an .npz with an array 'held_out'"),
        (drawn / "real", "--split is for prepared sets"),
    ):
        done = evaluate(*args, reference, "--split", "train")
        assert (done.code, done.out) == (2, "")
        assert message in done.err


def test_statistics_of_another_program_have_no_features(drawn, tmp_path):
    np.savez(tmp_path / "mu.npz", mu=np.zeros(3), sigma=np.eye(3))
    done = evaluate("--samples", drawn / "run", "--reference", tmp_path / "mu.npz")
    assert done.code == 0
    assert done.out.startswith("FID ")
    assert "KID" not in done.out
    assert "no KID, precision and recall: the reference's statistics hold no features" in done.err


def test_nothing_is_replaced_unasked(drawn, tmp_path):
    stats = tmp_path / "stats.npz"
    stats.write_bytes(b"mine")
    args = ("--reference", drawn / "real", "--save-stats", stats)
    done = evaluate(*args)
    assert (done.code, done.out) == (2, "")
    assert "exists" in done.err
    assert stats.read_bytes() == b"mine"
    assert evaluate(*args, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "--reference is needed"),
        (("--reference", "x"), 2, "--samples is needed"),
        (
            ("--reference", "x", "--samples", "y", "--batch-size", 0),
            2,
            "batch-size must be at least 1",
        ),
        (("--reference", "absent", "--samples", "y"), 1, "no such file: absent"),
        (("--reference", "cifar10", "--samples", "y"), 1, "no such file: y"),
        (("--reference", "x", "--samples", "y", "--size", "a"), 2, "--size a: write pixels"),
    ],
)
def test_wrong_options(tmp_path, args, code, message):
    done = evaluate(*args, "--out", tmp_path / "fid.json")
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert not (tmp_path / "fid.json").exists()
