"""Variants of furniture: which numbers make them, and what no change may do to a shape."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ddimx.data.shapes.jobs import Job, PrepareSettings, make
from ddimx.data.shapes.meshes import Surface
from ddimx.octree.file import read_shape
from ddimx.octree.fit import MARGIN
from ddimx.octree.geometry import components, mirrored, turned
from ddimx.recipes.furniture.categories import BY_SIGHT, CATEGORIES, LEFT_OUT, category_of
from ddimx.recipes.furniture.variants import LIMITS, Numbers, changed, changes_of, numbers_of
from tests.data.shapes.meshes import BOX, FACES
from tests.recipes.furniture.test_furniture import item

UNIT = (BOX - BOX.mean(axis=0)) / np.ptp(BOX, axis=0)  # the unit cube around the origin


def put_together(*boxes):
    """Boxes (center, size) as one surface; they share no vertices."""
    vertices = np.concatenate([UNIT * size + center for center, size in boxes])
    faces = np.concatenate([FACES + len(UNIT) * i for i in range(len(boxes))])
    return Surface(vertices, faces)


def table():
    """A top on four thin legs, which touch it and no more."""
    legs = [((x, 30, z), (0.5, 60, 0.5)) for x in (-45, 40) for z in (-28, 31)]
    return put_together(((0, 62, 0), (120, 4, 70)), *legs)


def same(a, b):
    return np.array_equal(a.leaves, b.leaves)


def test_a_mirror_image_of_a_mirror_image_is_the_piece_itself():
    piece = Surface(table().vertices - [0, 32, 0], table().faces)  # the middle is at the origin
    once = changed(piece, Numbers(mirror=True)).surface
    assert np.array_equal(changed(once, Numbers(mirror=True)).surface.vertices, piece.vertices)
    assert not np.array_equal(once.vertices, piece.vertices)
    assert same(changed(piece, Numbers(mirror=True)).tree(4), mirrored(piece.tree(4), 0))


def test_quarter_turns_are_those_of_octrees():
    for quarters in range(4):
        made = changed(table(), Numbers(quarters=quarters)).tree(4)
        assert same(made, turned(table().tree(4), quarters))


def test_the_same_key_makes_the_same_variant_whatever_else_is_made():
    few, many = (changes_of("scopia-chair", "chair", count) for count in (4, 9))
    assert [change.keywords for change in few] == [change.keywords for change in many[:3]]
    made = {numbers_of(n, v, LIMITS["lamp"], s) for n in "ab" for v in (1, 2) for s in (0, 1)}
    assert len(made) == 8
    assert changes_of("scopia-chair", "chair", 1) == ()


def test_the_numbers_are_the_same_on_every_machine():
    assert numbers_of("scopia-ficustree", 2, LIMITS["plant"]) == Numbers(
        mirror=False,
        quarters=2,
        scale=(1.058065117802471, 1.135661505255848, 0.9361123730428517),
        taper=0.1888063630089164,
        lean=(-0.033140771789476275, 0.01345842438749969),
        margin=0.0021856453764485194,
    )


def test_numbers_stay_within_the_limits_and_use_them():
    limits = LIMITS["plant"]
    made = [numbers_of("x", variant, limits) for variant in range(1, 400)]
    scales = np.array([numbers.scale for numbers in made]) - 1
    assert limits.stretch * 0.95 < np.abs(scales).max() <= limits.stretch
    for column in (np.array([n.lean for n in made]), np.array([[n.taper] for n in made])):
        assert 0.08 < np.abs(column).max() <= max(limits.taper, *limits.lean)
        assert 0.4 < (column[:, 0] == 0).mean() < 0.6  # every other one is upright
    assert set(Counter(n.quarters for n in made)) == {0, 1, 2, 3}
    assert 0.4 < np.mean([n.mirror for n in made]) < 0.6
    assert {n.quarters for n in (numbers_of("x", v, LIMITS["chair"]) for v in range(1, 9))} == {0}
    assert set(LIMITS) == set(CATEGORIES)


@pytest.mark.parametrize("category", ["table", "chair", "plant"])
def test_variants_are_in_one_piece_on_a_flat_floor(category):
    piece = table()
    floor = piece.vertices[:, 1] == 0
    for change in changes_of("a", category, 9):
        variant = change(piece)
        heights = variant.surface.vertices[:, 1]
        assert np.ptp(heights[floor]) == 0
        assert heights[floor][0] == heights.min()
        assert len(components(variant.tree(5))[1]) == 1
        # The legs still end in the plane of the top's lower side.
        assert np.ptp(heights[piece.vertices[:, 1] == 60]) < 1e-9


def test_taper_narrows_towards_the_top_and_lean_moves_it():
    cube = Surface(UNIT, FACES)
    tapered = changed(cube, Numbers(taper=0.25)).surface.vertices
    top, floor = tapered[UNIT[:, 1] > 0], tapered[UNIT[:, 1] < 0]
    assert np.ptp(top[:, 0]) == pytest.approx(0.8)
    assert np.ptp(floor[:, 0]) == 1
    assert np.ptp(tapered[:, 1]) == 1
    leaned = changed(cube, Numbers(lean=(0.1, -0.2))).surface.vertices
    top, floor = leaned[UNIT[:, 1] > 0], leaned[UNIT[:, 1] < 0]
    assert top.mean(axis=0) - floor.mean(axis=0) == pytest.approx([-0.2, 1, 0.1])
    flat = changed(Surface(UNIT * [1, 0, 1], FACES), Numbers(taper=0.2, lean=(0.1, 0.1)))
    assert np.ptp(flat.surface.vertices[:, 1]) == 0


def job(read, category="table", variants=5, name="a"):
    return Job(category, name, "m.obj", "1", read, changes=changes_of(name, category, variants))


def crumbled():
    """The table, and far above it a box of one or two cells."""
    crumb = Surface(UNIT * 2 + [0, 110, 0], FACES + len(table().vertices))
    faces = np.concatenate([table().faces, crumb.faces])
    return Surface(np.concatenate([table().vertices, crumb.vertices]), faces)


def two_pieces():
    return put_together(((-30, 20, 0), (20, 40, 20)), ((30, 20, 0), (20, 40, 20)))


def test_a_files_variants_are_made_in_any_order_alike(tmp_path):
    settings = PrepareSettings("x", 4, visible=True, crumbs=0.03)
    first, second = job(table), job(table, "chair", name="b")
    for folder, jobs in ((tmp_path / "1", (first, second)), (tmp_path / "2", (second, first))):
        made = [make(each, settings, folder) for each in jobs]
        assert [each.entry["variants"] for each in made] == [5, 5]
    for each in (first, second):
        assert (tmp_path / "1" / each.file).read_bytes() == (
            tmp_path / "2" / each.file
        ).read_bytes()
    shape = read_shape(tmp_path / "1" / first.file, variants=True)
    assert len({tree.leaves.tobytes() for tree in (shape.tree, *shape.variants)}) == 5


def test_crumbs_are_left_out_and_several_pieces_are_not(tmp_path: Path):
    without, with_crumbs = PrepareSettings("x", 5, crumbs=0.03), PrepareSettings("x", 5)
    assert len(components(crumbled().tree(5))[1]) == 2
    for settings, pieces in ((without, 1), (with_crumbs, 2)):
        made = make(job(crumbled), settings, tmp_path)
        shape = read_shape(tmp_path / made.job.file, variants=True)
        for tree in (shape.tree, *shape.variants):
            assert len(components(tree)[1]) == pieces
        assert made.entry["leaves"] == shape.tree.counts[-1]
    made = make(job(two_pieces), without, tmp_path)
    assert made.entry["variants"] == 5
    assert len(components(read_shape(tmp_path / made.job.file).tree)[1]) == 2


def test_a_variant_that_falls_apart_is_left_out(tmp_path):
    changes = (lambda _: two_pieces(), lambda source: source)
    for crumbs, count in ((0.03, 2), (0.0, 3)):
        settings = PrepareSettings("x", 4, crumbs=crumbs)
        made = make(Job("table", "a", "m.obj", "1", table, changes=changes), settings, tmp_path)
        assert made.entry["variants"] == count


def test_what_the_third_recipe_sees_otherwise():
    lounger = item("Scopia#beach_chair", "Beach chair")
    assert [category_of(lounger, recipe) for recipe in (1, 2, 3)] == ["bench", "bench", "chair"]
    rings = item("Blend Swap CC-0#stove", "Stove", tags=("Appliance",))
    assert rings.shape_id in LEFT_OUT["not to be recognized"]
    assert [category_of(rings, recipe) for recipe in (2, 3)] == ["appliance", None]
    left_out = [name for names in LEFT_OUT.values() for name in names]
    assert len({*left_out, *BY_SIGHT}) == len(left_out) + len(BY_SIGHT)
    assert set(BY_SIGHT.values()) <= set(CATEGORIES)
    assert Numbers().margin == MARGIN
