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
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DdimxError
from .sources import Bytes, Integers

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
        everything = np.load(path, mmap_mode="r", allow_pickle=False)
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
            size = stream.seek(-_FOOTER.size, 2)
            length, magic = _FOOTER.unpack(stream.read())
            if magic != MAGIC or length > size:
                raise ValueError("its last bytes are not a packed file's")
            stream.seek(size - length)
            index: dict[str, Any] = json.loads(stream.read(length))
            stream.seek(0)
            count, shape = _shape(stream.read(HEADER_SIZE))
        if size - length - HEADER_SIZE != count * int(np.prod(shape)):
            raise ValueError("its length does not fit its header")
        _check(index, count)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DdimxError(f"{path}: not a whole packed file ({error})") from None
    return index


def _shape(start: bytes) -> tuple[int, tuple[int, ...]]:
    """Return N and (H, W, C) of a header."""
    import io

    stream = io.BytesIO(start)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of NumPy's format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if len(shape) != 4 or fortran or dtype != np.uint8 or stream.tell() != HEADER_SIZE:
        raise ValueError("its header is not uint8 [N, H, W, C]")
    return shape[0], shape[1:]


def _check(index: dict[str, Any], count: int) -> None:
    labels = index["labels"]
    if not 0 <= index["held_out_from"] <= count:
        raise ValueError("its index says more training images than there are")
    if labels is not None and len(labels) != count:
        raise ValueError("its index has another number of labels than of images")
    if not isinstance(index["fingerprint"], str) or not isinstance(index["classes"], list):
        raise ValueError("its index lacks fingerprint or classes")
