"""``glb``: binary glTF 2.0 with KHR_gaussian_splatting (release candidate of 2026).

Everything is linear here, unlike in PLY: standard deviations, opacity; rotations are (x, y, z, w).
The harmonic of degree 0 stands for display values, "srgb_rec709_display"; COLOR_0, for programs
that show points only, is linear light as glTF demands, and of 8 bits, for not all of them read
more. y is up, right-handed, by specification.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DdimxError
from ..cloud import GaussianCloud
from .options import EncodeOptions
from .values import byte, harmonic0, linear

EXTENSION = "KHR_gaussian_splatting"
FLOAT, UBYTE = 5126, 5121  # glTF's componentType
POINTS, ARRAY_BUFFER = 0, 34962  # glTF's mode and target
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
LIMIT = 2**32 - 1


def encode(cloud: GaussianCloud, options: EncodeOptions) -> bytes:
    """Return the file's bytes.

    Raises:
        DdimxError: more than the four gigabytes that a .glb can hold.
    """
    light = np.column_stack([linear(cloud.colors), cloud.alphas])
    columns: dict[str, npt.NDArray[Any]] = {
        "POSITION": cloud.positions.astype("<f4"),
        "COLOR_0": byte(light * 255),
        f"{EXTENSION}:ROTATION": cloud.quaternions[:, [1, 2, 3, 0]].astype("<f4"),
        f"{EXTENSION}:SCALE": cloud.sigmas.astype("<f4"),
        f"{EXTENSION}:OPACITY": cloud.alphas.astype("<f4"),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": harmonic0(cloud.colors).astype("<f4"),
    }
    for degree in range(1, (options.sh_degree or 0) + 1):
        for i in range(2 * degree + 1):
            zeros = np.zeros((len(cloud), 3), dtype="<f4")
            columns[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}"] = zeros
    binary = b"".join(column.tobytes() for column in columns.values())
    text = json.dumps(_document(columns, len(binary)), separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    if total > LIMIT:
        raise DdimxError(f"a .glb holds at most 4 GiB, this would be {total / 2**30:.1f}")
    head = struct.pack("<4s2I", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
    return b"".join([head, text, struct.pack("<I4s", len(binary), b"BIN\0"), binary])


def _document(columns: dict[str, npt.NDArray[Any]], size: int) -> dict[str, Any]:
    accessors, views, start = [], [], 0
    for i, (name, column) in enumerate(columns.items()):
        views.append(
            {"buffer": 0, "byteOffset": start, "byteLength": column.nbytes, "target": ARRAY_BUFFER}
        )
        start += column.nbytes
        width = column.shape[1] if column.ndim == 2 else 1
        accessor: dict[str, Any] = {
            "componentType": UBYTE if column.dtype == np.uint8 else FLOAT,
            "count": len(column),
            "type": KINDS[width],
        }
        if column.dtype == np.uint8:
            accessor["normalized"] = True
        if name == "POSITION":
            accessor |= {"min": column.min(axis=0).tolist(), "max": column.max(axis=0).tolist()}
        accessors.append({"bufferView": i, **accessor})
    splatting = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    primitive = {
        "attributes": {name: i for i, name in enumerate(columns)},
        "mode": POINTS,
        "extensions": {EXTENSION: splatting},
    }
    return {
        "asset": {"version": "2.0", "generator": "ddimx"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": size}],
    }
