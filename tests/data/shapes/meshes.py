"""Small meshes as files: a box in every format, and libraries of furniture."""

import base64
import io
import json
import struct
import zipfile

import numpy as np

from ddimx.data.shapes.meshes import Surface
from ddimx.errors import DdimxError

BOX = np.array([[x, y, z] for x in (0, 4) for y in (0, 1) for z in (0, 2)], dtype=np.float64)
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))])


def box(scale=1.0):
    """The box as a surface, stretched upwards."""
    return Surface(BOX * [1, scale, 1], FACES)


def hidden():
    """A box within a box."""
    inner = (BOX - BOX.mean(0)) * 0.5 + BOX.mean(0)
    return Surface(np.concatenate([BOX, inner]), np.concatenate([FACES, FACES + 8]))


def broken():
    raise DdimxError("b.obj: not a readable OBJ file")


def large():
    raise MemoryError


def slow():
    while True:
        pass


def obj(vertices=BOX, faces=FACES, head=""):
    lines = [f"v {' '.join(map(repr, map(float, v)))}" for v in vertices]
    lines += [f"f {' '.join(str(i + 1) for i in face)}" for face in faces]
    return (head + "\n".join(lines) + "\n").encode()


def off():
    lines = ["OFF", f"{len(BOX)} {len(FACES)} 0", *(" ".join(map(str, v)) for v in BOX)]
    return "\n".join([*lines, *(f"3 {a} {b} {c}" for a, b, c in FACES), ""]).encode()


def stl():
    records = b"".join(
        struct.pack("<12fH", 0, 0, 0, *BOX[face].astype(np.float32).ravel(), 0) for face in FACES
    )
    return b"\0" * 80 + struct.pack("<I", len(FACES)) + records


def ply(faces=True, form="little"):
    """Binary, with colors and normals that nobody needs; without faces a cloud of points."""
    order = "<" if form == "little" else ">"
    head = f"ply\nformat binary_{form}_endian 1.0\nelement vertex {len(BOX)}\n"
    head += "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    head += "property uchar red\n"
    body = b"".join(struct.pack(f"{order}6fB", *v, 0, 1, 0, 200) for v in BOX)
    if faces:
        head += f"element face {len(FACES)}\nproperty list uchar int vertex_indices\n"
        body += b"".join(struct.pack(f"{order}B3i", 3, *face) for face in FACES)
    return (head + "end_header\n").encode() + body


def scene():
    """A scene of two boxes: one as it is, one twice as large and 10 higher; and a texture."""
    points, indices = BOX.astype("<f4").tobytes(), FACES.astype("<u2").tobytes()
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [{"mesh": 0}, {"mesh": 0, "scale": [2, 2, 2], "translation": [0, 10, 0]}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]},
        ],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"uri": "missing.png"}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(BOX), "type": "VEC3"}
            | {"min": BOX.min(0).tolist(), "max": BOX.max(0).tolist()},
            {"bufferView": 1, "componentType": 5123, "count": FACES.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(points)},
            {"buffer": 0, "byteOffset": len(points), "byteLength": len(indices)},
        ],
        "buffers": [{"byteLength": len(points) + len(indices)}],
    }
    return document, points + indices


def gltf(uri=None):
    """The scene as text, with its data in a file or within."""
    document, binary = scene()
    data = base64.b64encode(binary).decode()
    document["buffers"][0]["uri"] = uri or f"data:application/octet-stream;base64,{data}"
    return json.dumps(document).encode()


def glb():
    """The scene in one file."""
    document, binary = scene()
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def tokens_npz():
    return npz(tokens=np.array([255] + [1] * 8, np.uint8))


def library(path, items, *, key="Test#Library", licence="Creative Commons Attribution 3.0 license"):
    """Write a furniture library; an item is a dictionary of its keys, 'obj' and 'page' besides."""
    lines = [f"id={key}", "name=Test library", f"license={licence}", "! a comment", ""]
    with zipfile.ZipFile(path, "w") as archive:
        for number, item in enumerate(items, 1):
            name = item["id"].partition("#")[2]
            values = {"width": "40", "depth": "20", "height": "10", "creator": "Ada"} | item
            values["model"] = f"/models/{name}/{name}.obj"
            archive.writestr(values["model"][1:], values.pop("obj", obj()))
            if "page" in values:
                archive.writestr(f"models/{name}/BLENDSWAP_LICENSE.txt", values.pop("page"))
            lines += [f"{word}#{number}={value}" for word, value in values.items()]
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines).encode("latin-1"))
    return path
