"""Readers of the formats, written from their specifications and not from the writers.

Each returns the columns of a cloud as float64: positions, sigmas, quaternions (w, x, y, z),
colors, alphas; and "rest" where the file has higher harmonics.
"""

import gzip
import json
import struct

import numpy as np

SH0 = 1 / (2 * np.sqrt(np.pi))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def read_3dgs(data):
    header, _, body = data.partition(b"end_header\n")
    lines = header.decode("ascii").split("\n")
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert lines[2].startswith("element vertex ")
    count = int(lines[2].split()[2])
    names = [line.removeprefix("property float ") for line in lines[3:-1]]
    table = np.frombuffer(body, dtype=[(name, "<f4") for name in names])
    assert len(table) == count

    def columns(*names):
        return np.stack([table[name].astype(np.float64) for name in names], axis=1)

    rest = [name for name in names if name.startswith("f_rest_")]
    return {
        "positions": columns("x", "y", "z"),
        "sigmas": np.exp(columns("scale_0", "scale_1", "scale_2")),
        "quaternions": columns("rot_0", "rot_1", "rot_2", "rot_3"),
        "colors": 0.5 + SH0 * columns("f_dc_0", "f_dc_1", "f_dc_2"),
        "alphas": sigmoid(columns("opacity")[:, 0]),
        "normals": columns("nx", "ny", "nz"),
        "rest": columns(*rest) if rest else np.zeros((count, 0)),
    }


def read_splat(data):
    assert len(data) % 32 == 0
    rows = [struct.unpack("<6f8B", data[i : i + 32]) for i in range(0, len(data), 32)]
    table = np.array(rows, dtype=np.float64)
    return {
        "positions": table[:, :3],
        "sigmas": table[:, 3:6],
        "quaternions": (table[:, 10:] - 128) / 128,
        "colors": table[:, 6:9] / 255,
        "alphas": table[:, 9] / 255,
    }


def read_spz(data):
    raw = gzip.decompress(data)
    magic, version, count, degree, bits, flags, _ = struct.unpack_from("<3I4B", raw)
    assert (magic, flags) == (0x5053474E, 0)
    assert version in (2, 3)
    take = iter_bytes(raw[16:])
    signed = [int.from_bytes(take(3), "little", signed=True) for _ in range(3 * count)]
    alphas = np.frombuffer(take(count), np.uint8) / 255
    dc = (np.frombuffer(take(3 * count), np.uint8) / 255 - 0.5) / 0.15
    logs = np.frombuffer(take(3 * count), np.uint8) / 16 - 10
    if version == 2:
        xyz = np.frombuffer(take(3 * count), np.uint8).reshape(count, 3) / 127.5 - 1
        w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1)))
        quaternions = np.column_stack([w, xyz])
    else:
        quaternions = [unpacked(*struct.unpack("<I", take(4))) for _ in range(count)]
    coefficients = {0: 0, 1: 3, 2: 8, 3: 15}[degree]
    rest = (np.frombuffer(take(3 * coefficients * count), np.uint8) - 128.0) / 128
    assert not take(1)
    return {
        "positions": np.array(signed).reshape(count, 3) / 2.0**bits,
        "sigmas": np.exp(logs.reshape(count, 3)),
        "quaternions": np.array(quaternions),
        "colors": 0.5 + SH0 * dc.reshape(count, 3),
        "alphas": alphas,
        "rest": rest.reshape(count, -1),
        "bits": bits,
    }


def iter_bytes(data):
    at = 0

    def take(count):
        nonlocal at
        at += count
        return data[at - count : at]

    return take


def unpacked(word):
    """The three smallest parts, from the last (lowest bits) to the first; returns (w, x, y, z)."""
    largest = word >> 30
    parts = [0.0] * 4
    for i in reversed([i for i in range(4) if i != largest]):
        magnitude = (word & 511) / 511 * np.sqrt(0.5)
        parts[i] = -magnitude if word >> 9 & 1 else magnitude
        word >>= 10
    parts[largest] = np.sqrt(1 - sum(p * p for p in parts))
    x, y, z, w = parts
    return [w, x, y, z]


def read_glb(data):
    magic, version, total = struct.unpack_from("<4s2I", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert (kind, size % 4) == (b"JSON", 0)
    document = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert (kind, 28 + size + binary_size) == (b"BIN\0", total)
    binary = data[28 + size :]
    assert document["buffers"][0]["byteLength"] <= len(binary)
    (primitive,) = document["meshes"][0]["primitives"]
    values = {
        name: read_accessor(document, document["accessors"][i], binary)
        for name, i in primitive["attributes"].items()
    }
    own = "KHR_gaussian_splatting:"
    rest = sorted(name for name in values if "SH_DEGREE" in name and "DEGREE_0" not in name)
    return {
        "document": document,
        "primitive": primitive,
        "positions": values["POSITION"],
        "sigmas": values[f"{own}SCALE"],
        "quaternions": values[f"{own}ROTATION"][:, [3, 0, 1, 2]],
        "colors": 0.5 + SH0 * values[f"{own}SH_DEGREE_0_COEF_0"],
        "alphas": values[f"{own}OPACITY"][:, 0],
        "points": values["COLOR_0"],
        "rest": {name: values[name] for name in rest},
    }


def read_accessor(document, accessor, binary):
    view = document["bufferViews"][accessor["bufferView"]]
    kind = {5126: "<f4", 5123: "<u2", 5121: "u1"}[accessor["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    assert start % 4 == 0
    flat = np.frombuffer(binary, kind, accessor["count"] * width, start)
    assert flat.nbytes <= view["byteLength"]
    scale = np.iinfo(kind).max if accessor.get("normalized") else 1
    return flat.reshape(-1, width).astype(np.float64) / scale


def rotation_angles(a, b):
    """Angles in radians between rotations [N, 4], whatever the quaternions' signs."""
    a, b = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in (a, b))
    return 2 * np.arccos(np.minimum(np.abs((a * b).sum(axis=1)), 1))
