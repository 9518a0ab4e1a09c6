"""Wavefront OBJ: vertices and faces, whatever stands around them.

Textures, normals, groups and materials count for nothing here. Lines may be indented, end as on any
system and go on after a backslash, as the format's specification has it (Appendix B1 of Wavefront's
Advanced Visualizer manual).
"""

from __future__ import annotations

import codecs
import re
from itertools import chain

import numpy as np

from ...untrusted.text import unix_text
from .polygons import Array, Index, triangles_of

_LINE = re.compile(rb"^[ \t]*([vf])[ \t]+([^\n]*)", re.MULTILINE)
_COMMENT = re.compile(rb"#[^\n]*")
_GOES_ON = re.compile(rb"\\[ \t]*\n")
_LINES_THAT_GO_ON = re.compile(
    rb"^[ \t]*[vf][ \t][^\n]*\\[ \t]*\n(?:[^\n]*\\[ \t]*\n)*", re.MULTILINE
)
_TEXTURE_AND_NORMAL = re.compile(rb"/[^ \t\n]*")
_SHOWN = 80


def read_obj(content: bytes, *, fans: bool = False) -> tuple[Array, Index]:
    """Return an OBJ's vertices, float64 [V, 3], and its faces cut into triangles, int64 [F, 3].

    Args:
        fans: as :func:`triangles_of` has it.

    Raises:
        ValueError: a vertex or a face that is none, with what stands there.
    """
    lines = _LINE.findall(_text(content))
    try:
        coordinates = chain.from_iterable(_three(line) for kind, line in lines if kind == b"v")
        points = np.fromiter(map(float, coordinates), np.float64).reshape(-1, 3)
    except ValueError as error:
        raise ValueError(f"a vertex of other than three numbers: {error}") from None
    faces = [_COMMENT.sub(b"", line) for kind, line in lines if kind == b"f"]
    words = _TEXTURE_AND_NORMAL.sub(b"", b"\n".join(faces))
    counts = np.array([len(line.split()) for line in words.split(b"\n")][: len(faces)], np.int64)
    try:
        corners = np.fromiter(map(int, words.split()), np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"a face of other than whole numbers: {error}") from None
    index = corners - 1
    if (corners < 0).any():  # counted back from the last vertex before the face
        is_face = np.array([kind == b"f" for kind, _ in lines])
        before = np.repeat(np.cumsum(~is_face)[is_face], counts)
        index = np.where(corners < 0, before + corners, index)
    wrong = (index < 0) | (index >= len(points))
    if wrong.any():
        first = int(wrong.argmax())
        face = faces[int(np.searchsorted(np.cumsum(counts), first, side="right"))]
        raise ValueError(
            f"the face 'f {face[:_SHOWN].decode('latin-1').strip()}' names vertex "
            f"{corners[first]}; there are {len(points)}, counted from 1"
        )
    return points, triangles_of(points, index, counts, fans=fans)


def _text(content: bytes) -> bytes:
    """Return a file's lines as they end on Unix, each on one line where it goes on in the next."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell redirects
        content = content.decode("utf-16").encode()
    content = unix_text(content)
    if b"\\" in content:  # also at the end of a comment, where it says nothing
        content = _COMMENT.sub(b"", content)
        content = _LINES_THAT_GO_ON.sub(lambda lines: _GOES_ON.sub(b" ", lines[0]), content)
    return content


def _three(line: bytes) -> list[bytes]:
    """Return the first three words of a line; a weight or a color may follow."""
    words = line.split(None, 3)[:3]
    if len(words) < 3:
        raise ValueError(f"'v {line[:_SHOWN].decode('latin-1').strip()}'")
    return words
