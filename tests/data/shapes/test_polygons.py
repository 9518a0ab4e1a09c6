"""Polygons become triangles that cover them and nothing else."""

import numpy as np
import pytest

from ddimx.data.shapes import polygons
from ddimx.data.shapes.polygons import triangles_of

ANGLES = np.arange(60) / 60 * 2 * np.pi
RADII = 1 + 0.5 * np.cos(7 * ANGLES)
SPIRAL = np.linspace(0, 5 * np.pi, 40)


def ring(radii, angles=ANGLES):
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)


# Each with its area, by hand or by the sum over its sides (the "shoelace" formula).
SHAPES = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "arrow": [(0, 0), (2, 0), (2, 2), (1, 0.2)],
    "arrow that begins elsewhere": [(2, 0), (2, 2), (1, 0.2), (0, 0)],
    "L": [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)],
    "U": [(0, 0), (3, 0), (3, 2), (2, 2), (2, 1), (1, 1), (1, 2), (0, 2)],
    "comb": [(7, 0), *((x / 2, x // 2 % 2 + 1) for x in reversed(range(14))), (0, 0)],
    "star": ring(RADII),
    "spiral": [*ring(SPIRAL + 2, SPIRAL), *ring(SPIRAL + 1, SPIRAL)[::-1]],
    "corners on a line": [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2), (0, 1)],
    "a corner twice": [(0, 0), (2, 0), (2, 0), (2, 1), (1, 1), (1, 1), (1, 2), (0, 2), (0, 0)],
    "a spike": [(0, 0), (2, 0), (2, 1), (3, 1), (2, 1), (2, 2), (1, 0.5), (0, 2)],
    "a hole": [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)],
    "a hole whose corner touches": [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 3), (2, 2), (0, 0)],
    "many corners": ring(1 + 0.3 * np.cos(9 * np.arange(500)), np.arange(500) / 250 * np.pi),
    "many corners of a circle": ring(np.ones(301), np.arange(301) / 301 * 2 * np.pi),
}


def doubled(corners):
    """Twice the area of each triangle, counterclockwise positive."""
    a, b, c = (corners[:, i] for i in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def shoelace(points):
    following = np.roll(points, -1, axis=0)
    return (points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum()


def in_space(points, seed=0):
    """A polygon in some plane in space, and how to come back."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    return np.column_stack([points, np.zeros(len(points))]) @ turn.T * 1e3 + [5, -7, 1e4], turn


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_the_triangles_add_up_to_the_polygon(name, mirrored):
    """None is turned over, and their areas add up: so none covers what is outside, or another."""
    flat = np.array(SHAPES[name], float)
    flat = flat[::-1] if mirrored else flat
    points, turn = in_space(flat)
    faces = triangles_of(points, np.arange(len(points)), np.array([len(points)]))
    assert len(faces) == len(points) - 2
    areas = doubled((((points - [5, -7, 1e4]) / 1e3) @ turn)[faces][..., :2])
    areas = -areas if mirrored else areas
    assert areas.min() > -1e-9
    assert areas.sum() == pytest.approx(abs(shoelace(flat)), rel=1e-9)
    assert len(np.unique(faces)) == len(points)  # each corner is one of a triangle


def test_polygons_of_all_sizes_together():
    """In any order; fewer than three corners are no polygon."""
    points = np.concatenate([np.array(SHAPES[name], float) for name in ("square", "L", "arrow")])
    points = np.column_stack([points, np.zeros(len(points))])
    counts = np.array([4, 2, 4, 0, 4])
    faces = triangles_of(points, np.arange(14), counts)
    assert len(faces) == 6
    assert {tuple(sorted(face)) for face in faces.tolist()} >= {(0, 1, 2), (0, 2, 3)}
    assert not {4, 5} & set(faces.ravel().tolist())
    assert triangles_of(points, np.zeros(0, int), np.zeros(0, int)).shape == (0, 3)


@pytest.mark.parametrize("count", [4, 5, 9, 70])
@pytest.mark.parametrize("kind", ["one place", "a line", "crossing", "there and back", "NaN"])
def test_what_is_no_polygon_becomes_triangles_of_its_corners(count, kind):
    i = np.arange(count)
    points = {
        "one place": np.zeros((count, 3)),
        "a line": np.stack([i, 2 * i, 0 * i], axis=-1),
        "crossing": np.stack([np.cos(2.5 * i), np.sin(2.5 * i), 0 * i], axis=-1),
        "there and back": np.stack([np.minimum(i, count - i), i % 2, 0 * i], axis=-1),
        "NaN": np.stack([i, i * i, np.where(i == 3, np.nan, 0)], axis=-1),
    }[kind].astype(float)
    faces = triangles_of(points, i, np.array([count]))
    assert faces.shape == (count - 2, 3)
    assert len(np.unique(faces)) == count


def test_as_earlier_versions_did():
    points = np.column_stack([SHAPES["L"], np.zeros(6)])
    faces = triangles_of(points, np.arange(6), np.array([6]), fans=True)
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]


def test_what_takes_too_long_is_refused(monkeypatch):
    """A spiral has ears at its ends only; of a hundred thousand corners it would take minutes."""
    monkeypatch.setattr(polygons, "WORK", 20_000)
    flat = np.array(SHAPES["spiral"])
    points = np.column_stack([flat, np.zeros(len(flat))])
    with pytest.raises(ValueError, match="a face of 80 corners into triangles takes too long"):
        triangles_of(points, np.arange(80), np.array([80]))


@pytest.mark.full
def test_a_hundred_thousand_corners():
    angles = np.arange(100_000) / 50_000 * np.pi
    flat = ring(1 + 0.3 * np.cos(400 * angles), angles)
    points = np.column_stack([flat, np.zeros(len(flat))])
    faces = triangles_of(points, np.arange(len(points)), np.array([len(points)]))
    assert doubled(flat[faces]).sum() == pytest.approx(shoelace(flat), rel=1e-6)
