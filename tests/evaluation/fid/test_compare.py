"""Which images are counted, how they are read, and what stands beside the figure."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ddimx
from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.fid import compare as fid
from ddimx.evaluation.fid import parts
from ddimx.evaluation.fid.frechet import Statistics, write_statistics
from ddimx.evaluation.fid.kid import kid
from ddimx.evaluation.fid.precision_recall import precision_recall
from ddimx.progress import Progress
from tests.evaluation.fid.tiny_features import MeanColors

QUIET = Progress(quiet=True)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)


def by_hand(pixels):
    colors = pixels.mean(axis=(1, 2)) / 255
    return colors.mean(0), np.cov(colors, rowvar=False)


def save(folder, pixels, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / (names[i] if names else f"{i:06d}.png"))


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_statistics_are_those_of_all_images(tmp_path, batch_size):
    save(tmp_path / "a", PIXELS)
    features = MeanColors()
    found = fid.statistics_of(str(tmp_path / "a"), features, batch_size, QUIET)
    mean, covariance = by_hand(PIXELS)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-12, atol=1e-15)
    assert (found.count, sum(features.batches)) == (7, 7)
    assert max(features.batches) <= batch_size
    assert found.about == {
        "images": str(tmp_path / "a"),
        "preprocessing": "8-bit RGB, 4x4 as stored",
        "size": [4, 4],
        "files": {"PNG": 7},
        "decoding": "upright by EXIF, transparency on white",
        **features.about,
        "parts": 1,
        "ddimx": ddimx.__version__,
    }


def test_smaller_batches_where_the_memory_does_not_suffice(tmp_path):
    class Full(MeanColors):
        def __call__(self, pixels):
            if len(pixels) > 2:
                raise torch.cuda.OutOfMemoryError
            return super().__call__(pixels)

    save(tmp_path / "a", PIXELS)
    features = Full()
    found = fid.statistics_of(str(tmp_path / "a"), features, 7, QUIET)
    assert features.batches == [2, 2, 2, 1]
    np.testing.assert_allclose(found.mean, by_hand(PIXELS)[0], rtol=1e-13)


def test_of_a_run_only_its_samples_count(tmp_path):
    save(tmp_path, PIXELS)
    Image.new("RGB", (40, 40)).save(tmp_path / "grid.png")
    with pytest.raises(DdimxError, match=r"grid\.png: is"):
        fid.statistics_of(str(tmp_path), MeanColors(), 50, QUIET)
    (tmp_path / "manifest.json").write_text("{}")
    assert len(fid.open_images(str(tmp_path))) == 7


def test_folders_below_are_read_and_gray_becomes_color(tmp_path):
    save(tmp_path / "x" / "y", PIXELS[:2])
    Image.fromarray(PIXELS[0, :, :, 0]).save(tmp_path / "gray.png")
    found = fid.open_images(str(tmp_path)).read(range(3))
    assert found.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(found[0], PIXELS[0, :, :, :1].repeat(3, axis=2))


@pytest.mark.parametrize("name", ["arr_0", "images"])
def test_arrays_of_images(tmp_path, name):
    np.savez(tmp_path / "a.npz", **{name: PIXELS})
    found = fid.statistics_of(str(tmp_path / "a.npz"), MeanColors(), 2, QUIET)
    np.testing.assert_allclose(found.mean, by_hand(PIXELS)[0], rtol=1e-13)


def test_saved_statistics_are_taken_unless_another_network_made_them(tmp_path):
    made = Statistics(np.zeros(3), np.eye(3), 5, {"network": "mean colors"})
    write_statistics(tmp_path / "s.npz", made)
    features = MeanColors()
    assert fid.statistics_of(str(tmp_path / "s.npz"), features, 2, QUIET).count == 5
    assert not features.batches
    write_statistics(
        tmp_path / "o.npz", Statistics(made.mean, made.covariance, 5, {"network": "o"})
    )
    with pytest.raises(DdimxError, match="of the network 'o', not of 'mean colors'"):
        fid.statistics_of(str(tmp_path / "o.npz"), features, 2, QUIET)


def test_the_record_tells_what_the_figure_depends_on(tmp_path):
    """Two sets whose means differ by 0.2 in red, with one covariance: 0.04."""
    moved = PIXELS // 2
    shifted = moved.copy()
    shifted[..., 0] += 51
    save(tmp_path / "a", moved)
    save(tmp_path / "b", shifted)
    a, b = (fid.statistics_of(str(tmp_path / n), MeanColors(), 4, QUIET) for n in "ab")
    record = fid.compare(a, b)
    assert record["fid"] == pytest.approx(0.04, abs=1e-9)
    assert record["samples"]["count"] == record["reference"]["count"] == 7
    assert record["samples"]["library"] == "none 1"
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert any("7 samples is biased upwards" in line for line in fid.remarks(a, b))
    many = Statistics(a.mean, a.covariance, 50_000, a.about)
    assert fid.remarks(many, many) == []
    foreign = Statistics(a.mean, a.covariance, 0, {})
    assert fid.remarks(many, foreign) == [
        "note: the reference's statistics do not say which network made them"
    ]


def test_what_is_no_set_of_images_is_refused(tmp_path):
    with pytest.raises(DdimxError, match="no such file"):
        fid.open_images(str(tmp_path / "absent"))
    with pytest.raises(DdimxError, match="no images"):
        fid.open_images(str(tmp_path))
    np.savez(tmp_path / "f.npz", arr_0=np.zeros((2, 4, 4, 3)))
    with pytest.raises(DdimxError, match="needs an array 'arr_0'"):
        fid.open_images(str(tmp_path / "f.npz"))
    np.savez(tmp_path / "two.npz", arr_0=np.zeros((2, 4, 4, 2), np.uint8))
    with pytest.raises(DdimxError, match="needs 3 colors"):
        fid.open_images(str(tmp_path / "two.npz"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DdimxError, match=r"none of 1 images can be read: broken.png"):
        fid.open_images(str(tmp_path))
    save(tmp_path / "d", [PIXELS[0], PIXELS[1][:3, :3]])
    with pytest.raises(DdimxError, match="images of"):
        fid.statistics_of(str(tmp_path / "d"), MeanColors(), 1, QUIET)


def statistics(count, features=4, **about):
    return Statistics(np.zeros(features), np.eye(features), count, about)


def test_what_a_reader_of_the_figure_is_told():
    """Biased below 10,000 samples; of low rank if either side has no more images than features."""
    known = statistics(50_000, network="inception")

    def about(count, reference=known, features=4):
        return [note.split()[1] for note in fid.remarks(statistics(count, features), reference)]

    assert about(10_000) == []
    assert about(9_999) == ["FID"]
    assert about(5) == ["FID"]
    assert about(4) == ["FID", "fewer"]
    assert about(10_000, statistics(4, network="inception")) == ["fewer"]
    assert about(10_000, statistics(0, network="inception")) == []  # a count that nobody wrote down
    assert about(10_000, statistics(50_000)) == ["the"]
    wide = Statistics(np.zeros(20_000), np.zeros((0, 0)), 10_000)
    (note,) = fid.remarks(wide, known)
    assert note == "note: fewer images than the 20000 features: of low rank"


def set_of(size=(64, 64), **about):
    """``size`` 0 stands for a record of version 0.2, which has it in its text only."""
    sides = {"size": list(size)} if size else {}
    text = {"preprocessing": "8-bit RGB, 64x64 as stored"}
    return statistics(50_000, network="n", **text | sides | about)


@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        ({"size": (48, 64)}, {}, "samples of 64x48, a reference of 64: the network scales both"),
        ({}, {"size": (218, 178)}, "samples of 64, a reference of 178x218: .* --size 64 cuts"),
        ({}, {"size": 0, "preprocessing": "8-bit RGB, 32x32 as stored"}, "a reference of 32"),
        ({"gray": True}, {}, "all images of the samples are gray, and the reference are in color"),
        ({}, {"gray": True}, "all images of the reference are gray"),
        ({}, {"files": {"JPEG": 5, "PNG": 1}}, "images of the reference are JPEGs and those of"),
        ({"files": {"JPEG": 5}}, {"files": {"PNG": 5}}, "images of the samples are JPEGs"),
        ({"files": {"JPEG": 5}}, {"files": {"MPO": 5}}, None),
        ({}, {"files": {"JPEG": 5}, "preprocessing": "8-bit RGB, 64x64: center crop"}, None),
        ({}, {"files": [1], "size": "x", "preprocessing": "y"}, None),
        ({}, {}, None),
    ],
)
def test_what_is_said_of_sets_that_differ(samples, reference, message):
    notes = fid.remarks(set_of(**samples), set_of(**reference))
    assert len(notes) == (message is not None)
    if message is not None:
        assert re.search(message, notes[0])


RANDOM_SETS = [
    np.random.default_rng(seed).integers(0, top, (count, 4, 4, 3), dtype=np.uint8)
    for seed, top, count in ((1, 256, 9), (2, 200, 8))
]


def color_features(pixels):
    return (pixels.mean(axis=(1, 2)) / 255).astype(np.float32)


@pytest.fixture
def two_sets(tmp_path):
    for name, pixels in zip("ab", RANDOM_SETS, strict=True):
        save(tmp_path / name, pixels)
    return [str(tmp_path / name) for name in "ab"]


def test_all_figures_are_of_the_same_features(two_sets):
    a, b = (fid.statistics_of(where, MeanColors(), 4, QUIET) for where in two_sets)
    record = fid.compare(a, b)
    x, y = map(color_features, RANDOM_SETS)
    expected = kid(x, y)
    assert record["kid"]["mean"] == pytest.approx(expected.mean, rel=1e-6)
    assert (record["kid"]["subsets"], record["kid"]["size"]) == (100, 8)
    assert (record["precision"], record["recall"]) == precision_recall(x, y)
    assert (record["neighbors"], record["features_compared"]) == (3, [9, 8])


def test_few_images_have_no_precision(tmp_path):
    save(tmp_path, PIXELS[:3])
    few = fid.statistics_of(str(tmp_path), MeanColors(), 4, QUIET)
    record = fid.compare(few, few)
    assert "kid" in record
    assert "precision" not in record


def test_of_a_large_set_features_of_a_part_are_kept(two_sets, monkeypatch):
    monkeypatch.setattr(parts, "KEPT", 3)
    kept = fid.statistics_of(two_sets[0], MeanColors(), 2, QUIET)
    assert kept.count == 9
    np.testing.assert_allclose(kept.features, color_features(RANDOM_SETS[0])[[0, 4, 8]], rtol=1e-6)


def test_saved_features_give_the_same_figures(two_sets, tmp_path):
    a, b = (fid.statistics_of(where, MeanColors(), 4, QUIET) for where in two_sets)
    write_statistics(tmp_path / "b.npz", b)
    network = MeanColors()
    saved = fid.statistics_of(str(tmp_path / "b.npz"), network, 4, QUIET)
    assert not network.batches
    assert fid.compare(a, saved) == fid.compare(a, b)
    write_statistics(tmp_path / "c.npz", replace(b, features=None))
    assert "kid" not in fid.compare(
        a, fid.statistics_of(str(tmp_path / "c.npz"), network, 4, QUIET)
    )


def test_references_of_guided_diffusion(two_sets, tmp_path):
    """Mean and covariance are of the whole set, the images in the same file a part of it."""
    mean, covariance = np.array([0.1, 0.2, 0.3]), np.diag([1.0, 2.0, 3.0])
    layers = {"mu_s": np.zeros(5), "sigma_s": np.eye(5)}
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, arr_0=RANDOM_SETS[1], mu=mean, sigma=covariance, **layers)
    read = fid.statistics_of(str(path), MeanColors(), 3, QUIET)
    np.testing.assert_array_equal(read.mean, mean)
    np.testing.assert_array_equal(read.covariance, covariance)
    np.testing.assert_allclose(read.features, color_features(RANDOM_SETS[1]), rtol=1e-6)
    a = fid.statistics_of(two_sets[0], MeanColors(), 3, QUIET)
    own = fid.statistics_of(two_sets[1], MeanColors(), 3, QUIET)
    assert fid.compare(a, read)["kid"] == fid.compare(a, own)["kid"]


def test_statistics_made_in_another_way_are_refused(two_sets, tmp_path):
    samples = fid.open_set(two_sets[0])
    path = tmp_path / "s.npz"

    def opened(about, **options):
        write_statistics(path, statistics(9, 3, network="mean colors", **about))
        return fid.open_set(str(path), samples=samples, **options)

    cut = {"size": [8, 8], "preprocessing": "8-bit RGB, 8x8: center crop, Lanczos"}
    with pytest.raises(UsageError, match=r"made in another size .* --size 4, or .* by --size 8$"):
        opened(cut)
    with pytest.raises(UsageError, match="statistics of images of 8, --size is 4"):
        opened(cut, size=(4, 4))
    with pytest.raises(UsageError, match="of images of an unknown size, --size is 4"):
        opened({}, size=(4, 4))
    with pytest.raises(UsageError, match="--set does not change saved statistics"):
        opened({}, settings=["data.root=x"])
    with pytest.raises(UsageError, match="were decoded otherwise"):
        opened({"decoding": "transparency on black"})
    stored = cut | {"preprocessing": "8-bit RGB, 8x8 as stored"}
    assert opened(cut, size=(8, 8)).statistics.count == opened(stored).statistics.count == 9
    network = MeanColors()
    network.about["weights_sha256"] = "a"
    write_statistics(path, statistics(9, 3, network="mean colors", weights_sha256="b"))
    with pytest.raises(DdimxError, match="of the network of weights 'b', not of 'a'"):
        fid.statistics_of(str(path), network, 4, QUIET)


def test_images_that_turn_out_to_be_damaged_are_counted(tmp_path, capsys):
    save(tmp_path, PIXELS)
    whole = (tmp_path / "000003.png").read_bytes()
    place = whole.index(b"IDAT") + 6
    damaged = whole[:place] + bytes(4) + whole[place + 4 :]
    (tmp_path / "000003.png").write_bytes(damaged)
    (tmp_path / "no.png").write_bytes(b"no picture")  # seen at once, and not in the middle
    left = fid.statistics_of(str(tmp_path), MeanColors(), 1, Progress())
    assert (left.count, left.about["unreadable"], len(left.features)) == (6, 2, 6)
    assert "1 left out" in capsys.readouterr().err
    np.testing.assert_allclose(left.mean, by_hand(np.delete(PIXELS, 3, axis=0))[0], rtol=1e-13)
    with pytest.raises(DdimxError, match=r"000003\.png: cannot be decoded"):
        fid.measured(fid.open_set(str(tmp_path)), MeanColors(), 4, QUIET, strict=True)
