"""One Gaussian per leaf: where, how large, of which color, and how flat."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import UsageError
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import from_leaves
from ddimx.splats import colors
from ddimx.splats.cloud import axes
from ddimx.splats.from_octree import Look, from_octree, surface, tilted
from ddimx.splats.neighbors import neighborhood


def tree_of(cells, depth=4, lower=(-0.5, -0.5, -0.5), edge=1.0):
    return from_leaves(keys_of(np.array(cells)), depth, lower, edge)


def floor(n=16, y=5, depth=4):
    return tree_of([(x, y, z) for x in range(n) for z in range(n)], depth)


def test_gaussians_stand_at_the_centers_of_leaves():
    tree = tree_of([(0, 0, 0), (3, 1, 2)], depth=2, lower=(10.0, 20.0, 30.0), edge=8.0)
    cloud = from_octree(tree, Look(color="#336699", opacity=0.75, scale=0.25))
    assert cloud.positions.tolist() == [[11, 21, 31], [17, 23, 35]]
    assert (cloud.sigmas == 0.5).all()  # a quarter of a cell of edge 2
    assert (cloud.quaternions == [1, 0, 0, 0]).all()
    assert (cloud.alphas == 0.75).all()
    assert (np.round(cloud.colors * 255) == [0x33, 0x66, 0x99]).all()


def test_by_default_a_standard_deviation_is_half_a_cell():
    assert (from_octree(tree_of([(1, 1, 1)], depth=3)).sigmas == 0.5 / 8).all()


@given(st.sets(st.integers(0, 511), min_size=1, max_size=80), st.booleans())
def test_every_leaf_is_there_once_and_valid(keys, surfel):
    tree = from_leaves(np.array(sorted(keys)), 3)
    cloud = from_octree(tree, Look(color="normal", surfel=surfel))
    assert len(cloud) == tree.counts[-1]
    assert (cloud.positions == tree.centers().astype(np.float32)).all()
    assert (cloud.sigmas <= 0.0625).all()
    assert (cloud.sigmas >= 0.0625 / 4).all()


# --- flattening ---------------------------------------------------------------------------------


def test_a_floor_becomes_flat_and_lies():
    cloud = from_octree(floor(), Look(surfel=True))
    inner = np.abs(cloud.positions[:, [0, 2]]).max(axis=1) < 0.3
    thin = axes(cloud.quaternions)[inner, :, 2]  # the third own axis is the thin one
    np.testing.assert_allclose(np.abs(thin), [[0, 1, 0]] * inner.sum(), atol=1e-6)
    np.testing.assert_allclose(cloud.sigmas[inner] * 16, [[0.5, 0.5, 0.125]] * inner.sum())


def test_a_rod_and_a_lone_cell_stay_round():
    rod = from_octree(tree_of([(4, y, 9) for y in range(16)]), Look(surfel=True))
    lone = from_octree(tree_of([(4, 4, 4)]), Look(surfel=True))
    for cloud in (rod, lone):
        assert (cloud.sigmas == np.float32(0.5 / 16)).all()


def ball(depth=5):
    n = 2**depth
    grid = np.stack(np.mgrid[:n, :n, :n], axis=-1).reshape(-1, 3)
    radius = np.linalg.norm(grid + 0.5 - n / 2, axis=1)
    return tree_of(grid[np.abs(radius - 0.42 * n) < 0.87], depth)  # half a cell's diagonal: no hole


def test_normals_of_a_ball_point_outwards():
    tree = ball()
    points = tree.centers()
    normals, flatness = surface(points, neighborhood(tree))
    outwards = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosines = (normals * outwards).sum(axis=1)
    assert cosines.min() > 0.8
    assert np.median(cosines) > 0.97
    assert np.median(flatness) < 0.85


def test_the_side_of_a_normal_follows_the_stated_rule():
    """Away from the box's middle; else from the cells around; else the largest part is positive."""
    tree = floor(y=5)
    normals, _ = surface(tree.centers(), neighborhood(tree))
    assert (normals[tree.leaves == keys_of(np.array([[8, 5, 8]]))[0]] == [0, 1, 0]).all()
    both = tree_of([(x, y, z) for x in range(16) for z in range(16) for y in (2, 12)])
    points = both.centers()
    normals, _ = surface(points, neighborhood(both))
    inner = np.abs(points[:, [0, 2]]).max(axis=1) < 0.3
    assert (np.sign(normals[inner, 1]) == np.where(points[inner, 1] < 0, -1, 1)).all()


