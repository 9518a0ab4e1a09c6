"""Clouds of points: NumPy's files, lists of numbers (.xyz, .pts, .txt), and the PCD of PCL.

Of what a point has beside its place, normals, colors, intensities and labels, nothing is read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...untrusted.arrays import ArrayHeader, is_npy, npz_headers, read_npy, read_npz
from ...untrusted.text import unix_text
from .polygons import Array

# Under which names points are kept; "pointcloud" is the original project's name beside "normals".
NAMES = ("points", "pointcloud")
_BESIDE = re.compile(r"(?:point_?)?(?:normals?|colou?rs?|rgb)", re.IGNORECASE)
_COPIES = 8  # of points, float64 and on their way to cells
_HEADER = 1 << 16
_PCD_LINE = re.compile(rb"^(FIELDS|SIZE|TYPE|COUNT|POINTS|DATA)[ \t]+([^\r\n]*)", re.MULTILINE)
_PCD_DATA = re.compile(rb"^DATA[ \t]+(\w+)[ \t]*(?:\r\n|\n|\r|\Z)", re.MULTILINE)
_COMMENTS = re.compile(rb"^[ \t]*(?:#|//)[^\n]*\n?", re.MULTILINE)
_DECIMAL_COMMA = re.compile(rb"\d,\d+(?:[ \t;]+[-+]?\d+,\d)")


class NoPointsError(ValueError):
    """A file of NumPy's that holds something else than a cloud."""


def read_numpy(source: Path | bytes) -> Array:
    """Return the points of a ``.npy`` or ``.npz``, a file or its bytes, float64 [N, 3].

    Of an array [N, 6] the last three columns are normals or colors; of an ``.npz`` the array under
    one of ``NAMES`` is taken, or the only one of such a form.

    Raises:
        OSError: it cannot be read.
        NoPointsError: it holds no points, an octree, or points in space and not of a surface.
        ValueError: not such a file.
    """
    array = read_npy(source, _COPIES) if is_npy(source) else None
    headers = (
        dict(npz_headers(source))
        if array is None
        else {NAMES[0]: ArrayHeader(array.shape, array.dtype, fortran=False, length=0)}
    )
    if "tokens" in headers:
        raise NoPointsError("this is an octree already, there is nothing to prepare")
    if "occupancies" in headers:
        raise NoPointsError(
            "its points fill space, with 'occupancies' that say which lie inside; the surface is "
            "in the pointcloud.npz beside it"
        )
    fitting = [
        name
        for name, about in headers.items()
        if len(about.shape) == 2 and about.shape[1] in (3, 6) and about.dtype.kind in "iuf"
    ]
    named = [name for name in NAMES if name in headers]
    others = [name for name in fitting if not _BESIDE.fullmatch(name)]
    name = named[0] if named else others[0] if len(others) == 1 else ""
    if name not in fitting:
        what = ", ".join(f"{key} {a.dtype} {a.shape}" for key, a in headers.items()) or "nothing"
        raise NoPointsError(
            f"no points [N, 3] or [N, 6] under the name 'points'; it holds {what[:500]}"
        )
    points = read_npz(source, [name], _COPIES)[name] if array is None else array
    if points.shape[1] == 6:
        check_beside(points[:, 3:])
    return points[:, :3].astype(np.float64)


def check_beside(values: npt.NDArray[Any]) -> None:
    """Refuse columns [N, 3] beside points that are neither normals nor colors.

    Normals have the length 1, colors are within 0..1 or 0..255.

    Raises:
        NoPointsError: they are neither.
    """
    numbers = values.astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(numbers, axis=1)
    is_normal = np.mean((np.abs(lengths - 1) < 0.01) | (lengths == 0)) > 0.9
    if not is_normal and not ((numbers >= 0) & (numbers <= 255)).all():
        raise NoPointsError(
            "the last three of its six columns are neither normals (of length 1) nor colors (0..1 "
            "or 0..255): keep the points alone, [N, 3]"
        )


def read_text(content: bytes) -> Array:
    """Return the points of a list of numbers, float64 [N, 3]: the first three of each line.

    Numbers are divided by blanks, commas or semicolons. A first line may name the columns, or say
    how many lines follow, as in ``.pts``; ``#`` and ``//`` begin comments.

    Raises:
        ValueError: a line that does not hold three numbers, or fewer lines than the first one says.
    """
    text = _COMMENTS.sub(b"", unix_text(content)).strip()
    first, _, rest = text.partition(b"\n")
    count = None
    if re.fullmatch(rb"\s*\d{1,18}\s*", first):
        count, text = int(first), rest
    elif re.search(rb"[A-Za-z]", re.sub(rb"(?i)nan|inf|\de", b"", first)):
        text = rest
    if _DECIMAL_COMMA.search(text[:_HEADER]):
        raise ValueError("its numbers have decimal commas; write points")
    points = _numbers(text.replace(b",", b" ").replace(b";", b" "), (0, 1, 2))
    if count is not None and len(points) != count:
        raise ValueError(f"its first line declares {count} points, {len(points)} follow")
    return points


def read_pcd(content: bytes) -> Array:
    """Return the points of a PCD, float64 [N, 3], without those that are NaN, which no sensor saw.

    Raises:
        ValueError: not a PCD, one that is cut off, or ``binary_compressed``.
    """
    end = _PCD_DATA.search(content[:_HEADER])
    if end is None:
        raise ValueError("it has no header that ends with DATA")
    header = {
        key.decode(): line.decode("latin-1").split()
        for key, line in _PCD_LINE.findall(content[: end.end()])
    }
    form = header["DATA"][0]
    if form == "binary_compressed":
        raise ValueError(
            "its data are 'binary_compressed', which is not read; PCL's "
            "'pcl_convert_pcd_ascii_binary IN OUT 1' writes them without compression"
        )
    try:
        names = header["FIELDS"]
        counts = [int(word) for word in header.get("COUNT", ["1"] * len(names))]
        kinds = [
            np.dtype(f"<{kind.lower()}{int(size)}")
            for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)
        ]
        total = int(header["POINTS"][0])
        rows = [
            (f"{number} {name}", kind, (count,))
            for number, (name, kind, count) in enumerate(zip(names, kinds, counts, strict=True))
        ]
        places = [names.index(axis) for axis in "xyz"]
        if min(counts) < 1 or sum(counts) > len(content) or total < 0:
            raise ValueError("counts that are not positive")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"its header is damaged, or has no x, y and z ({error})") from None
    if form == "ascii":
        columns = tuple(sum(counts[:place]) for place in places)
        points = _numbers(unix_text(content[end.end() :]), columns)
        count = len(points)
    elif form == "binary":
        record = np.dtype(rows)
        count = min(total, (len(content) - end.end()) // record.itemsize)
        values = np.frombuffer(content, record, count, end.end())
        points = np.concatenate([values[rows[place][0]] for place in places], axis=1)
    else:
        raise ValueError(f"its data are '{form}'; 'ascii' and 'binary' are read")
    if count < total:
        raise ValueError(f"it is cut off: its header declares {total} points, {count} follow")
    points = points[:total].astype(np.float64)
    seen: Array = points[np.isfinite(points).all(axis=1)]
    return seen


def _numbers(text: bytes, columns: tuple[int, ...]) -> Array:
    """Return columns of a table, float64 [N, len(columns)]; no rows of an empty text."""
    if not text.strip():
        return np.zeros((0, len(columns)))
    lines = text.decode("latin-1").split("\n")
    values: Array = np.loadtxt(lines, np.float64, usecols=columns, ndmin=2, comments=None)
    return values
