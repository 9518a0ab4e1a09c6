"""Stanford PLY through plyfile: meshes of triangles or polygons, and clouds of points.

plyfile believes the header's numbers and is strict about its form, so the header is read here
first, held against the bytes that follow, and handed on plain. What stands behind the last element
that is needed is not read. The format: G. Turk, "The PLY Polygon File Format", 1994.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .polygons import Array, Index, triangles_of

HEADER = 1 << 20  # bytes; some programs note there how the file came about
_END = re.compile(rb"[\r\n][ \t]*end_header[ \t]*(\r\n|\r|\n|\Z)")
_BYTES = {1: "char uchar int8 uint8", 2: "short ushort int16 uint16"}
_BYTES |= {4: "int uint int32 uint32 float float32", 8: "double float64"}
_SIZES = {name: size for size, names in _BYTES.items() for name in names.split()}
_STRIPS = "tristrips"
FORMS = ("ascii", "binary_little_endian", "binary_big_endian")


@dataclass
class _Element:
    """One kind of rows: its lines in the header, its lists, the least that a row takes in bytes."""

    name: str
    count: int
    lines: list[str]
    lists: list[str] = field(default_factory=list)
    size: int = 0


def read_ply(content: bytes) -> tuple[Array, Index | None]:
    """Return vertices, float64 [V, 3], and faces as triangles, int64 [F, 3]; None: only points.

    Raises:
        ValueError: not a PLY, one that is cut off, or faces that are not lists of its vertices.
    """
    form, elements, start = _header(content)
    kinds = {element.name: element for element in elements}
    vertex, face = kinds.get("vertex"), kinds.get("face")
    if form not in FORMS:
        raise ValueError(f"its header names the format '{form}'; {', '.join(FORMS)} are read")
    if vertex is None:
        raise ValueError("it has no element 'vertex'")
    if _STRIPS in kinds and kinds[_STRIPS].count:
        raise ValueError(
            f"its faces are strips of triangles ('{_STRIPS}'), which are not read; open it in "
            "MeshLab and save it again, which writes faces"
        )
    needed = [vertex] if face is None or not face.count else [vertex, face]
    elements = elements[: 1 + max(elements.index(element) for element in needed)]
    for element in elements:
        if element.count * max(1, element.size) > len(content) - start + 1:
            raise ValueError(
                f"it is cut off: its header declares {element.count} times '{element.name}', "
                f"{len(content) - start} bytes follow"
            )
    lines = ["ply", f"format {form} 1.0", *(line for e in elements for line in e.lines)]
    lists = [] if face is None or form == "ascii" else face.lists
    data = _parsed("\n".join([*lines, "end_header\n"]).encode() + content[start:], lists)
    try:
        points = np.stack([data["vertex"][axis] for axis in "xyz"], axis=-1).astype(np.float64)
    except (KeyError, ValueError):
        raise ValueError("its vertices have no x, y and z") from None
    if needed == [vertex] or face is None:
        return points, None
    polygons = data["face"][_vertex_list(face)]
    if polygons.ndim == 2:
        counts, corners = np.full(len(polygons), polygons.shape[1]), polygons.ravel()
    else:
        counts, corners = np.fromiter(map(len, polygons), np.int64), np.concatenate(polygons)
    if corners.dtype.kind not in "iu":
        raise ValueError("its faces name vertices by numbers that are not whole")
    wrong = (corners < 0) | (corners >= len(points))
    if wrong.any():
        raise ValueError(f"a face names vertex {corners[wrong][0]} of {len(points)}")
    return points, triangles_of(points, corners.astype(np.int64), counts.astype(np.int64))


def _header(content: bytes) -> tuple[str, list[_Element], int]:
    """Return the format, the elements, and where the data begin.

    Raises:
        ValueError: not the header of a PLY.
    """
    first = re.match(rb"ply[ \t]*(\r\n|\r|\n)", content)
    end = _END.search(content[:HEADER])
    if first is None or end is None:
        raise ValueError("it has no header from 'ply' to 'end_header'")
    # After a bare CR a byte that looks like LF may be data.
    start = end.end() if first[1] != b"\r" else end.start(1) + 1
    form, elements = "", []
    for line in re.split(r"[\r\n]+", content[3 : end.start()].decode("ascii", "replace")):
        words = line.split()
        if words[:1] == ["format"] and len(words) == 3:
            form = words[1]
        elif words[:1] == ["element"] and len(words) == 3 and re.fullmatch("[0-9]{1,18}", words[2]):
            elements.append(_Element(words[1], int(words[2]), [" ".join(words)]))
        elif words[:1] == ["property"] and elements and len(words) in (3, 5):
            element = elements[-1]
            element.lines.append(" ".join(words))
            if words[1] == "list":
                element.lists.append(words[-1])
            least = 2 if form == "ascii" else _SIZES.get(words[2 if words[1] == "list" else 1], 1)
            element.size += least
        elif words and words[0] not in ("comment", "obj_info"):
            raise ValueError(f"its header holds the line '{line.strip()[:80]}'")
    return form, elements, start


def _vertex_list(face: _Element) -> str:
    """Return the name of the list of a face's vertices."""
    names = [name for name in face.lists if name.startswith("vertex_ind")] or face.lists
    if not names:
        raise ValueError("its faces have no list of vertices")
    return names[0]


def _parsed(content: bytes, lists: list[str]) -> Any:
    """Return plyfile's data; where all faces have as many corners, without a step for each.

    Args:
        lists: the lists of a face, if the data are binary.
    """
    from plyfile import PlyData, PlyParseError

    with tempfile.TemporaryFile() as stream:  # plyfile maps only files into memory
        stream.write(content)
        stream.flush()
        for corners in (3, 4, None) if lists else (None,):
            # Of the other lists the usual one is of two texture coordinates for each corner.
            lengths = {
                name: corners * (1 if name.startswith("vertex_ind") else 2)
                for name in lists
                if corners is not None
            }
            stream.seek(0)
            try:
                return PlyData.read(stream, known_list_len={"face": lengths} if lengths else {})
            except PlyParseError as error:
                if corners is None:
                    raise ValueError(str(error)) from None
    raise AssertionError
