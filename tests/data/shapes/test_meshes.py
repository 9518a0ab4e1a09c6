"""Reading meshes and point clouds in every format, and files that are none."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest

from ddimx.data.shapes import meshes
from ddimx.data.shapes.meshes import read_surface
from ddimx.errors import DdimxError, UsageError
from ddimx.octree.errors import OctreeError
from tests.data.shapes.meshes import BOX, FACES, box, glb, npz, obj, off, ply, stl, tokens_npz

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
        ("a.npz", npz(points=BOX, colors=BOX * 0)),
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
        ("a.vtk", b"0 0 0", "'.vtk' is not among .obj .ply"),
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


def test_an_octree_error_is_an_error_of_a_shape():
    with pytest.raises(OctreeError, match="no faces"):
        meshes.Surface(BOX, np.zeros((0, 3), np.int64)).tree(3)


# --- files that ask for too much ------------------------------------------------------------------


def test_a_million_groups_of_an_obj_cost_nothing(tmp_path):
    lines = ("usemtl m{}\n", "o part{}\n", "g group{}\n", "s {}\n", "mtllib {}\n")
    groups = "".join(line.format(i) for line in lines for i in range(200_000)).encode()
    surface = read_surface(written(tmp_path, "a.obj", obj() + groups))
    assert triangles(surface) == triangles(box())


def test_groups_and_textures_of_an_obj_change_no_triangle(tmp_path):
    lines = obj().decode().splitlines()
    grouped = []
    for i, line in enumerate(lines):
        grouped += [f"usemtl m{i % 3}", f"o part{i % 2}", "vt 0 0", "vn 0 0 1"] if i > 8 else []
        grouped.append(line)
    text = "\r\n".join(grouped).replace("f 1 ", "f 1/1/1 ").replace("f 5 ", "f\t5//1 \\\r\n")
    surface = read_surface(written(tmp_path, "a.obj", text.encode()))
    assert triangles(surface) == triangles(box())


def test_a_face_of_very_many_corners(tmp_path):
    """One that crosses itself four thousand times, and one of more corners than are read."""
    most = 4096
    ring = "".join(f"v {np.cos(i)} {np.sin(i)} 0\n" for i in range(most))
    good = ring + "f " + " ".join(str(i + 1) for i in range(most)) + "\n"
    assert len(read_surface(written(tmp_path, "a.obj", good.encode())).faces) == most - 2
    bad = ring + "f " + "1 2 3 " * 300_000 + "\n"
    with pytest.raises(DdimxError, match="a face of 900000 corners, 131072 are read"):
        read_surface(written(tmp_path, "a.obj", bad.encode()))


def glb_with(change):
    """The scene of two boxes with its JSON changed."""
    data = glb()
    length = int.from_bytes(data[12:16], "little")
    document = json.loads(data[20 : 20 + length])
    change(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    return head + text + rest


def many_nodes(document):
    document["accessors"][0]["count"] = 8
    document["accessors"].append({"componentType": 5126, "type": "VEC3", "count": 1_000_000})
    document["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = 2
    document["nodes"] = [{"mesh": 0}] * 2000
    document["scenes"] = [{"nodes": list(range(2000))}]


HOSTILE_GLB = {
    "zeros without a view": (
        lambda d: d["accessors"].append(
            {"componentType": 5126, "type": "VEC3", "count": 6 * 10**9}
        ),
        r"what its accessors declare unpacks to 68G.*--limit-memory",
    ),
    "no views": (lambda d: d.pop("bufferViews"), "not a readable GLB"),
    "no accessors": (lambda d: d.pop("accessors"), "not a readable GLB"),
    "views of another kind": (lambda d: d.update(bufferViews=5), "not a readable GLB"),
    "a count that is none": (
        lambda d: d["accessors"][0].update(count=True),
        "count is not a whole",
    ),
    "one mesh, many times": (many_nodes, "what its nodes place unpacks to"),
    "deep": (lambda d: d.update(extras=deep(200)), "nested deeper than 64"),
    "a node within itself": (lambda d: d["nodes"][0].update(children=[0]), None),
}


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("name", HOSTILE_GLB)
def test_hostile_glb(tmp_path, name):
    change, words = HOSTILE_GLB[name]
    path = written(tmp_path, "a.glb", glb_with(change))
    if words is None:
        read_surface(path)
    else:
        with pytest.raises(DdimxError, match=words):
            read_surface(path)


@pytest.mark.parametrize("error", [UnboundLocalError("name"), RecursionError("deep"), KeyError(3)])
def test_whatever_a_library_raises_is_a_bad_file(tmp_path, monkeypatch, error):
    """As of a variable that it forgot to set."""
    import plyfile

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(plyfile.PlyData, "read", fails)
    with pytest.raises(DdimxError, match=r"a\.ply: not a readable PLY file"):
        read_surface(written(tmp_path, "a.ply", ply()))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.obj")
    with pytest.raises(DdimxError, match=r"a\.obj: not a plain file"):
        read_surface(tmp_path / "a.obj")


def declared(shape):
    """An array that says this shape and has 24 bytes."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode() + bytes(24)


def bomb(**members):
    """An .npz of members of this many megabytes of zeros, or of these bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            with archive.open(f"{name}.npy", "w") as out:
                if isinstance(content, bytes):
                    out.write(content)
                    continue
                out.write(declared(((content << 20) // 24, 3))[:-24])
                for _ in range(content):
                    out.write(bytes(1 << 20))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", declared((2**60, 3)), r"its header declares \[1152921504606846976, 3\]"),
        ("a.npz", bomb(points=declared((2**57, 3))), "its header declares"),
        ("a.npz", bomb(points=600), "unpacks to .*--limit-memory"),
        ("a.npy", declared("(" + "9" * 5000 + ", 3)"), "not a readable"),
    ],
)
def test_clouds_that_declare_too_much(tmp_path, name, content, words):
    with pytest.raises(DdimxError, match=words):
        read_surface(written(tmp_path, name, content))


def test_members_that_nobody_needs_are_not_unpacked(tmp_path):
    stream = io.BytesIO()
    np.save(stream, BOX)
    content = bomb(points=stream.getvalue(), mask=600, colors=declared((2**60,)))
    surface = read_surface(written(tmp_path, "a.npz", content))
    assert np.array_equal(surface.vertices, BOX)
