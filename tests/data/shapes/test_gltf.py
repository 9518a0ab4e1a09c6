"""glTF as its specification has it: accessors, the scene, files beside it, what is compressed."""

import base64
import json
import struct

import numpy as np
import pytest

from ddimx.data.shapes.meshes import read_surface, stamp_of
from ddimx.errors import DdimxError
from tests.data.shapes.meshes import BOX, FACES

CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


class Writer:
    """A document and its one buffer, built up array by array."""

    def __init__(self):
        self.binary = b""
        self.document = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "accessors": [],
            "bufferViews": [],
        }

    def view(self, array, **more):
        self.binary += bytes(-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": array.nbytes}
        self.document["bufferViews"].append(view | more)
        self.binary += array.tobytes()
        return len(self.document["bufferViews"]) - 1

    def accessor(self, array, view=None, **more):
        rows = array.reshape(len(array), -1)
        about = {"componentType": CODES[array.dtype.str[1:]], "count": len(rows)}
        about |= {"type": KINDS[rows.shape[1]]}
        about |= {"bufferView": self.view(array)} if view is None else view
        self.document["accessors"].append(about | more)
        return len(self.document["accessors"]) - 1

    def mesh(self, points, faces=None, **more):
        primitive = {"attributes": {"POSITION": points}} | more
        primitive |= {} if faces is None else {"indices": faces}
        self.document.setdefault("meshes", []).append({"primitives": [primitive]})
        return self

    def glb(self):
        buffers = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.document | {"buffers": buffers}).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<II", len(self.binary), 0x004E4942) + self.binary
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def gltf(self, uri):
        buffers = [{"byteLength": len(self.binary), "uri": uri}]
        return json.dumps(self.document | {"buffers": buffers}).encode()


def box(writer=None, **more):
    """The box as 32-bit floats with 16-bit indices."""
    writer = writer or Writer()
    points = writer.accessor(BOX.astype("<f4"))
    return writer.mesh(points, writer.accessor(FACES.ravel().astype("<u2")), **more)


def read(tmp_path, writer):
    (tmp_path / "a.glb").write_bytes(writer.glb())
    return read_surface(tmp_path / "a.glb")


def triangles(surface):
    corners = surface.vertices[surface.faces].round(5)
    return sorted(sorted(map(tuple, t)) for t in corners.tolist())


def expected(points):
    return sorted(sorted(map(tuple, t)) for t in points[FACES].round(5).tolist())


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("normalized", [True, False])
def test_integers_are_divided_where_they_are_normalized(tmp_path, kind, normalized):
    """By 127, 255, 32767 or 65535: section 3.6.2; rows stand 4 or 8 bytes apart."""
    most = np.iinfo(kind).max
    numbers = np.round(BOX / 4 * most).astype(f"<{kind}")
    rows = np.zeros((len(BOX), 4), f"<{kind}")
    rows[:, :3] = numbers
    writer = Writer()
    view = writer.view(rows, byteStride=rows.itemsize * 4)
    points = writer.accessor(numbers, {"bufferView": view}, normalized=normalized)
    writer.mesh(points, writer.accessor(FACES.ravel().astype("<u1")))
    writer.document["extensionsRequired"] = ["KHR_mesh_quantization"]
    scale = 1 / most if normalized else 1
    assert triangles(read(tmp_path, writer)) == expected(numbers.astype(float) * scale)


def test_the_smallest_signed_integer_is_minus_one(tmp_path):
    writer = Writer()
    numbers = np.array([[-128, -127, 0], [127, 0, 0], [0, 127, 0]], "<i1")
    view = writer.view(np.pad(numbers, ((0, 0), (0, 1))), byteStride=4)
    writer.mesh(writer.accessor(numbers, {"bufferView": view}, normalized=True))
    assert read(tmp_path, writer).vertices[0].tolist() == [-1, -1, 0]


