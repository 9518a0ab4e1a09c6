"""The splatter: where things land, what hides what, and that a picture shows the shape."""

import numpy as np
import pytest

from ddimx.octree.keys import keys_of
from ddimx.octree.tree import from_leaves
from ddimx.splats.cloud import balls, merge
from ddimx.splats.preview.camera import look_at, project
from ddimx.splats.preview.raster import rasterize
from ddimx.splats.preview.render import render_thumbnail

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "right", "up"),
    [(0, 0, (1, 0, 0), (0, 1, 0)), (90, 0, (0, 0, -1), (0, 1, 0)), (0, 90, (1, 0, 0), (0, 0, -1))],
)
def test_the_camera_never_mirrors(azimuth, elevation, right, up):
    camera = look_at(CORNERS, 100, azimuth=azimuth, elevation=elevation)
    assert np.linalg.det(camera.basis) == pytest.approx(1)
    origin, to_right, to_up = camera.view(np.array([[0, 0, 0], right, up]))
    np.testing.assert_allclose(to_right - origin, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(to_up - origin, [0, -1, 0], atol=1e-12)  # pixels count downwards


@pytest.mark.parametrize("azimuth", [0, 33, 200])
def test_the_shape_fills_the_picture(azimuth):
    camera = look_at(CORNERS, 200, azimuth=azimuth)
    xy = project(balls(CORNERS, 0.01, (1, 1, 1), 1.0), camera).xy
    size = xy.max(axis=0) - xy.min(axis=0)
    assert size.max() == pytest.approx(200 * 0.88)
    np.testing.assert_allclose((xy.max(axis=0) + xy.min(axis=0)) / 2, 100)


def test_a_footprint_is_the_gaussian_seen_from_afar():
    camera = look_at(CORNERS, 200, azimuth=0, elevation=0)
    prints = project(balls([[0, 0, 0]], 0.1, (1, 1, 1), 1.0), camera)
    scale = camera.focal / prints.depths[0]  # pixels per unit
    np.testing.assert_allclose(prints.conics[0, [0, 2]], 1 / ((0.1 * scale) ** 2 + 0.3))
    assert prints.thickness[0] == pytest.approx(0.1)


def test_opacity_at_the_center_and_what_hides_what():
    camera = look_at(CORNERS, 101, azimuth=0, elevation=0)
    near = balls([[0, 0, 0.5]], 0.2, (1, 0, 0), 0.6)
    far = balls([[0, 0, -0.5]], 0.2, (0, 1, 0), 0.6)
    for cloud in (merge([near, far]), merge([far, near])):
        planes = rasterize(project(cloud, camera), cloud.alphas, cloud.colors, 101)
        assert planes.cover[50, 50] == pytest.approx(1 - 0.4 * 0.4, abs=1e-3)
        np.testing.assert_allclose(planes.values[50, 50], [1, 0, 0], atol=1e-6)
        assert planes.cover[0, 0] == 0
        assert np.isinf(planes.depth[0, 0])


def chair(depth=5):
    """Four legs, a seat and a back at x = 0..15: the back stands at low z, so it faces +z."""
    n = 2**depth
    cells = [(x, n // 2, z) for x in range(8, 24) for z in range(8, 24)]
    cells += [(x, y, z) for x in (8, 23) for z in (8, 23) for y in range(n // 2)]
    cells += [(x, y, 8) for x in range(8, 24) for y in range(n // 2, n)]
    return from_leaves(keys_of(np.array(cells)), depth)


def test_a_thumbnail_shows_the_chair_on_white():
    picture = render_thumbnail(chair(), 96)
    assert picture.shape == (96, 96, 3)
    assert picture.dtype == np.uint8
    border = np.concatenate([picture[0], picture[:, 0], picture[:, -1]])
    assert border.min() > 230
    drawn = (picture.max(axis=2).astype(int) - picture.min(axis=2)) > 40  # brown, not gray
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) > 75
    assert 0.1 < drawn.mean() < 0.6
    # Under the seat one sees between the legs: rows of legs alone are mostly white.
    assert drawn[rows[-1] - 4].mean() < 0.2
    np.testing.assert_array_equal(picture, render_thumbnail(chair(), 96))


def test_the_seat_is_brighter_than_what_faces_away_from_the_light():
    above = render_thumbnail(chair(), 96, azimuth=0, elevation=60).astype(int)
    behind = render_thumbnail(chair(), 96, azimuth=180, elevation=0).astype(int)
    below = render_thumbnail(chair(), 96, azimuth=0, elevation=-60).astype(int)
    seat, back, bottom = (view[48, 48].sum() for view in (above, behind, below))
    assert seat > back
    assert seat > bottom + 60


def test_the_lamp_stands_on_the_left():
    block = from_leaves(keys_of(np.stack(np.mgrid[2:14, 2:14, 2:14], axis=-1).reshape(-1, 3)), 4)
    picture = render_thumbnail(block, 96, azimuth=45, elevation=0).astype(int)
    left, right = picture[48, 34].sum(), picture[48, 62].sum()
    assert left > right + 40


def test_one_cell_is_a_picture_too():
    picture = render_thumbnail(from_leaves(np.array([0]), 1), 32)
    assert picture.min() < 200
