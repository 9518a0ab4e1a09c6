"""``ddimx.export`` in Python: what it writes, where to, and what it refuses."""

import io

import numpy as np
import pytest
from PIL import Image

from ddimx.errors import DdimxError, UsageError
from ddimx.exporting.api import export
from ddimx.octree.file import Shape
from ddimx.octree.tree import Octree
from tests.exporting import stool, write
from tests.splats.readers import read_3dgs, read_glb, read_splat, read_spz, rotation_angles

SPLATS = 64 + 4 * 9


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_file_becomes_splats_beside_it(tmp_path):
    source = write(tmp_path / "a.npz")
    assert export(source) == [tmp_path / "a.3dgs.ply"]
    read = read_3dgs((tmp_path / "a.3dgs.ply").read_bytes())
    # In a splat viewer's frame: half a turn about x, (x, -y, -z).
    centers = stool().centers() * [1, -1, -1]
    assert (read["positions"] == centers.astype(np.float32)).all()
    half_turn = np.tile([0.0, 1.0, 0.0, 0.0], (SPLATS, 1))
    assert rotation_angles(read["quaternions"], half_turn).max() < 1e-6
    np.testing.assert_allclose(read["sigmas"], 0.5 / 16, rtol=1e-6)
    np.testing.assert_allclose(read["alphas"], 0.95, rtol=1e-6)
    assert names(tmp_path) == ["a.3dgs.ply", "a.npz"]


READERS = {"splat": read_splat, "spz": read_spz, "glb": read_glb, "3dgs": read_3dgs}


@pytest.mark.parametrize(
    ("format", "up", "turn"),
    [
        ("glb", None, [1, 1, 1]),
        ("spz", None, [1, 1, 1]),
        ("splat", None, [1, -1, -1]),
        ("3dgs", None, [1, -1, -1]),
        ("3dgs", "y", [1, 1, 1]),
        ("spz", "-y", [1, -1, -1]),
    ],
)
def test_every_format_has_its_frame_unless_told_otherwise(tmp_path, format, up, turn):
    (path,) = export(stool(legs=1), tmp_path / "out", format=format, up=up)
    read = READERS[format](path.read_bytes())
    np.testing.assert_allclose(read["positions"], stool(legs=1).centers() * turn, atol=2**-13)


def test_z_up_for_modelling_programs(tmp_path):
    (path,) = export(stool(legs=1), tmp_path, format="splat", up="z")
    x, y, z = stool(legs=1).centers().T
    assert (read_splat(path.read_bytes())["positions"] == np.stack([x, -z, y], axis=1)).all()


def test_flat_gaussians_turn_with_the_frame(tmp_path):
    """A seat is thin along y; with z up it is thin along z, and nothing else changes."""
    export(stool(legs=0), tmp_path / "y", surfel=True, up="y")
    export(stool(legs=0), tmp_path / "z", surfel=True, up="z")
    from ddimx.splats.cloud import axes

    for up, axis in (("y", [0, 1, 0]), ("z", [0, 0, 1])):
        read = read_3dgs((tmp_path / up / "000000.3dgs.ply").read_bytes())
        thin = axes(read["quaternions"])[:, :, 2]
        flat = read["sigmas"][:, 2] < 0.3 * read["sigmas"][:, 0]
        assert flat.sum() > 16
        np.testing.assert_allclose(np.abs(thin[flat]), np.tile(axis, (flat.sum(), 1)), atol=1e-6)


def test_a_folder_keeps_its_subfolders(tmp_path):
    for name in ("chair/1", "chair/2", "table/1"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "in" / f"{name}.npz")
    (tmp_path / "in" / "train.jsonl").write_text("{}")
    (tmp_path / "in" / ".hidden.npz").write_text("half of a file")
    paths = export(tmp_path / "in", tmp_path / "out", format=["splat", "spz"])
    assert len(paths) == 6
    stems = ("chair/1", "chair/2", "table/1")
    assert names(tmp_path / "out") == [f"{s}.{kind}" for s in stems for kind in ("splat", "spz")]


