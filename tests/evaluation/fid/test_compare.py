"""Which images are counted, how they are read, and what stands beside the figure."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddimx.errors import DdimxError
from ddimx.evaluation.fid import compare as fid
from ddimx.evaluation.fid.frechet import Statistics, write_statistics
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
        **features.about,
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
    np.savez(tmp_path / "four.npz", arr_0=np.zeros((2, 4, 4, 4), np.uint8))
    with pytest.raises(DdimxError, match="needs 3 colors"):
        fid.open_images(str(tmp_path / "four.npz")).read(range(2))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DdimxError, match=r"broken.png: cannot be decoded"):
        fid.open_images(str(tmp_path)).read(range(1))
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
    (note,) = fid.remarks(statistics(10_000, 20_000), known)
    assert note == "note: fewer images than the 20000 features: of low rank"
