"""NumPy's files from outside: a header is held against the bytes that are there, then believed.

NumPy itself evaluates a header as Python and allocates what it declares. Here it is matched with
the one form that every writer uses; objects and structures are refused. Every function raises
ValueError for a file that is refused or damaged, and OSError for one that cannot be read.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from . import limits
from .archives import Archive, open_zip

MAGIC = b"\x93NUMPY"
_SUFFIX = ".npy"
_VALUE = r"""('[^']*'|"[^"]*"|True|False|\([\dL, ]*\))"""
_ENTRY = re.compile(rf"""['"](descr|fortran_order|shape)['"]\s*:\s*{_VALUE}""", re.ASCII)
_DTYPE = re.compile(r"[<>|=]?[?bBhHiIlLqQefdgFDGSUaVMm]?\w*(?:\[\w+\])?", re.ASCII)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ArrayHeader:
    """What an array's header declares, with the number of bytes that it takes itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    length: int

    @property
    def size(self) -> int:
        """How many bytes the array takes; a dimension of 0 counts as 1, as nothing is without."""
        return math.prod(max(n, 1) for n in self.shape) * max(self.dtype.itemsize, 1)


def read_header(stream: BinaryIO) -> ArrayHeader:
    """Read an array's header; the stream then stands at its data.

    Raises:
        ValueError: not the header of a plain array.
    """
    start = stream.read(8)
    if start[:6] != MAGIC or len(start) < 8 or start[6] not in (1, 2, 3):
        raise ValueError("not an array of NumPy's")
    width = 2 if start[6] == 1 else 4
    prefix = stream.read(width)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < width or length > limits.ARRAY_HEADER:
        raise ValueError(f"an array's header of {length} bytes; {limits.ARRAY_HEADER} are read")
    text = stream.read(length).decode("utf-8" if start[6] == 3 else "latin-1")
    values = dict(_ENTRY.findall(text))
    rest = re.sub(r"\s", "", _ENTRY.sub("", text))
    if len(values) != 3 or rest not in ("{,,}", "{,,,}"):
        raise ValueError("the array's header is damaged, or not of a plain array")
    return ArrayHeader(
        shape=_shape(values["shape"]),
        dtype=_dtype(values["descr"]),
        fortran=values["fortran_order"] == "True",
        length=8 + width + length,
    )


def opened(source: Path | bytes) -> BinaryIO:
    """Open a file, or the bytes of one that was read from an archive."""
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def is_npy(source: Path | bytes) -> bool:
    """Return whether a file begins as an array of NumPy's.

    Raises:
        OSError: it cannot be read.
    """
    with opened(source) as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read_npy(source: Path | bytes, copies: int = 1) -> npt.NDArray[Any]:
    """Read an array file.

    Args:
        copies: how many times its size is held at once while it is worked on.

    Raises:
        OSError: it cannot be read.
        ValueError: not the file of a plain array, or a shorter one than it declares.
    """
    with opened(source) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        header = _checked(stream, size)
        limits.refused("the array", header.size, header.size, copies)
        return _read(stream, header)


def map_npy(path: Path) -> npt.NDArray[Any]:
    """Map an array file into memory, read only: what is not touched is not read.

    Raises:
        OSError: it cannot be read.
        ValueError: not the file of a plain array, or a shorter one than it declares.
    """
    with path.open("rb") as stream:
        header = _checked(stream, os.fstat(stream.fileno()).st_size)
    if 0 in header.shape:  # nothing to map
        return np.empty(header.shape, header.dtype)
    return np.memmap(
        path,
        dtype=header.dtype,
        mode="r",
        offset=header.length,
        shape=header.shape,
        order="F" if header.fortran else "C",
    )


def read_npz(
    source: Path | bytes, names: Collection[str] | None = None, copies: int = 1
) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an ``.npz``: those of these names that are there, and no other member.

    Args:
        names: without ``.npy``; None: all.
        copies: how many times their size is held at once while they are worked on.

    Raises:
        OSError: it cannot be read.
        ValueError: not such a file, damaged, or unpacking to more than what is read.
    """
    with opened(source) as stream, open_zip(stream) as archive:
        found = members(archive)
        wanted = {
            name: found[name] for name in (found if names is None else names) if name in found
        }
        archive.check(list(wanted.values()), copies)
        return {name: _member(archive, member) for name, member in wanted.items()}