def test_a_name_for_the_file(tmp_path):
    source = write(tmp_path / "a.npz")
    path = tmp_path / "new" / "chair.ply"
    assert export(source, path) == [path]
    assert path.read_bytes() == export(source, tmp_path / "o")[0].read_bytes()
    paths = export(source, tmp_path / "b.glb", format="glb", preview=True)
    assert paths == [tmp_path / "b.glb", tmp_path / "b.png"]
    with pytest.raises(UsageError, match=r"files of format glb end in \.glb"):
        export(source, tmp_path / "chair.ply", format="glb")
    with pytest.raises(UsageError, match="several formats"):
        export(source, tmp_path / "chair.ply", format=["3dgs", "glb"])
    write(tmp_path / "b.npz")
    with pytest.raises(UsageError, match=r"several shapes \(--merge\?\)"):
        export([source, tmp_path / "b.npz"], tmp_path / "chair.ply")


def test_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("ddimx.exporting.pictures.TURN_FRAMES", 6)
    paths = export(stool(), tmp_path, preview=True, turntable=True)
    assert [p.name for p in paths] == ["000000.3dgs.ply", "000000.png", "000000.webp"]
    with Image.open(paths[1]) as picture:
        assert picture.size == (3 * 384, 384)
        third = np.asarray(picture.convert("L"))[:, 384:768]
    assert third[:3].min() == 255  # white margin
    assert 0.02 < (third < 200).mean() < 0.6
    with Image.open(paths[2]) as animation:
        assert animation.n_frames == 6
        first = np.asarray(animation.convert("RGB")).astype(int)
        animation.seek(3)
        behind = np.asarray(animation.convert("RGB")).astype(int)
    assert first.shape == behind.shape == (320, 320, 3)
    assert np.abs(first - behind).max() > 20


def test_merging_puts_shapes_side_by_side(tmp_path):
    sources = [write(tmp_path / f"{i}.npz", legs=i) for i in range(3)]
    (path,) = export(tmp_path, merge=True, up="y")
    assert path == tmp_path / "merged.3dgs.ply"
    read = read_3dgs(path.read_bytes())["positions"]
    counts = [64, 73, 82]
    assert len(read) == sum(counts)
    parts = np.split(read, np.cumsum(counts)[:-1])
    for part, legs in zip(parts, range(3), strict=True):
        original = stool(legs=legs).centers()
        np.testing.assert_allclose(part - part[0], original - original[0], atol=1e-6)
        assert part[:, 1].min() == pytest.approx(0, abs=1e-6)  # they stand on one ground
    boxes = [(part.min(axis=0), part.max(axis=0)) for part in parts]
    for i, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:i]:
            assert ((low > other_high) | (other_low > high))[[0, 2]].any()
    assert export(sources, tmp_path / "all.glb", format="glb", merge=True) == [tmp_path / "all.glb"]


def placed(tree, lower, edge):
    return Octree(tree.masks, (float(lower[0]), float(lower[1]), float(lower[2])), edge)


def test_centered_and_in_other_units(tmp_path):
    """Centimeters far from the origin; what is computed in float64 is rounded once."""
    tree = placed(stool(), [456789.25, 312.125, 5412345.5], 160.0)

    def read(name, tree=tree, **options):
        (path,) = export(tree, tmp_path / name, up="y", **options)
        return read_3dgs(path.read_bytes())

    unit = Octree(tree.masks).centers()  # within [-0.5, 0.5]^3
    centered = read("centered", center=True)
    assert (centered["positions"] == (unit * 160).astype(np.float32)).all()
    np.testing.assert_allclose(centered["sigmas"], 5, rtol=1e-6)  # half of a cell of 10
    meters = read("meters", unit=100)
    low = np.array(tree.lower) / 100
    assert (meters["positions"] == (low + (unit + 0.5) * 1.6).astype(np.float32)).all()
    np.testing.assert_allclose(meters["sigmas"], 0.05, rtol=1e-6)
    cube = read("cube", center=True, unit="cube")
    assert (cube["positions"] == unit.astype(np.float32)).all()
    beside = read("merged", [tree, tree], merge=True)["positions"]
    np.testing.assert_allclose(np.ptp(beside[:SPLATS], axis=0), np.ptp(unit, axis=0) * 160)