def test_sparse_accessors(tmp_path):
    """One changes two corners of a box, another one is made of zeros and three corners."""
    writer = Writer()
    places, values = np.array([1, 7], "<u1"), np.array([[9, 9, 9], [5, 6, 7]], "<f4")
    sparse = {"count": 2, "indices": {"bufferView": writer.view(places), "componentType": 5121}}
    sparse["values"] = {"bufferView": writer.view(values)}
    points = writer.accessor(BOX.astype("<f4"), sparse=sparse)
    writer.mesh(points, writer.accessor(FACES.ravel().astype("<u4")))
    other = Writer()
    moved = BOX.copy()
    moved[[1, 7]] = values
    assert triangles(read(tmp_path, writer)) == expected(moved)
    sparse = {"count": 2, "indices": {"bufferView": other.view(places), "componentType": 5121}}
    sparse["values"] = {"bufferView": other.view(values)}
    points = other.accessor(BOX.astype("<f4"), {"sparse": sparse})
    other.mesh(points, other.accessor(FACES.ravel().astype("<u4")))
    assert triangles(read(tmp_path, other)) == expected(
        np.where([[i in (1, 7)] for i in range(8)], moved, 0)
    )
    sparse["count"] = 3
    with pytest.raises(DdimxError, match="reaches beyond its buffer"):
        read(tmp_path, other)


def test_the_scene_places_its_nodes(tmp_path):
    """By matrices, written column by column, or by scale, then rotation, then translation."""
    writer = box()
    half = np.sqrt(0.5)
    turned = {"translation": [1, 2, 3], "rotation": [0, 0, half, half], "scale": [2, 3, 4]}
    shear = [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]
    writer.document["nodes"] = [
        {"mesh": 0, **turned, "children": [1]},
        {"mesh": 0, "matrix": shear},
    ]
    writer.document["nodes"].append({"mesh": 0})  # of no scene
    # A quarter turn about z takes x to y and y to -x.
    outer = lambda p: np.column_stack([-3 * p[:, 1] + 1, 2 * p[:, 0] + 2, 4 * p[:, 2] + 3])  # noqa: E731
    inner = np.column_stack([BOX[:, 0] + BOX[:, 1] + 5, BOX[:, 1] + 6, BOX[:, 2] + 7])
    both = sorted(expected(outer(BOX)) + expected(outer(inner)))
    assert triangles(read(tmp_path, writer)) == both


def test_the_scene_to_be_shown_or_all_roots(tmp_path):
    writer = box()
    writer.document["nodes"] = [{"mesh": 0}, {"mesh": 0, "translation": [9, 0, 0]}]
    writer.document |= {"scenes": [{"nodes": [0]}, {"nodes": [1]}], "scene": 1}
    assert triangles(read(tmp_path, writer)) == expected(BOX + np.array([9, 0, 0]))
    del writer.document["scenes"], writer.document["scene"]
    assert len(read(tmp_path, writer).faces) == 24


def test_instances(tmp_path):
    writer = box()
    moves = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0]], "<f4")
    scales = np.array([[1, 1, 1], [2, 2, 2], [1, 1, 3]], "<f4")
    numbers = {"TRANSLATION": writer.accessor(moves), "SCALE": writer.accessor(scales)}
    extension = {"EXT_mesh_gpu_instancing": {"attributes": numbers}}
    writer.document["nodes"] = [{"mesh": 0, "scale": [2, 1, 1], "extensions": extension}]
    writer.document["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    placed = [(BOX * s + m) * [2, 1, 1] for m, s in zip(moves, scales, strict=True)]
    assert triangles(read(tmp_path, writer)) == sorted(t for p in placed for t in expected(p))


@pytest.mark.parametrize(
    ("mode", "corners", "faces"),
    [
        (4, [0, 1, 2, 2, 1, 3], [(0, 1, 2), (1, 2, 3)]),
        (5, [0, 1, 2, 3], [(0, 1, 2), (1, 2, 3)]),
        (6, [0, 1, 3, 2], [(0, 1, 3), (0, 2, 3)]),
        (5, None, [(i, i + 1, i + 2) for i in range(6)]),
    ],
)
def test_triangles_strips_and_fans(tmp_path, mode, corners, faces):
    writer = Writer()
    points = writer.accessor(BOX.astype("<f4"))
    indices = None if corners is None else writer.accessor(np.array(corners, "<u4"))
    surface = read(tmp_path, writer.mesh(points, indices, mode=mode))
    assert sorted(tuple(sorted(face)) for face in surface.faces.tolist()) == faces


def test_lines_and_points_beside_triangles_do_not_count(tmp_path):
    writer = box()
    for mode in (0, 1, 3):
        writer.mesh(0, mode=mode)
    writer.document["nodes"] = [{"mesh": i} for i in range(4)]
    writer.document["scenes"] = [{"nodes": [0, 1, 2, 3]}]
    assert triangles(read(tmp_path, writer)) == expected(BOX)
    writer.document["scenes"] = [{"nodes": [1, 2]}]
    with pytest.raises(DdimxError, match="the mesh has no faces"):
        read(tmp_path, writer)


# --- files beside it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "name"),
    [("a.bin", "a.bin"), ("my%20files/%C3%BC.bin", "my files/ü.bin"), ("./a b.bin", "a b.bin")],
)
def test_a_gltf_with_its_file(tmp_path, uri, name):
    writer = box()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(writer.binary + b"more")
    (tmp_path / "a.gltf").write_bytes(b"\xef\xbb\xbf" + writer.gltf(uri))
    assert triangles(read_surface(tmp_path / "a.gltf")) == expected(BOX)
    stamp, size = stamp_of(tmp_path / "a.gltf")
    assert size == (tmp_path / "a.gltf").stat().st_size + len(writer.binary) + 4
    (tmp_path / name).write_bytes(writer.binary)
    assert stamp_of(tmp_path / "a.gltf")[0] != stamp


