"""Clouds: what is refused, and rotations that carry Gaussians with them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError, UsageError
from ddimx.splats.cloud import GaussianCloud, axes, merge, multiply, quaternion_of
from ddimx.splats.frames import UPS, rotation_to
from tests.splats.scene import clouds, covariances, random_cloud, three

quaternions = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(v * v for v in q) > 0.01)


@given(quaternions, quaternions)
def test_quaternions_are_rotation_matrices(a, b):
    a, b = (np.array(q) / np.linalg.norm(q) for q in (a, b))
    np.testing.assert_allclose(axes(multiply(a, b)), axes(a) @ axes(b), atol=1e-12)
    back = quaternion_of(axes(a))
    np.testing.assert_allclose(back if back @ a > 0 else -back, a, atol=1e-12)


def test_a_quarter_turn_about_z_takes_x_to_y():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(axes([half, 0, 0, half]) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


@given(clouds, quaternions)
def test_a_rotated_gaussian_has_the_rotated_covariance(cloud, q):
    rotation = axes(np.array(q) / np.linalg.norm(q))
    turned = cloud.rotated(rotation)
    scale = np.abs(cloud.positions).max()
    np.testing.assert_allclose(turned.positions, cloud.positions @ rotation.T, atol=1e-6 * scale)
    expected = rotation @ covariances(cloud) @ rotation.T
    np.testing.assert_allclose(covariances(turned), expected, atol=4e-6 * cloud.sigmas.max() ** 2)
    assert (turned.colors == cloud.colors).all()


@pytest.mark.parametrize(("up", "axis"), [("y", (0, 1, 0)), ("-y", (0, -1, 0)), ("z", (0, 0, 1))])
def test_up_is_up_and_nothing_is_mirrored(up, axis):
    rotation = rotation_to(up)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert (rotation @ [0, 1, 0] == axis).all()
    assert (three().rotated(rotation).positions == three().positions @ rotation.T).all()
    with pytest.raises(UsageError, match="unknown axis for --up 'x'"):
        rotation_to("x")
    assert set(UPS) == {"y", "-y", "z"}


def test_the_front_stays_in_front():
    assert (rotation_to("z") @ [0, 0, 1] == [0, -1, 0]).all()  # as modelling programs have it
    assert (rotation_to("-y") @ [0, 0, 1] == [0, 0, -1]).all()  # towards a camera that looks at +z


@pytest.mark.parametrize("matrix", [np.diag([1, -1, 1]), np.eye(3) * 2, np.eye(2)])
def test_mirrors_and_stretches_are_refused(matrix):
    with pytest.raises(UsageError, match="no rotation"):
        three().rotated(matrix)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("positions", [np.nan, 0, 0], r"positions\[1\] = \[nan, 0.0, 0.0\]: must be finite"),
        ("sigmas", [0, 1, 1], r"sigmas\[1\].*positive"),
        ("sigmas", [np.inf, 1, 1], r"sigmas\[1\].*positive"),
        ("quaternions", [1, 1, 0, 0], r"quaternions\[1\].*unit length"),
        ("quaternions", [np.nan, 0, 0, 0], r"quaternions\[1\].*unit length"),
        ("colors", [0, 0, 1.01], r"colors\[1\].*within 0..1"),
        ("alphas", 0, r"alphas\[1\].*above 0"),
        ("alphas", np.nan, r"alphas\[1\].*above 0"),
    ],
)
def test_values_out_of_range_are_named(field, value, message):
    values = getattr(three(), field).copy()
    values[1] = value
    with pytest.raises(DdimxError, match=message):
        replace(three(), **{field: values})


def test_no_gaussians_are_no_cloud():
    empty = [np.zeros((0, width)) for width in (3, 3, 4, 3)]
    with pytest.raises(DdimxError, match="at least one Gaussian"):
        GaussianCloud(*empty, np.zeros(0))
    with pytest.raises(DdimxError, match=r"sigmas have shape \(2, 3\), expected \(3, 3\)"):
        replace(three(), sigmas=np.ones((2, 3)))
    with pytest.raises(DdimxError, match="nothing to merge"):
        merge([])


def test_merging_keeps_the_order():
    a, b = random_cloud(3, 0), random_cloud(2, 1)
    both = merge([a, b])
    assert len(both) == 5
    assert (both.quaternions == np.concatenate([a.quaternions, b.quaternions])).all()
    assert (both.alphas[3:] == b.alphas).all()
