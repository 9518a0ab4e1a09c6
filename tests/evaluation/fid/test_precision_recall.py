"""Precision and recall of points whose balls are drawn by hand, in blocks of every size."""

import numpy as np
import pytest
import torch

from ddimx.evaluation.fid import precision_recall as module
from ddimx.evaluation.fid.precision_recall import precision_recall


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


@pytest.fixture(params=[(1, 1), (2, 3), (3, 2), (64, 64)])
def blocks(request, monkeypatch):
    rows, columns = request.param
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "COLUMNS", columns)


def test_points_in_balls(blocks):
    """With one neighbor the reference covers [-1, 2] and [1, 9], the samples [-4.5, 3] and [8, 11].

    Of the samples 0.5 and 9 (on the surface of a ball) lie inside; of the reference 0 and 1.
    """
    samples, reference = column(-2, 0.5, 9, 10), column(0, 1, 5)
    precision, recall = precision_recall(samples, reference, neighbors=1)
    assert (precision, recall) == (2 / 4, 2 / 3)
    assert precision_recall(reference, samples, neighbors=1) == (recall, precision)


def test_balls_reach_to_the_third_neighbor(blocks):
    """The balls of 0, 1, 2, 3 have the radii 3, 2, 2, 3 and cover [-3, 6]."""
    precision, recall = precision_recall(column(-3.5, -3, 6, 6.5), column(0, 1, 2, 3))
    assert (precision, recall) == (0.5, 1.0)


def test_copies_are_covered_by_copies(blocks):
    """Five copies have balls of radius 0, in which a copy lies and nothing else does."""
    image = np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32) * 100
    copies = np.repeat(image, 5, axis=0)
    assert precision_recall(copies[:4], copies) == (1.0, 1.0)
    assert precision_recall(copies[:4] + np.float32(0.01), copies) == (0.0, 0.0)
    # Of vectors this long a^2 + b^2 - 2 a b leaves some 1e-10, in one order of the sum or another.
    many = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 999)) * 100)
    assert (module._squared_distances(many, many).diagonal() == 0).all()


def test_against_all_distances_at_once(blocks):
    random = np.random.default_rng(1)
    a, b = (random.normal(size=(n, 6)).astype(np.float32) for n in (31, 23))
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    x, y = torch.from_numpy(a).double(), torch.from_numpy(b).double()
    # The vector itself is the nearest of all, so the third of the others is the fourth.
    radii = [torch.cdist(s, s, **exact).kthvalue(4).values for s in (x, y)]
    between = torch.cdist(x, y, **exact)
    expected = (
        (between <= radii[1]).any(1).double().mean(),
        (between <= radii[0][:, None]).any(0).double().mean(),
    )
    assert 0.1 < expected[0] < 0.95
    assert precision_recall(a, b) == expected


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="more than 3 images"):
        precision_recall(column(0, 1, 2), column(0, 1, 2, 3))
    with pytest.raises(ValueError, match="different lengths"):
        precision_recall(np.zeros((9, 2), np.float32), np.zeros((9, 3), np.float32))