def test_a_gltf_with_its_data_within(tmp_path):
    writer = box()
    data = base64.b64encode(writer.binary).decode()
    for head in ("data:application/octet-stream", "data:application/gltf-buffer", "data:"):
        (tmp_path / "a.gltf").write_bytes(writer.gltf(f"{head};base64,{data}"))
        assert triangles(read_surface(tmp_path / "a.gltf")) == expected(BOX)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("../a.bin", "is refused: it leads upwards"),
        ("%2e%2e/a.bin", "is refused: it leads upwards"),
        ("..%5Ca.bin", "is refused: it leads upwards"),
        ("/etc/passwd", "is refused: it is not relative"),
        ("%2Fetc%2Fpasswd", "is refused: it is not relative"),
        ("file:///etc/passwd", "is not a file beside it"),
        ("https://example.org/a.bin", "is not a file beside it"),
        ("C:a.bin", "is not a file beside it|is refused"),
        ("a%00.bin", "is refused: it holds a NUL"),
        ("link/a.bin", "is refused: it leads out of .* by a symbolic link"),
        ("link.bin", "is refused: it leads out of .* by a symbolic link"),
        ("%FF.bin", "not a readable GLTF"),
        ("none.bin", "its buffer 'none.bin' is not there"),
        ("pipe.bin", "its buffer 'pipe.bin' is not there"),
        ("short.bin", "its buffer 'short.bin' is shorter than the"),
        ("data:text/plain,abc", "is not in base64"),
        ("data:;base64,a", "is damaged"),
        (5, "uri is not a text"),
    ],
)
def test_a_gltf_reads_nothing_outside_its_folder(tmp_path, uri, words):
    import os

    writer = box()
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "a.bin").write_bytes(writer.binary)
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.bin").symlink_to(tmp_path / "a.bin")
    (folder / "short.bin").write_bytes(writer.binary[:-1])
    os.mkfifo(folder / "pipe.bin")
    (folder / "a.gltf").write_bytes(writer.gltf(uri))
    with pytest.raises(DdimxError, match=words):
        read_surface(folder / "a.gltf")
    assert stamp_of(folder / "a.gltf")[1] >= (folder / "a.gltf").stat().st_size


# --- what is not read -----------------------------------------------------------------------------


def draco(writer):
    primitive = writer.document["meshes"][0]["primitives"][0]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}


def meshopt(writer, name="EXT_meshopt_compression"):
    for view in writer.document["bufferViews"]:
        view["extensions"] = {name: {"buffer": 0, "byteLength": 4, "count": 1}}


