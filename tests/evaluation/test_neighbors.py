"""Nearest training images: known distances, mirror images, the verb."""

import json

import numpy as np
import pytest
from PIL import Image

from ddimx.evaluation.neighbors import neighbors, side_by_side


class Source:
    """A data set of flat gray images with one bright column at ``columns``."""

    labels = families = None
    fingerprint = ""

    def __init__(self, columns):
        self._images = np.zeros((len(columns), 4, 4, 1), dtype=np.uint8)
        for image, column in zip(self._images, columns, strict=True):
            image[:, column] = 255

    def __len__(self):
        return len(self._images)

    def images(self, indices):
        return self._images[indices]


def column(*places):
    return Source(list(places)).images(np.arange(len(places)))


def test_distances_are_root_mean_squares_of_unit_pixels():
    found = neighbors(column(0, 2), Source([0]), Source([1]), mirrored=False)
    # Two of four columns differ by one: the mean square is 1/2.
    assert found.distances == pytest.approx([0.0, 0.5**0.5], abs=1e-6)
    assert found.held_out_median == pytest.approx(0.5**0.5)


def test_a_mirror_image_counts_as_seen_when_training_mirrors():
    seen = neighbors(column(3), Source([0]), Source([1]), mirrored=True)
    assert seen.distances == pytest.approx([0.0], abs=1e-6)
    assert (seen.nearest == column(3)).all()
    unseen = neighbors(column(3), Source([0]), Source([1]), mirrored=False)
    assert unseen.distances[0] > 0.5


def test_the_share_counts_samples_beyond_the_held_out_median():
    training, held_out = Source([0]), Source([0, 1, 1])
    found = neighbors(column(0, 0, 2, 2), training, held_out, mirrored=False)
    assert found.share_beyond == 0.0  # as far as the median is not farther
    blank = np.full((1, 4, 4, 1), 255, dtype=np.uint8)
    far = neighbors(np.concatenate([column(0), blank]), training, held_out, mirrored=False)
    assert far.share_beyond == 0.5


def test_pairs_stand_side_by_side():
    found = neighbors(column(1, 2), Source([1, 2]), Source([0]), mirrored=False)
    assert (side_by_side(column(1, 2), found) == column(1, 1, 2, 2)).all()


def test_the_verb_writes_picture_and_figures(run_cli, tiny_model, tmp_path):
    options = ["--model", tiny_model, "--steps", 2, "-n", 4, "-o", "pairs.png", "--json"]
    done = run_cli("evaluate", "neighbors", *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["count"] == 4
    assert 0 <= result["least"] <= result["median"]
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.size == (8 * (8 * 16 + 4) + 4, 8 * 16 + 8)
    assert "farther from the training set" in done.stderr


def test_data_without_a_held_out_split_is_refused(run_cli, tiny_model, tmp_path):
    np.savez(
        tmp_path / "plain.npz",
        images=np.zeros((4, 8, 8, 3), dtype=np.uint8),
        labels=np.zeros(4, dtype=np.int64),
        families=np.arange(4),
    )
    done = run_cli("evaluate", "neighbours", "--model", tiny_model, "--data", "plain.npz")
    assert done.returncode == 2
    assert "no held-out split" in done.stderr
    assert "deprecated" in done.stderr  # the spelling of 0.1
