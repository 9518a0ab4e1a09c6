"""OFF, the Object File Format of Geomview, as text: vertices and polygons.

What a vertex or a polygon has beside its numbers, colors and normals, counts for nothing here. The
format: the Geomview manual, "OFF Files".
"""

from __future__ import annotations

import re
from itertools import chain

import numpy as np

from ...untrusted.text import unix_text
from .polygons import Array, Index, triangles_of

_COMMENT = re.compile(rb"#[^\n]*")
# Prefixes say that texture coordinates, colors or normals are there; ModelNet's files have the
# first number right behind the word.
_HEAD = re.compile(rb"\s*(?:ST)?C?N?(4?)(n?)OFF(?=[\s\d])[ \t]*(BINARY\b)?")


def read_off(content: bytes) -> tuple[Array, Index]:
    """Return vertices, float64 [V, 3], and faces as triangles, int64 [F, 3].

    Raises:
        ValueError: not an OFF of three dimensions, in text, or cut off.
    """
    text = _COMMENT.sub(b"", unix_text(content))
    head = _HEAD.match(text)
    if head is None:
        raise ValueError("it does not begin with OFF")
    if head[1] or head[2]:
        raise ValueError("its vertices have more than three dimensions")
    if head[3]:
        raise ValueError("it is a binary OFF, which is not read; save it as text")
    lines = [words for line in text[head.end() :].split(b"\n") if (words := line.split())]
    try:
        vertex_count, face_count = (int(word) for word in lines[0][:2])
    except (IndexError, ValueError):
        raise ValueError(
            "its first line does not say how many vertices and faces there are"
        ) from None
    rows = lines[1 : 1 + max(0, vertex_count)]
    faces = lines[1 + len(rows) :][: max(0, face_count)]
    if len(rows) != vertex_count or len(faces) != face_count:
        raise ValueError(
            f"it is cut off: {vertex_count} vertices and {face_count} faces are declared, "
            f"{len(lines) - 1} lines follow"
        )
    wrong = next((row for row in rows if len(row) < 3), None)
    if wrong is not None:
        raise ValueError(f"a vertex of {len(wrong)} numbers")
    coordinates = chain.from_iterable(row[:3] for row in rows)
    points = np.fromiter(map(float, coordinates), np.float64).reshape(-1, 3)
    counts = np.array([int(face[0]) for face in faces], np.int64)
    if any(not 0 <= count < len(face) for count, face in zip(counts, faces, strict=True)):
        raise ValueError("a face with fewer vertices than it declares")
    names = chain.from_iterable(
        face[1 : 1 + count] for count, face in zip(counts, faces, strict=True)
    )
    corners = np.fromiter(map(int, names), np.int64)
    wrong_index = (corners < 0) | (corners >= len(points))
    if wrong_index.any():
        raise ValueError(f"a face names vertex {corners[wrong_index][0]} of {len(points)}")
    return points, triangles_of(points, corners, counts)