def test_compressed_meshes_are_refused_by_name(tmp_path):
    for change, words in (
        (draco, r"compressed by Draco \(KHR_draco_mesh_compression\).*Blender"),
        (meshopt, r"compressed by meshopt \(EXT_meshopt_compression\).*gltfpack"),
    ):
        writer = box()
        change(writer)
        assert triangles(read(tmp_path, writer)) == expected(BOX)  # what stands there for others
        writer.document["extensionsRequired"] = [words.partition("(")[2].partition("\\")[0]]
        with pytest.raises(DdimxError, match=words):
            read(tmp_path, writer)


def test_compressed_meshes_without_another_form_are_refused(tmp_path):
    writer = box()
    draco(writer)
    for accessor in writer.document["accessors"]:
        del accessor["bufferView"]
    with pytest.raises(DdimxError, match="compressed by Draco"):
        read(tmp_path, writer)
    writer = box()
    meshopt(writer)
    for view in writer.document["bufferViews"]:
        view["buffer"] = 1
    content = json.loads(writer.gltf("a.bin"))
    content["buffers"].append({"byteLength": 1000})  # which only the extension fills
    (tmp_path / "a.bin").write_bytes(writer.binary)
    (tmp_path / "a.gltf").write_bytes(json.dumps(content).encode())
    with pytest.raises(DdimxError, match="compressed by meshopt"):
        read_surface(tmp_path / "a.gltf")


def test_extensions_that_a_file_requires(tmp_path):
    writer = box()
    names = ["KHR_materials_unlit", "KHR_texture_transform", "EXT_texture_webp"]
    writer.document["extensionsRequired"] = names
    assert triangles(read(tmp_path, writer)) == expected(BOX)
    writer.document["extensionsRequired"] = [*names, "ACME_curved_surfaces"]
    with pytest.raises(DdimxError, match="requires the extension 'ACME_curved_surfaces'"):
        read(tmp_path, writer)


WRONG = {
    "an index beyond": (lambda d: d["accessors"][0].update(count=7), "names vertex 7 of 7"),
    "an accessor beyond": (lambda d: d["accessors"][0].update(count=99), "beyond its buffer"),
    "a view beyond": (lambda d: d["bufferViews"][1].update(byteOffset=9999), "beyond its buffer"),
    "no such view": (lambda d: d["accessors"][0].update(bufferView=9), "no bufferView 9"),
    "no such accessor": (
        lambda d: d["meshes"][0]["primitives"][0].update(indices=9),
        "no accessor 9",
    ),
    "no such mesh": (lambda d: d["nodes"][0].update(mesh=-1), "no mesh -1"),
    "no such node": (lambda d: d["scenes"][0].update(nodes=[5]), "no node 5"),
    "another type": (lambda d: d["accessors"][0].update(type="VEC2"), "'VEC2' where VEC3 is due"),
    "indices of floats": (
        lambda d: d["meshes"][0]["primitives"][0].update(indices=0),
        "'VEC3' where SCALAR is due",
    ),
    "no triangles": (lambda d: d["accessors"][1].update(count=35), "35 corners together"),
    "a rotation of three": (lambda d: d["nodes"][0].update(rotation=[0, 0, 1]), "a list of 4"),
    "a matrix of text": (lambda d: d["nodes"][0].update(matrix=["1"] * 16), "a list of 16"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(tmp_path, name):
    change, words = WRONG[name]
    writer = box()
    change(writer.document)
    with pytest.raises(DdimxError, match=words):
        read(tmp_path, writer)


def test_many_instances_are_bounded(tmp_path):
    """A file of a few thousand bytes that places a million boxes."""
    writer = box()
    numbers = writer.accessor(np.zeros((4, 3), "<f4"), {"sparse": {}})
    writer.document["accessors"][numbers] |= {"count": 1_000_000}
    del writer.document["accessors"][numbers]["sparse"]
    extension = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": numbers}}}
    writer.document["nodes"][0]["extensions"] = extension
    with pytest.raises(DdimxError, match=r"what its nodes place unpacks to .*--limit-memory"):
        read(tmp_path, writer)


def test_a_glb_that_is_cut_off(tmp_path):
    (tmp_path / "a.glb").write_bytes(box().glb()[:-20])
    with pytest.raises(DdimxError, match=r"it is cut off: [0-9]+ bytes are declared"):
        read_surface(tmp_path / "a.glb")
