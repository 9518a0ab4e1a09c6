"""Reading meshes and point clouds in every format, and files that are none."""

import sys

import numpy as np
import pytest

from ddimx.data import meshes
from ddimx.data.meshes import read_surface
from ddimx.errors import DdimxError, UsageError
from ddimx.octree.errors import OctreeError
from tests.data.meshes import BOX, FACES, glb, npz, obj, off, ply, stl, tokens_npz

TEXTURED = "mtllib missing.mtl\nusemtl wood\nvt 0 0\nvn 0 1 0\n"


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def triangles(surface):
    """The triangles of a surface as a set, whatever the order of faces and vertices."""
    assert surface.faces is not None
    corners = surface.vertices[surface.faces].round(5)
    return sorted(sorted(map(tuple, t)) for t in corners.tolist())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.obj", obj()),
        ("A.OBJ", obj(head=TEXTURED)),
        ("a.ply", ply()),
        ("a.stl", stl()),
        ("a.off", off()),
    ],
)
def test_every_format_gives_the_same_triangles(tmp_path, name, content):
    expected = sorted(sorted(map(tuple, t)) for t in BOX[FACES].tolist())
    assert triangles(read_surface(written(tmp_path, name, content))) == expected


def test_polygons_and_groups_of_an_obj(tmp_path):
    """Quadrilaterals become triangles, negative indices count back, groups are put together."""
    text = "o one\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\no two\nv 5 5 5\nf -1 1 2\nl 1 2\n"
    surface = read_surface(written(tmp_path, "a.obj", text.encode()))
    corners = surface.vertices[surface.faces]
    area = np.linalg.norm(np.cross(*(corners[:, i] - corners[:, 0] for i in (1, 2))), axis=1) / 2
    assert len(corners) == 3
    assert sorted(area)[:2] == pytest.approx([0.5, 0.5])
    assert corners.max() == 5


def test_a_missing_texture_does_no_harm(tmp_path):
    surface = read_surface(written(tmp_path, "a.obj", obj(head=TEXTURED)))
    assert len(surface.faces) == 12


def test_a_scene_is_put_together_with_its_transforms(tmp_path):
    surface = read_surface(written(tmp_path, "a.glb", glb()))
    assert len(surface.faces) == 24
    assert surface.vertices.min(0).tolist() == [0, 0, 0]
    assert surface.vertices.max(0).tolist() == [8, 12, 4]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", ply(faces=False)),
        ("a.npz", npz(points=BOX, colours=BOX * 0)),
        ("a.npz", npz(pc=BOX.astype(np.float32), label=np.int64(3))),
        ("a.npy", None),
    ],
)
def test_point_clouds(tmp_path, name, content):
    if content is None:
        np.save(tmp_path / name, BOX)
    else:
        written(tmp_path, name, content)
    surface = read_surface(tmp_path / name)
    assert surface.faces is None
    assert surface.vertices.tolist() == BOX.tolist()
    assert surface.tree(2).counts[-1] == 8  # the corners of the box


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.obj", b"This is a letter.\nIt holds no vertices.\n", "a.obj: "),
        ("a.obj", b"", "a.obj: "),
        ("a.obj", b"\x89PNG\r\n\x1a\n" + bytes(200), "a.obj: "),
        ("a.obj", b"v 0 0 0\nv 1 0 zero\nv 0 1 0\nf 1 2 3\n", "a.obj: not a readable OBJ"),
        ("a.stl", b"solid nothing", "a.stl: "),
        ("a.stl", stl()[:300], "a.stl: "),
        ("a.ply", ply()[:-20], "a.ply: "),
        ("a.ply", b"ply\nformat ascii 1.0\nend_header\n", "a.ply: "),
        ("a.glb", glb()[:100], "a.glb: not a readable GLB"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n", "a.off: "),
        ("a.npz", b"PK\x03\x04 cut off", "a.npz: not a readable"),
        ("a.npz", npz(a=BOX, b=BOX), r"'points'; it holds a float64 \(8, 3\), b"),
        ("a.npz", npz(points=np.array(["x"])), "no points"),
        ("a.npz", tokens_npz(), "an octree already"),
        ("a.npy", b"not numpy", "a.npy: not a readable"),
        ("a.xyz", b"0 0 0", "'.xyz' is not among .obj .ply"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, words):
    with pytest.raises(DdimxError, match=words) as caught:
        read_surface(written(tmp_path, name, content))
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (obj(faces=[]), "a.obj: the mesh has no faces"),
        (obj(vertices=BOX * np.nan), "NaN or infinite"),
        (obj(vertices=BOX * 0 + 3), "no extent"),
    ],
)
def test_meshes_that_are_no_shapes(tmp_path, content, words):
    path = written(tmp_path, "a.obj", content)
    with pytest.raises(DdimxError, match=words):
        read_surface(path).tree(3)


def test_a_missing_file(tmp_path):
    with pytest.raises(DdimxError, match=r"cannot read .*a.obj: No such file"):
        read_surface(tmp_path / "a.obj")


def test_without_trimesh_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UsageError, match=r'pip install "ddimx\[3d\]"'):
        read_surface(written(tmp_path, "a.obj", obj()))
    assert read_surface(written(tmp_path, "a.npz", npz(points=BOX))).faces is None  # not needed


def test_the_parsers_log_stays_quiet_and_is_left_as_it_was(tmp_path, caplog):
    level = meshes.logging.getLogger("trimesh").level
    read_surface(written(tmp_path, "a.obj", obj(head=TEXTURED)))
    assert caplog.records == []
    assert meshes.logging.getLogger("trimesh").level == level


def test_an_octree_error_is_an_error_of_a_shape():
    with pytest.raises(OctreeError, match="no faces"):
        meshes.Surface(BOX, np.zeros((0, 3), np.int64)).tree(3)
