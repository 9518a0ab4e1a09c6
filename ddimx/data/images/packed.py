"""The packed set: a data set's pixels in one array file, memory-mapped and read in any order.

It is two files, of which NumPy and any JSON reader open their own:

``NAME.npy``
    uint8 [N, H, W, C], C order: the pixels, training images first, then those held out.
``NAME.npy.json``
    ``version`` (2), ``shape`` (the array's), ``held_out_from`` (number of training images),
    ``labels`` (N integers, or null), ``classes``, ``fingerprint`` (the chained SHA-256 of the
    pixels), ``origin`` (what they were made from), ``bad`` (what could not be decoded and is left
    out, a list of messages).

The array gets its name last and the JSON goes first when a set is replaced, so that where both are
there, they belong together.

Version 0.1 wrote one file: the array, behind it the index as JSON, its length (8 bytes, little-
endian) and ``DDIMXPK1``. Such files are read until version 0.3.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import DdimxError
from ...untrusted import limits
from ...untrusted.arrays import map_npy, read_header
from ...untrusted.text import parse_json, read_json, shown
from ..arrays import Bytes, Integers

VERSION = 2
# NumPy's for any uint8 [N, H, W, C], so that pixels can be written before N is known.
HEADER_SIZE = 128
OLD_MAGIC = b"DDIMXPK1"
_OLD_FOOTER = struct.Struct("<Q8s")


class PackedSource:
    """The training or the held-out part of a packed set; pixels stay on disk until asked for."""

    families: Integers | None = None

    def __init__(self, path: Path, *, held_out: bool) -> None:
        """Map the array into memory.

        Raises:
            DdimxError: no such file, or not a whole packed set.
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


def index_path(path: Path) -> Path:
    """Return where the JSON of a packed array lies."""
    return path.with_name(path.name + ".json")


def array_header(shape: tuple[int, int, int, int]) -> bytes:
    """Return NumPy's array header for uint8 of this shape, always ``HEADER_SIZE`` bytes."""
    stream = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    header = stream.getvalue()
    assert len(header) == HEADER_SIZE, len(header)
    return header


def read_index(path: Path) -> dict[str, Any]:
    """Return the index of a packed set, after checking that both files are whole and fit.

    Raises:
        DdimxError: no such file, or not a packed set, or a damaged one.
    """
    if not path.is_file():
        raise DdimxError(f"no packed file {path}; make it with 'ddimx prepare images SRC {path}'")
    beside = index_path(path)
    try:
        with path.open("rb") as stream:
            header = read_header(stream)
            size = stream.seek(0, os.SEEK_END)
            if beside.is_file():
                index, behind = read_json(beside), 0
            else:
                index, behind = _old_index(stream, size)
        if header.dtype != np.uint8 or header.fortran or len(header.shape) != 4:
            raise ValueError("its header is not uint8 [N, H, W, C]")
        if 0 in header.shape or size - behind != header.length + header.size:
            raise ValueError("its length does not fit its header")
        return _check(index, header.shape, old=bool(behind))
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a whole packed file ({error})") from None


def _old_index(stream: BinaryIO, size: int) -> tuple[Any, int]:
    """Return the index behind the pixels of a file of version 0.1, and how many bytes it takes.

    Raises:
        ValueError: there is none.
    """
    stream.seek(max(0, size - _OLD_FOOTER.size))
    end = stream.read(_OLD_FOOTER.size)
    if len(end) < _OLD_FOOTER.size or not end.endswith(OLD_MAGIC):
        raise ValueError(
            "its JSON is missing, which lies beside it as NAME.json; an array of your own is "
            "trained on as 'images' in an .npz"
        )
    length, _ = _OLD_FOOTER.unpack(end)
    if length > size - _OLD_FOOTER.size:
        raise ValueError("its index is longer than the file")
    limits.refused("its index", length * limits.TEXT_COST, 0)
    stream.seek(size - _OLD_FOOTER.size - length)
    return parse_json(stream.read(length)), length + _OLD_FOOTER.size


def _check(index: Any, shape: tuple[int, ...], *, old: bool) -> dict[str, Any]:
    """Return the index of pictures of this shape if it is one.

    Raises:
        ValueError: it is not, or of other pictures.
    """
    if not isinstance(index, dict):
        raise ValueError("its index is not an object")
    if not old and index.get("version") != VERSION:
        raise ValueError(f"its JSON is of version {shown(index.get('version'))}, not {VERSION}")
    if not old and index.get("shape") != list(shape):
        raise ValueError(f"its JSON says {shown(index.get('shape'))}, the array is {list(shape)}")
    count, cut, labels = shape[0], index.get("held_out_from"), index.get("labels")
    if not isinstance(cut, int) or isinstance(cut, bool) or not 0 <= cut <= count:
        raise ValueError(
            f"its index says {shown(cut)} training images, there are {count} images in all"
        )
    if labels is not None and not (_is_list_of(labels, int) and len(labels) == count):
        raise ValueError("its index has another number of labels than of images")
    if any(not -(1 << 63) <= label < 1 << 63 for label in labels or ()):
        raise ValueError("its index has a label of more than 64 bits")
    for key in ("classes", "bad"):
        if not _is_list_of(index.get(key), str):
            raise ValueError(f"its index lacks {key}, a list of texts")
    if not isinstance(index.get("fingerprint"), str) or "origin" not in index:
        raise ValueError("its index lacks fingerprint or origin")
    return index | {"labels": labels}


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)