@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: sum(x * x for x in v) > 0.01))
def test_tilting_takes_z_to_the_normal(vector):
    normal = np.array([vector]) / np.linalg.norm(vector)
    third = axes(tilted(normal))[0, :, 2]
    np.testing.assert_allclose(third * np.sign(third @ normal[0]), normal[0], atol=1e-9)


# --- colors ------------------------------------------------------------------------------------


def test_height_runs_from_the_lowest_stop_to_the_highest():
    tree = tree_of([(0, 2, 0), (0, 7, 0), (0, 12, 0)])
    cloud = from_octree(tree, Look(color="height", light=False))
    expected = [colors.rgb(colors.HEIGHTS[i]) for i in (0, 2, 4)]
    np.testing.assert_allclose(cloud.colors, expected, atol=1e-6)
    flat = from_octree(floor(), Look(color="height", light=False))
    np.testing.assert_allclose(flat.colors, [colors.rgb(colors.HEIGHTS[0])] * 256, atol=1e-6)


def test_a_color_that_was_said_is_the_color_that_comes():
    named = from_octree(floor(), Look(color="Teal"))
    assert (np.round(named.colors * 255) == [0, 128, 128]).all()
    assert (np.round(from_octree(floor(), Look("#0A0b0C")).colors * 255) == [10, 11, 12]).all()


def test_light_darkens_and_keeps_the_hue():
    plain, lit = (from_octree(ball(4), Look("#c08040", light=on)).colors for on in (False, True))
    ratio = lit / plain
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(3), atol=1e-6)
    assert ratio.max() <= 1
    assert ratio.min() > 0.25
    assert np.ptp(ratio) > 0.1


def test_a_floor_is_lit_more_than_a_wall_that_faces_sideways():
    # The light comes from (-.4, .8, .45): a floor takes .8 / 1.0012 of the full light, a wall .4.
    wall = tree_of([(5, y, z) for y in range(16) for z in range(16)])
    look = Look("#ffffff", light=True)
    middle = keys_of(np.array([[8, 5, 8]])), keys_of(np.array([[5, 8, 8]]))
    bright, dim = (
        from_octree(tree, look).colors[tree.leaves == key][0, 0]
        for tree, key in zip((floor(), wall), middle, strict=True)
    )
    assert bright > dim + 0.1
    assert bright > 0.9


def test_categories_have_colors_of_their_own():
    chair, table, other = (
        from_octree(floor(), Look("category", light=False), category=name).colors[0].tolist()
        for name in ("chair", "table", "sousaphone")
    )
    assert chair != table
    assert (
        other
        == from_octree(floor(), Look("category", light=False), category="sousaphone")
        .colors[5]
        .tolist()
    )
    with pytest.raises(UsageError, match="no category"):
        from_octree(floor(), Look("category"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": "hight"}, "did you mean 'height'"),
        ({"color": "#12345"}, "unknown color"),
        ({"opacity": 0.0}, "opacity 0.0"),
        ({"opacity": 1.5}, "opacity 1.5"),
        ({"opacity": float("nan")}, "opacity nan"),
        ({"scale": 0.0}, "scale 0.0"),
        ({"scale": float("nan")}, "scale nan"),
    ],
)
def test_looks_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Look(**options)


def test_turns_are_the_shortest():
    """At most a quarter turn, as a Gaussian has no front."""
    random = np.random.default_rng(0).normal(size=(1000, 3))
    normals = random / np.linalg.norm(random, axis=1, keepdims=True)
    turns = tilted(normals)
    np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1, rtol=1e-12)
    # The real part is cos(angle / 2), and cos(angle) is |z|.
    np.testing.assert_allclose(2 * turns[:, 0] ** 2 - 1, np.abs(normals[:, 2]), atol=1e-12)


def test_a_new_rule_is_a_function_and_an_entry(monkeypatch):
    """Red on the left and black on the right: told apart, parsed and lit as the entry says."""

    def by_side(leaves):
        return np.stack([leaves.points[:, 0] < 0.25, *np.zeros((2, len(leaves.points)))], axis=1)

    monkeypatch.setitem(colors.RULES, "side", colors.Rule(by_side))
    tree = tree_of([(2, 0, 0), (12, 0, 0)])
    look = Look("SIDE")
    assert not look.lit
    assert not look.needs_normals
    expected = (tree.centers()[:, 0] < 0.25)[:, None] * [1, 0, 0]
    np.testing.assert_array_equal(from_octree(tree, look).colors, expected)
    with pytest.raises(UsageError, match="height, normal, category, side or a name"):
        Look("sid")