def read_first(path: Path, name: str, rows: int) -> npt.NDArray[Any]:
    """Read the first rows of an array of an ``.npz``, and nothing behind them.

    Args:
        name: without ``.npy``.
        rows: how many along the first axis, if there are as many.

    Raises:
        OSError: it cannot be read.
        KeyError: no such array.
        ValueError: not such a file, damaged, or an array without rows.
    """
    with opened(path) as stream, open_zip(stream) as archive:
        member = members(archive)[name]
        with archive.open(member) as content:
            header = _checked(content, archive.declared(member))
            if header.fortran or not header.shape:
                raise ValueError(f"{member}: has no rows one after the other")
            shape = (min(rows, header.shape[0]), *header.shape[1:])
            return _read(content, replace(header, shape=shape))


def npz_headers(source: Path | bytes) -> dict[str, ArrayHeader]:
    """Read what the arrays of an ``.npz`` declare, by name, and nothing of their data.

    Raises:
        OSError: it cannot be read.
        ValueError: not such a file, or damaged.
    """
    headers = {}
    with opened(source) as stream, open_zip(stream) as archive:
        for name, member in members(archive).items():
            headers[name] = read_header(archive.begin(member))
    return headers


def members(archive: Archive) -> dict[str, str]:
    """Return an ``.npz``'s arrays: their names, and those of their members."""
    return {name.removesuffix(_SUFFIX): name for name in archive.names}


def _member(archive: Archive, name: str) -> npt.NDArray[Any]:
    try:
        with archive.open(name) as stream:
            return _read(stream, _checked(stream, archive.declared(name)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _checked(stream: BinaryIO, size: int) -> ArrayHeader:
    """Read the header of an array that has ``size`` bytes with it."""
    header = read_header(stream)
    if header.size > size - header.length and 0 not in header.shape:
        raise ValueError(
            f"its header declares {list(header.shape)} of {header.dtype}, "
            f"{max(0, size - header.length)} bytes are there"
        )
    if header.size > max(size, limits.memory()):  # of no elements, along some axis
        raise ValueError(f"its header declares {list(header.shape)} of {header.dtype}")
    return header


def _read(stream: BinaryIO, header: ArrayHeader) -> npt.NDArray[Any]:
    count = math.prod(header.shape)
    try:
        data = bytearray(count * header.dtype.itemsize)
    except MemoryError:
        raise ValueError("the array is larger than the memory here") from None
    view, place = memoryview(data), 0
    while place < len(data):
        read = stream.readinto(view[place : place + _CHUNK])  # type: ignore[attr-defined]
        if not read:
            raise ValueError("its data end before the array does")
        place += read
    if header.dtype.kind == "U":  # Python fails on a character that Unicode does not have
        points = np.frombuffer(data, np.dtype("u4").newbyteorder(header.dtype.byteorder))
        if points.size and points.max() > sys.maxunicode:
            raise ValueError("its text holds characters that do not exist")
    order: Any = "F" if header.fortran else "C"
    return np.frombuffer(data, header.dtype, count).reshape(header.shape, order=order)


def _shape(text: str) -> tuple[int, ...]:
    words = [word.strip().removesuffix("L") for word in text.strip("()").split(",")]
    if words and not words[-1]:
        words.pop()
    if len(words) > limits.DIMENSIONS or not all(re.fullmatch(r"[0-9]{1,20}", w) for w in words):
        raise ValueError(f"a shape of {len(words)} dimensions that is not of whole numbers")
    return tuple(int(word) for word in words)


def _dtype(text: str) -> np.dtype[Any]:
    name = text[1:-1]
    if text[0] not in "'\"" or len(name) > limits.NUMBER or _DTYPE.fullmatch(name) is None:
        raise ValueError("objects or structures, which are not read")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, OverflowError, SyntaxError) as error:
        raise ValueError(f"an unknown type of numbers ({error})") from None
    if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None:
        raise ValueError("objects or structures, which are not read")
    return dtype
