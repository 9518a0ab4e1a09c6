"""The packed file: a data set's pixels in one file that is memory-mapped and read in any order.

The file is a NumPy array file (``np.load(path, mmap_mode="r")`` opens it) with something behind:

====================  =============================================================================
bytes                 what
====================  =============================================================================
128                   NumPy's header, version 1.0, padded: uint8, C order, shape (N, H, W, C)
N * H * W * C         the pixels, training images first, then those held out
the index             JSON, UTF-8: ``held_out_from`` (number of training images), ``labels`` (N
                      integers, or null), ``classes``, ``fingerprint``, ``origin``, ``bad``
8                     the index's length in bytes, little-endian
8                     ``DDIMXPK1``
====================  =============================================================================

``fingerprint`` is the chained SHA-256 of the pixels; ``origin`` says what they were made from;
``bad`` lists what could not be decoded and is left out.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DdimxError
from ...untrusted import limits
from ...untrusted.arrays import Header, map_npy, read_header
from ...untrusted.text import parse_json, shown
from ..arrays import Bytes, Integers

MAGIC = b"DDIMXPK1"
HEADER_SIZE = 128
_FOOTER = struct.Struct("<Q8s")


class PackedSource:
    """The training or the held-out part of a packed file; pixels stay on disk until asked for."""

    families: Integers | None = None

    def __init__(self, path: Path, *, held_out: bool) -> None:
        """Map the file into memory.

        Raises:
            DdimxError: no such file, or not a whole packed file.
        """
        index = read_index(path)
        try:
            everything = map_npy(path)
        except (OSError, ValueError) as error:
            raise DdimxError(f"{path}: not a whole packed file ({error})") from None
        cut = index["held_out_from"]
        part = slice(cut, None) if held_out else slice(cut)
        self._images: Bytes = everything[part]
        labels = index["labels"]
        self.labels = None if labels is None else np.array(labels, dtype=np.int64)[part]
        self.classes = tuple(index["classes"])
        self.image_shape = tuple(everything.shape[1:])
        self.fingerprint: str = index["fingerprint"]

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Integers) -> Bytes:
        """Copy images out of the file, uint8 [len(indices), H, W, C]."""
        return np.asarray(self._images[indices])


def header(shape: tuple[int, int, int, int]) -> bytes:
    """Return NumPy's array header for uint8 of this shape, always 128 bytes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode("latin-1")
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER_SIZE - 10)
    return start + text.ljust(HEADER_SIZE - 11) + b"\n"


def trailer(index: dict[str, Any]) -> bytes:
    """Return what stands behind the pixels."""
    text = json.dumps(index, ensure_ascii=False, allow_nan=False).encode()
    return text + _FOOTER.pack(len(text), MAGIC)


def read_index(path: Path) -> dict[str, Any]:
    """Return the index of a packed file, after checking that the file is whole.

    Raises:
        DdimxError: no such file, or not a packed file, or a damaged one.
    """
    if not path.is_file():
        raise DdimxError(f"no packed file {path}; make it with 'ddimx prepare images SRC {path}'")
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END) - _FOOTER.size
            if size < HEADER_SIZE:
                raise ValueError("it is shorter than header and footer")
            stream.seek(size)
            length, magic = _FOOTER.unpack(stream.read(_FOOTER.size))
            if magic != MAGIC or length > size:
                raise ValueError("its last bytes are not a packed file's")
            limits.refused("its index", length * limits.TEXT_COST, 0)
            stream.seek(size - length)
            index = parse_json(stream.read(length))
            stream.seek(0)
            header = read_header(stream)
        if not _is_pictures(header):
            raise ValueError("its header is not uint8 [N, H, W, C]")
        if size - length - HEADER_SIZE != header.size:
            raise ValueError("its length does not fit its header")
        return _checked(index, header.shape[0])
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a whole packed file ({error})") from None


def _is_pictures(header: Header) -> bool:
    """Whether it is that of plain pictures; none of them has an edge of 0."""
    plain = header.dtype == np.uint8 and not header.fortran and header.length == HEADER_SIZE
    return plain and len(header.shape) == 4 and 0 not in header.shape


def _checked(index: Any, count: int) -> dict[str, Any]:
    """Return the index of ``count`` images if it is one; fields that it may lack are not in it."""
    if not isinstance(index, dict):
        raise ValueError("its index is not an object")
    cut, labels = index.get("held_out_from"), index.get("labels")
    if not isinstance(cut, int) or isinstance(cut, bool) or not 0 <= cut <= count:
        raise ValueError(
            f"its index says {shown(cut)} training images, there are {count} images in all"
        )
    if labels is not None and not (_all(labels, int) and len(labels) == count):
        raise ValueError("its index has another number of labels than of images")
    if any(not -(1 << 63) <= label < 1 << 63 for label in labels or ()):
        raise ValueError("its index has a label of more than 64 bits")
    for key in ("classes", "bad"):
        if not _all(index.get(key), str):
            raise ValueError(f"its index lacks {key}, a list of texts")
    if not isinstance(index.get("fingerprint"), str) or "origin" not in index:
        raise ValueError("its index lacks fingerprint or origin")
    return index | {"labels": labels}


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)