def test_cells_that_float32_cannot_tell_apart_are_refused(tmp_path):
    far = [0.0, 0.0, 5412345.5]  # where float32 has steps of 0.5
    for edge, good in ((16 * 4.0, True), (16 * 3.9, False)):  # cells of 1/16 of that and less
        tree = placed(stool(), far, edge)
        if good:
            (path,) = export(tree, tmp_path / "good")
            positions = read_3dgs(path.read_bytes())["positions"]
            assert len(np.unique(positions, axis=0)) == SPLATS
            continue
        with pytest.raises(DdimxError, match=r"cells are 3\.9 wide.* are 0\.5 apart.*--center"):
            export(tree, tmp_path / "bad")
        export(tree, tmp_path / "bad", center=True)
        assert export(tree, tmp_path / "picture", format=[], preview=True)  # has no place
    sizes = [placed(stool(), [0.0] * 3, edge) for edge in (1e6, 1e-3)]
    with pytest.raises(DdimxError, match=r"^the largest .*: --unit cube makes"):
        export(sizes, tmp_path / "bad", merge=True)
    assert export(sizes, tmp_path / "alike", merge=True, unit="cube")
    for lower in (np.inf, 1e300):
        with pytest.raises(DdimxError, match="--center"):
            export(placed(stool(), [lower] * 3, 1.0), tmp_path / "bad")


def test_deeper_octrees_are_cut(tmp_path):
    (path,) = export(stool(), tmp_path, depth=2, up="y")
    read = read_3dgs(path.read_bytes())
    assert (read["positions"] == stool().coarser(2).centers().astype(np.float32)).all()
    np.testing.assert_allclose(read["sigmas"], 0.5 / 4, rtol=1e-6)


def test_files_without_bounds_lie_in_the_original_projects_cube(tmp_path):
    np.save(tmp_path / "bare.npy", stool().tokens())
    (path,) = export(tmp_path / "bare.npy", up="y")
    expected = (stool().centers() + 0.5).astype(np.float32)
    assert (read_3dgs(path.read_bytes())["positions"] == expected).all()


# --- what is there already ----------------------------------------------------------------------


def test_the_same_again_is_fine_and_another_is_refused(tmp_path):
    source = write(tmp_path / "a.npz")
    (path,) = export(source, format="glb")
    stamp = path.stat().st_mtime_ns
    assert export(source, format="glb") == [path]
    assert path.stat().st_mtime_ns == stamp
    before = path.read_bytes()
    with pytest.raises(DdimxError, match=r"a\.glb is there with other contents.*--overwrite"):
        export(source, format=["spz", "glb"], color="red")
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.glb", "a.npz"]  # nothing of a shape is written if not all can be
    export(source, format="glb", color="red", overwrite=True)
    assert path.read_bytes() != before


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="out exists and is not a folder"):
        export(stool(), tmp_path / "out")


def test_a_folder_in_the_way(tmp_path):
    source = write(tmp_path / "a.npz")
    (tmp_path / "a.glb").mkdir()
    with pytest.raises(DdimxError, match=r"cannot (read|write) .*a\.glb"):
        export(source, format="glb", overwrite=True)


# --- what is refused ----------------------------------------------------------------------------


def test_some_failures_do_not_stop_the_others(tmp_path):
    write(tmp_path / "good.npz")
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 2)))
    tokens = stool().tokens()
    np.save(tmp_path / "short.npy", tokens[:-3])
    with pytest.raises(DdimxError) as failure:
        export(tmp_path)
    message = str(failure.value)
    assert message.startswith("2 of 3 shapes failed, the others are written:\n")
    assert f"{tmp_path / 'images.npz'}: an .npz without 'tokens'" in message
    assert str(tmp_path / "short.npy") in message
    assert "level 4" in message
    assert names(tmp_path) == ["good.3dgs.ply", "good.npz", "images.npz", "short.npy"]


