"""The voxeliser against clipping, against dense samples, and against cells counted by hand."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ddimx.octree import voxels
from ddimx.octree.errors import OctreeError
from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.visible import visible_cells
from ddimx.octree.voxels import point_cells, triangle_cells

CORNERS = arrays(np.float64, (3, 3), elements=st.floats(0, 1, width=32))
SIXTEENTHS = arrays(np.float64, (3, 3), elements=st.integers(0, 16).map(lambda i: i / 16))


def clipped(triangle, low, high):
    """What of a triangle lies in a box, by Sutherland and Hodgman: a polygon, perhaps empty."""
    polygon = list(triangle)
    for axis in range(3):
        for bound, sign in ((low[axis], 1), (high[axis], -1)):
            kept = []
            for i, p in enumerate(polygon):
                q = polygon[i - 1]
                over = (sign * (p[axis] - bound) >= 0, sign * (q[axis] - bound) >= 0)
                if over[0] != over[1]:
                    kept.append(q + (bound - q[axis]) / (p[axis] - q[axis]) * (p - q))
                if over[0]:
                    kept.append(p)
            polygon = kept
    return polygon


def touching(triangle, depth, slack):
    """The cells that a triangle touches, all of the grid tried, each grown by a slack."""
    n = 2**depth
    low, high = triangle.min(0) * n - 1 - slack, triangle.max(0) * n + slack
    near = [
        range(max(0, int(np.floor(a))), min(n, int(np.ceil(b)) + 1))
        for a, b in zip(low, high, strict=True)
    ]
    cells = [(x, y, z) for x in near[0] for y in near[1] for z in near[2]]
    grid = np.array(cells, dtype=np.int64)
    inside = [bool(clipped(triangle * n, c - slack, c + 1 + slack)) for c in grid]
    return set(keys_of(grid[inside]).tolist())


def cells(triangle, depth):
    return {tuple(c) for c in cells_of(triangle_cells(np.array([triangle]), depth)).tolist()}


@given(st.one_of(CORNERS, SIXTEENTHS))
@example(np.array([[0.1, 0.1, 0.1], [0.9, 0.8, 0.7], [0.9, 0.8, 0.7000001]]))  # a sliver
@example(np.array([[0.3, 0.3, 0.3]] * 3))  # a point
@example(np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]))  # a segment
@example(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))  # in an outer face
def test_found_cells_are_those_that_clipping_finds(triangle):
    found = set(triangle_cells(triangle[None], 3).tolist())
    assert found <= touching(triangle, 3, 1e-6)
    assert found >= touching(triangle, 3, -1e-6)  # shrunk cells are surely touched
    assert found >= touching(triangle, 3, 0)  # and whole ones too: touching counts


def test_every_cell_of_a_dense_sample_is_found():
    random = np.random.default_rng(5)
    triangles = random.random((40, 1, 3)) * 0.6 + random.random((40, 3, 3)) * 0.4
    weights = random.dirichlet((1, 1, 1), 20_000)
    sample = np.einsum("wv,tvx->twx", weights, triangles).reshape(-1, 3)
    found = triangle_cells(triangles, 6)
    assert np.isin(point_cells(sample, 6), found).all()
    assert len(found) < 1.2 * len(point_cells(sample, 6))  # not merely a superset


def test_a_square_within_a_layer_of_cells():
    square = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    corners = np.array([[x, y, 0.4] for x, y in square])
    found = cells_of(triangle_cells(corners[[[0, 1, 2], [0, 2, 3]]], 3))
    assert found.tolist() == sorted(found.tolist(), key=lambda c: keys_of(np.array([c]))[0])
    assert {tuple(c) for c in found.tolist()} == {(x, y, 3) for x in range(8) for y in range(8)}


def test_a_face_on_a_boundary_occupies_the_cells_on_both_sides():
    triangle = [[0.3, 0.5, 0.3], [0.45, 0.5, 0.3], [0.3, 0.5, 0.45]]
    assert cells(triangle, 2) == {(1, 1, 1), (1, 2, 1)}
    for wrong in (1e-12, -1e-12):  # what rounding may do to such a face changes nothing
        moved = np.add(triangle, [0, wrong, 0])
        assert cells(moved, 2) == {(1, 1, 1), (1, 2, 1)}


def test_points_segments_and_corners():
    middle = [0.5, 0.5, 0.5]
    assert len(cells([middle] * 3, 4)) == 8  # all that share the corner
    assert cells([[0.3, 0.6, 0.9]] * 3, 3) == {(2, 4, 7)}
    along = cells([[0.05, 0.3, 0.3], [0.95, 0.3, 0.3], [0.4, 0.3, 0.3]], 3)
    assert along == {(x, 2, 2) for x in range(8)}
    assert cells([[0, 0, 0], [1, 1, 1], [0, 0, 0]], 2) == {
        (x, y, z)
        for x in range(4)
        for y in range(4)
        for z in range(4)
        if max(x, y, z) - min(x, y, z) <= 1
    }


def test_a_diagonal_plane_is_a_known_number_of_cells():
    # x + y + z = 3/2 meets cell (x, y, z) of n = 8 where x + y + z is 9..12 (touching counts).
    plane = [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.5, 1.0]]
    plane += [[0.5, 0.0, 1.0], [1.0, 0.0, 0.5]]
    fan = np.array(plane)[[[0, i, i + 1] for i in range(1, 5)]]
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    expected = keys_of(grid[(grid.sum(1) >= 9) & (grid.sum(1) <= 12)])
    assert triangle_cells(fan, 3).tolist() == sorted(expected.tolist())


def test_a_mirrored_triangle_gives_mirrored_cells():
    random = np.random.default_rng(2)
    triangles = np.round(random.random((60, 3, 3)) * 32) / 32  # many on boundaries
    mirrored = cells_of(triangle_cells(triangles * [-1, 1, 1] + [1, 0, 0], 4))
    expected = cells_of(triangle_cells(triangles, 4)) * [-1, 1, 1] + [15, 0, 0]
    assert mirrored.tolist() == cells_of(np.sort(keys_of(expected))).tolist()


def test_how_the_work_is_cut_changes_nothing(monkeypatch):
    triangles = np.random.default_rng(3).random((50, 3, 3))
    whole = triangle_cells(triangles, 4)
    monkeypatch.setattr(voxels, "TRIANGLES", 7)
    monkeypatch.setattr(voxels, "PAIRS", 64)
    monkeypatch.setattr(voxels, "MAX_CELLS", 2 * len(whole) - 2)  # merged on the way
    assert np.array_equal(triangle_cells(triangles, 4), whole)


def sphere(rings=24):
    """A closed sphere of triangles around the middle of the cube."""
    polar, around = np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1)
    p, a = np.meshgrid(polar, around, indexing="ij")
    points = 0.5 + 0.49 * np.stack([np.sin(p) * np.cos(a), np.cos(p), np.sin(p) * np.sin(a)], -1)
    quads = [points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]]
    corners = np.stack(quads, 2).reshape(-1, 4, 3)
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])


@pytest.mark.parametrize("depth", [3, 6])
def test_a_closed_surface_has_no_holes(depth):
    shell = triangle_cells(sphere(), depth)
    middle = keys_of(np.array([[2 ** (depth - 1)] * 3]))
    filled = np.union1d(shell, middle)
    assert len(filled) == len(shell) + 1
    assert np.array_equal(visible_cells(filled, depth), shell)  # nothing leaks in to the middle


def test_coarser_cells_are_the_parents_of_finer_ones():
    fine = triangle_cells(sphere(10), 6)
    assert np.array_equal(np.unique(fine >> 3), triangle_cells(sphere(10), 5))


def test_points_belong_to_one_cell_each():
    points = np.array([[0, 0, 0], [1, 1, 1], [0.5, 0.25, 0.99], [0.5, 0.26, 0.98]])
    found = cells_of(point_cells(points, 2))
    assert sorted(map(tuple, found.tolist())) == [(0, 0, 0), (2, 1, 3), (3, 3, 3)]


@pytest.mark.parametrize(
    ("triangles", "depth", "words"),
    [
        (np.zeros((0, 3, 3)), 3, "no triangles"),
        (np.zeros((2, 3)), 3, r"triangles have shape \(2, 3\)"),
        (np.full((1, 3, 3), np.nan), 3, "triangle 0 is not within the cube"),
        (np.stack([np.zeros((3, 3)), np.full((3, 3), 1.1)]), 3, "triangle 1 is not"),
        (np.zeros((1, 3, 3)), 0, "depth 0 is not within 1..20"),
        (np.zeros((1, 3, 3)), 21, "depth 21"),
    ],
)
def test_what_is_refused(triangles, depth, words):
    with pytest.raises(OctreeError, match=words):
        triangle_cells(triangles, depth)


def test_a_depth_too_large_for_memory_is_named(monkeypatch):
    monkeypatch.setattr(voxels, "MAX_CELLS", 1000)
    monkeypatch.setattr(voxels, "PAIRS", 256)
    with pytest.raises(
        OctreeError, match=r"at depth 7 .* more than 1,000 cells, .* a smaller depth"
    ):
        triangle_cells(sphere(), 7)


@pytest.mark.filterwarnings("error")
def test_triangles_of_no_area_touch_their_points_cells_without_dividing_by_nothing():
    point = np.full((3, 3), 0.3)
    along = np.array([[0.1, 0.1, 0.1], [0.4, 0.1, 0.1], [0.2, 0.1, 0.1]])
    with np.errstate(invalid="raise"):
        assert triangle_cells(point[None], 2).tolist() == keys_of(np.array([[1, 1, 1]])).tolist()
        cells = [[x, 0, 0] for x in range(2)]
        assert triangle_cells(along[None], 2).tolist() == sorted(keys_of(np.array(cells)).tolist())


def test_a_box_that_ends_just_before_a_boundary_touches_what_lies_behind():
    """Half the cube long but for 1e-10, which is less than the tolerance of 1e-8 of a cell."""
    along = np.array([[0.25, 0.1, 0.1], [0.75 - 1e-10, 0.1, 0.1], [0.5, 0.1, 0.1]])
    cells = [[x, 0, 0] for x in range(4)]
    assert triangle_cells(along[None], 2).tolist() == sorted(keys_of(np.array(cells)).tolist())


def test_a_triangle_given_again_is_looked_at_once(monkeypatch):
    """A file may repeat one a million times; the cells are those of the triangles by themselves."""
    generator = np.random.default_rng(0)
    few = generator.random((5, 3, 3))
    many = few[generator.integers(0, 5, 1000)]
    looked_at = []
    of = voxels._Slabs.of
    monkeypatch.setattr(
        voxels._Slabs, "of", lambda corners: looked_at.append(len(corners)) or of(corners)
    )
    assert np.array_equal(triangle_cells(many, 5), triangle_cells(few, 5))
    assert looked_at == [5, 5]
