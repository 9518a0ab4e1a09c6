"""Spherical interpolation: its length, its ends, its turning, and the cases without a plane."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ddimx.editing.slerp import row, slerp, square

NUMBERS = st.floats(-4, 4, allow_nan=False).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
VECTORS = arrays.arrays(np.float64, 6, elements=NUMBERS).filter(lambda v: np.abs(v).max() > 0)
WEIGHTS = st.floats(0, 1)
CLOSE = 1e-12  # float64: a dozen operations of 1e-16 on numbers up to 10


def pair(a, b):
    return torch.from_numpy(a).view(1, 2, 3), torch.from_numpy(b).view(1, 2, 3)


@given(VECTORS, VECTORS, WEIGHTS)
def test_the_length_goes_evenly_from_one_end_to_the_other(a, b, weight):
    x, y = pair(a, b)
    point = slerp(x, y, weight)
    assert point.shape == x.shape
    expected = (1 - weight) * np.linalg.norm(a) + weight * np.linalg.norm(b)
    assert float(point.norm()) == pytest.approx(expected, abs=CLOSE * 10)


@given(VECTORS, VECTORS)
def test_the_ends_are_the_ends(a, b):
    x, y = pair(a, b)
    assert torch.equal(slerp(x, y, 0), x)
    assert torch.equal(slerp(x, y, 1), y)
    for weight, end in ((1e-9, x), (1 - 1e-9, y)):  # and the way leads to them
        assert (slerp(x, y, weight) - end).norm() < 1e-6


@given(VECTORS, VECTORS, WEIGHTS)
def test_the_way_back_is_the_same(a, b, weight):
    x, y = pair(a, b)
    if abs(float(x.flatten() @ y.flatten())) > (1 - 1e-9) * float(x.norm() * y.norm()):
        return  # opposite ends: which way to take is chosen from the first
    there, back = slerp(x, y, weight), slerp(y, x, 1 - weight)
    assert (there - back).norm() < 1e-6  # the plane of nearly aligned vectors is known that well


@given(VECTORS, WEIGHTS)
def test_equal_and_parallel_ends(a, weight):
    x = torch.from_numpy(a)
    assert (slerp(x, x.clone(), weight) - x).norm() < CLOSE * 10
    assert (slerp(x, 2 * x, weight) - (1 + weight) * x).norm() < CLOSE * 20


@given(VECTORS, st.integers(3, 20))
def test_opposite_ends_turn_evenly_through_half_a_circle(a, frames):
    x = torch.from_numpy(a)
    way = row(x, -x, frames)
    assert torch.isfinite(way).all()
    turned = torch.nn.functional.cosine_similarity(way[:-1], way[1:], dim=1)
    assert torch.allclose(
        turned, torch.full_like(turned, math.cos(math.pi / (frames - 1))), atol=1e-9
    )


@given(arrays.arrays(np.float64, 6, elements=st.floats(-1e-9, 1e-9)), VECTORS, WEIGHTS)
def test_nearly_equal_and_nearly_opposite_ends_are_no_nan(shift, a, weight):
    x = torch.from_numpy(a)
    for sign in (1, -1):
        assert torch.isfinite(slerp(x, sign * x + torch.from_numpy(shift), weight)).all()
    zero = torch.zeros_like(x)
    assert torch.isfinite(slerp(x, zero, weight)).all()
    assert torch.equal(slerp(zero, zero, weight), zero)


def test_a_right_angle_has_the_textbooks_answer():
    x, y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    third = slerp(x, y, 1 / 3)
    assert third.dtype == torch.float32
    assert torch.allclose(third, torch.tensor([math.sqrt(3), 1.0]), atol=1e-6)


@given(VECTORS, VECTORS, WEIGHTS)
def test_for_ends_of_one_length_it_is_the_originals_formula(a, b, weight):
    """ermongroup/ddim: sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    theta = np.arccos(np.clip(a @ b, -1, 1))
    if not 0.01 < theta < math.pi - 0.01:
        return
    expected = (np.sin((1 - weight) * theta) * a + np.sin(weight * theta) * b) / np.sin(theta)
    assert abs(slerp(*map(torch.from_numpy, (a, b)), weight).numpy() - expected).max() < 1e-9


def test_a_square_has_its_corners_and_edges():
    corners = [torch.from_numpy(np.random.default_rng(i).normal(size=(3, 2, 2))) for i in range(4)]
    states = square(corners, 4).view(4, 4, 3, 2, 2)
    for (i, j), corner in zip([(0, 0), (0, 3), (3, 0), (3, 3)], corners, strict=True):
        assert torch.equal(states[i, j], corner)
    assert torch.equal(states[0], row(corners[0], corners[1], 4))
    assert torch.equal(states[:, 3], row(corners[1], corners[3], 4))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="cannot interpolate between shapes"):
        slerp(torch.zeros(2), torch.zeros(3), 0.5)
