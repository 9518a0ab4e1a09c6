"""STL, binary and as text: triangles without shared corners.

A binary file may begin with the word that text begins with, so its size decides: 84 bytes, in them
the number of triangles, and 50 for each.
"""

from __future__ import annotations

import re
import struct
from itertools import chain

import numpy as np

from ...untrusted.text import unix_text
from .polygons import Array, Index, triangles_of

_HEAD, _EACH = 84, 50
BEHIND = 512  # bytes behind the last triangle that are passed over
_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_TEXT = re.compile(rb"\s*solid\b[^\0]*?\b(facet|endsolid)\b", re.IGNORECASE)
_LINE = re.compile(rb"^[ \t]*(vertex|endloop|endsolid)\b([^\n]*)", re.MULTILINE | re.IGNORECASE)


def read_stl(content: bytes) -> tuple[Array, Index]:
    """Return vertices, float64 [V, 3], and triangles, int64 [F, 3].

    Raises:
        ValueError: neither of the two kinds, or cut off.
    """
    count = struct.unpack_from("<I", content, _HEAD - 4)[0] if len(content) >= _HEAD else 0
    rest = len(content) - _HEAD - _EACH * count
    if rest != 0 and _TEXT.match(content[:4096].removeprefix(b"\xef\xbb\xbf")):
        return _text(content)
    if len(content) < _HEAD:
        raise ValueError("it is shorter than the header of a binary STL, and no text")
    if rest < 0:
        raise ValueError(
            f"it is cut off: its header declares {count} triangles, {max(0, len(content) - _HEAD)} "
            f"bytes of {_EACH * count} follow"
        )
    if rest > BEHIND:
        raise ValueError(f"its header declares {count} triangles, {rest} more bytes follow them")
    records = np.frombuffer(content, _RECORD, count, _HEAD)
    return (
        records["corners"].reshape(-1, 3).astype(np.float64),
        np.arange(3 * count, dtype=np.int64).reshape(-1, 3),
    )


def _text(content: bytes) -> tuple[Array, Index]:
    lines = _LINE.findall(unix_text(content))
    kinds = np.array([kind[:4].lower() for kind, _ in lines], "S4")
    if not len(lines) or lines[-1][0].lower() != b"endsolid":
        raise ValueError("it is cut off: no 'endsolid' ends it")
    is_vertex = kinds == b"vert"
    ends = np.cumsum(is_vertex)[kinds == b"endl"]
    if is_vertex.sum() != (ends[-1] if len(ends) else 0):
        raise ValueError("it holds vertices outside of a loop that ends with 'endloop'")
    words = [rest.split() for kind, rest in lines if kind.lower() == b"vertex"]
    wrong = next((line for line in words if len(line) != 3), None)
    if wrong is not None:
        shown = b" ".join(wrong)[:80].decode("latin-1")
        raise ValueError(f"the line 'vertex {shown}' does not hold three numbers")
    numbers = np.fromiter(map(float, chain.from_iterable(words)), np.float64)
    corners = np.arange(len(words), dtype=np.int64)
    points = numbers.reshape(-1, 3)
    return points, triangles_of(points, corners, np.diff(ends, prepend=0).astype(np.int64))