def test_merging_leaves_out_what_fails_and_says_so(tmp_path):
    write(tmp_path / "good.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DdimxError, match=r"1 of 2 shapes failed.*\n.*bad\.npz: not a readable"):
        export(tmp_path, merge=True)
    assert len(read_3dgs((tmp_path / "merged.3dgs.ply").read_bytes())["alphas"]) == SPLATS


@pytest.mark.parametrize("said", [3, 5])
def test_another_depth_than_was_said_is_refused(tmp_path, said):
    source = write(tmp_path / "a.npz")
    with pytest.raises(DdimxError, match=f"depth 4, not {said}"):
        export(source, max_depth=said)
    with pytest.raises(DdimxError, match=f"depth 4, not {said}"):
        export(stool(), tmp_path, max_depth=said)
    assert names(tmp_path) == ["a.npz"]
    assert export(source, max_depth=4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.npz", "no file or folder .*absent.npz"),
        ("empty", r"empty: no token files \(\.npz, \.npy\)"),
        ("notes.txt", r"notes\.txt: token files end in \.npz or \.npy"),
        ("twice", "would be written to the same name"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "twice").mkdir()
    write(tmp_path / "twice" / "a.npz")
    np.save(tmp_path / "twice" / "a.npy", stool().tokens())
    with pytest.raises(UsageError, match=message):
        export(tmp_path / source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "obj"}, "unknown format 'obj'"),
        ({"format": []}, "nothing to make"),
        ({"format": ["glb", "splat"], "sh_degree": 3}, "splat has no room for harmonics"),
        ({"format": "spz", "ascii": True}, "spz has no text form"),
        ({"sh_degree": 4}, "0, 1, 2 or 3"),
        ({"spz_version": 2}, "only with --format spz"),
        ({"unit": 0.0}, "--unit 0.0"),
        ({"unit": "cm"}, "--unit cm: give a number above 0, or 'cube'"),
        ({"depth": 5}, "octree of depth 4 cannot be cut at --depth 5"),
        ({"up": "x"}, "unknown axis for --up"),
        ({"workers": 0}, "--workers 0"),
        ({"color": "category"}, "no category"),
        ({"opacity": 0}, "opacity 0"),
    ],
)
def test_options_that_cannot_be_met(tmp_path, options, message):
    with pytest.raises(DdimxError, match=message):
        export(stool(), tmp_path, **options)
    assert names(tmp_path) == []


def test_octrees_in_memory_need_a_place_and_a_name_that_is_one(tmp_path):
    with pytest.raises(UsageError, match="give out="):
        export(stool())
    with pytest.raises(UsageError, match="cannot export int; give paths"):
        export(7, tmp_path)
    with pytest.raises(UsageError, match="is not a file name"):
        export(Shape(stool(), "", "../x"), tmp_path)
    with pytest.raises(UsageError, match="two shapes would be written to"):
        export([Shape(stool(), "", "x"), Shape(stool(), "", "x")], tmp_path)
    with pytest.raises(UsageError, match="nothing to export"):
        export([], tmp_path)
    paths = export([stool(), Shape(stool(), "chair", "x")], tmp_path, format="spz")
    assert [p.name for p in paths] == ["000000.spz", "x.spz"]


def test_padded_and_bare_files_give_the_same_splats(tmp_path):
    tokens = stool().tokens()
    np.save(tmp_path / "bare.npy", tokens.astype(np.int64))
    padded = np.concatenate([tokens, np.zeros(50, np.uint8)])
    mask = np.arange(len(padded)) < len(tokens)
    np.savez(tmp_path / "padded.npz", tokens=padded, mask=mask)
    bare, padded = export(tmp_path, format="spz")
    assert bare.read_bytes() == padded.read_bytes()


def test_preview_alone(tmp_path):
    (path,) = export(stool(), tmp_path, format=[], preview=True)
    assert Image.open(io.BytesIO(path.read_bytes())).size == (1152, 384)
