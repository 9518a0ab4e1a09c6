"""From meshes and points in their own units to octrees and back."""

import numpy as np
import pytest

from ddimx.octree.errors import OctreeError
from ddimx.octree.fit import fit_cube, mesh_tree, points_tree

# A box from (10, 20, 30) to (14, 21, 32), as 12 triangles.
BOX = np.array([[x, y, z] for x in (10.0, 14.0) for y in (20.0, 21.0) for z in (30.0, 32.0)])
QUADS = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
FACES = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))])


def test_the_cube_is_centered_and_as_large_as_the_longest_side():
    lower, edge = fit_cube(BOX, margin=0.1)
    assert edge == pytest.approx(5)  # 4 and a tenth of 5 at either end
    assert lower + edge / 2 == pytest.approx([12, 20.5, 31])


def test_the_tree_lies_where_the_mesh_lies():
    tree = mesh_tree(BOX, FACES, 5)
    cell = tree.edge / 32
    assert tree.edge == pytest.approx(4 / 0.99)
    centers = tree.centers()
    assert np.all(centers.min(0) - cell / 2 <= BOX.min(0))
    assert np.all(centers.max(0) + cell / 2 >= BOX.max(0))
    assert np.all(np.abs(centers - centers.mean(0)).max(0) <= np.ptp(BOX, axis=0) / 2 + cell)
    # 32 x 8..10 x 16..18 cells with nothing inside: a box's surface, with a cell's margin of error
    assert 32 * 2 * (8 + 16) * 0.8 < tree.counts[-1] < 2 * (32 * 10 + 32 * 18 + 10 * 18)


def test_nothing_lies_on_the_outer_faces():
    for depth in (1, 4, 6):
        cells = np.unique(mesh_tree(BOX, FACES, depth).centers()[:, 0])
        assert len(cells) == 2**depth  # the longest side spans the grid, and no more


def test_units_and_place_change_nothing_but_the_cube():
    tree = mesh_tree(BOX, FACES, 5)
    moved = mesh_tree(BOX * 0.0254 - [3, 0, 7], FACES, 5)
    assert np.array_equal(moved.leaves, tree.leaves)
    assert moved.edge == pytest.approx(tree.edge * 0.0254)


def test_unused_vertices_count_for_nothing():
    more = np.concatenate([BOX, [[1e6, np.nan, 0]]])
    assert np.array_equal(mesh_tree(more, FACES, 4).leaves, mesh_tree(BOX, FACES, 4).leaves)


def test_a_flat_mesh_is_a_layer():
    flat = BOX * [1, 1, 0]
    assert (
        len(np.unique(mesh_tree(flat, FACES, 4).centers()[:, 2])) == 2
    )  # both sides of the middle


def test_points():
    tree = points_tree([[0, 0, 0], [3, 1, 0], [3, 1, 0]], 2, margin=0)
    assert tree.edge == 3
    assert tree.lower == pytest.approx((0, -1, -1.5))
    assert tree.counts == (1, 2, 2)


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (BOX, np.zeros((0, 3), int), "no faces"),
        (BOX, FACES.astype(float), "faces are float64"),
        (BOX, [[0, 1, 8]], r"a vertex outside 0\.\.7"),
        (BOX, [[0, 1, -1]], "a vertex outside"),
        (BOX * np.inf, FACES, "24 of 36 points|36 of 36 points"),
        (np.where(BOX == 14, np.nan, BOX), FACES, "points are NaN or infinite"),
        (np.full((3, 3), 7.0), [[0, 1, 2]], "no extent"),
        (np.full((3, 3), 1e9) + np.eye(3) * 1e-8, [[0, 1, 2]], "no extent"),  # lost in rounding
        (np.array([[-1e308] * 3, [1e308] * 3, [0] * 3]), [[0, 1, 2]], "too large"),
    ],
)
def test_what_is_refused(vertices, faces, words):
    with pytest.raises(OctreeError, match=words):
        mesh_tree(vertices, np.asarray(faces), 4)


def test_points_that_are_refused():
    for points, words in (
        (np.zeros((0, 3)), "no points"),
        (np.zeros((5, 2)), r"shape \(5, 2\)"),
        ([[0, 0, 0], [1, np.inf, 0]], "1 of 2 points are NaN or infinite"),
        (np.ones((5, 3)), "no extent"),
    ):
        with pytest.raises(OctreeError, match=words):
            points_tree(points, 4)
