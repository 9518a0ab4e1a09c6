"""Checking an LMDB before it is mapped: whether every page of its tree is there and whole.

liblmdb trusts its files: it maps more than a cut file has, so that a read ends the process by
SIGBUS, and it follows offsets wherever they lead. So the tree is walked once here, by plain reads.
That costs a read of the pages of keys, which listing the keys costs as well; values are not read.

The form is that of lmdb.h and mdb.c of OpenLDAP's LMDB 0.9, on a 64-bit machine of the same byte
order: pages of one size; on the first two a header of 16 bytes and a ``MDB_meta``, of which the
one with the larger transaction id counts.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_SIZES = tuple(1 << i for i in range(9, 17))  # 512 to 65536, as LMDB makes them
_HEADER = 16
_META = struct.Struct("=IIQQ")  # magic, version, address, size of the map
_DATABASE = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branch, leaf, overflow, entries, root
_META_END = struct.Struct("=QQ")  # last page, transaction
_PAGE = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
_BRANCH, _LEAF = 0x01, 0x02
_BIG = 0x01  # of a node: its value lies on pages of its own
_INTEGER_KEYS = 0x08  # a flag of the list of free pages, and of nothing that we read
_NONE = 2**64 - 1  # the root of an empty database
_DEEPEST = 32  # CURSOR_STACK of mdb.c


@dataclass(frozen=True)
class _Meta:
    page_size: int
    flags: int
    depth: int
    entries: int
    root: int
    last: int
    transaction: int


def check_lmdb(stream: BinaryIO) -> int:
    """Return the number of entries of an LMDB, of which every page of the tree is checked.

    Raises:
        ValueError: not an LMDB, one of another kind, cut, or with a page that is not whole.
        OSError: it cannot be read.
    """
    size = stream.seek(0, os.SEEK_END)
    meta = _meta(stream, size)
    if meta.flags:
        raise ValueError("its database is of another kind (duplicates or integers as keys)")
    if size < (meta.last + 1) * meta.page_size:
        raise ValueError(
            f"it has {size} bytes of {(meta.last + 1) * meta.page_size}: it was cut, or not "
            "copied to the end"
        )
    if meta.root == _NONE:
        if meta.entries:
            raise ValueError("its database has entries and no pages")
        return 0
    count = _Walk(stream, meta).entries()
    if count != meta.entries:
        raise ValueError(f"it says {meta.entries} entries and holds {count}")
    return count


def _meta(stream: BinaryIO, size: int) -> _Meta:
    """Return the newer of the two metas."""
    first = _parsed_meta(stream, 0)
    if first.page_size not in PAGE_SIZES or size < 2 * first.page_size:
        raise ValueError("its first page is not an LMDB's")
    second = _parsed_meta(stream, first.page_size)
    if second.page_size != first.page_size:
        raise ValueError("its first two pages contradict each other")
    return first if first.transaction >= second.transaction else second


def _parsed_meta(stream: BinaryIO, start: int) -> _Meta:
    stream.seek(start + _HEADER)
    length = _META.size + 2 * _DATABASE.size + _META_END.size
    data = stream.read(length)
    if len(data) < length:
        raise ValueError("it is shorter than two pages")
    magic, version, address, _ = _META.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError("no LMDB of version 1 and this machine's byte order")
    free = _DATABASE.unpack_from(data, _META.size)
    main = _DATABASE.unpack_from(data, _META.size + _DATABASE.size)
    if address or free[1] & ~_INTEGER_KEYS:
        raise ValueError("it asks for a fixed address or for what no data set needs")
    last, transaction = _META_END.unpack_from(data, _META.size + 2 * _DATABASE.size)
    return _Meta(free[0], main[1], main[2], main[6], main[7], last, transaction)


class _Walk:
    """The tree from its root: each page at most once, since no page has two parents."""

    def __init__(self, stream: BinaryIO, meta: _Meta) -> None:
        self._stream, self._size = stream, meta.page_size
        self._meta = meta
        self._seen = np.zeros(meta.last + 1, dtype=np.bool_)

    def entries(self) -> int:
        """Return the number of entries; raises as ``check_lmdb``."""
        if self._meta.depth > _DEEPEST:
            raise ValueError(f"its tree has {self._meta.depth} levels")
        count, level = 0, [self._meta.root]
        for depth in range(1, self._meta.depth + 1):
            next_level: list[int] = []
            for number in level:
                if depth == self._meta.depth:
                    count += self._leaf(number)
                else:
                    next_level += self._branch(number)
            level = next_level
        return count

    def _take(self, number: int, pages: int = 1) -> None:
        """Note that pages belong to the tree; none may twice, nor may the two metas."""
        if not 2 <= number <= number + pages - 1 <= self._meta.last:
            raise ValueError(f"page {number} is not in the file")
        span = self._seen[number : number + pages]
        if span.any():
            raise ValueError(f"page {number} is in the tree twice")
        span[:] = True

    def _page(self, number: int, kind: int) -> tuple[bytes, npt.NDArray[np.int64]]:
        """Return a page and its nodes' offsets."""
        self._take(number)
        self._stream.seek(number * self._size)
        page = self._stream.read(self._size)
        own, _, flags, lower, upper = _PAGE.unpack_from(page)
        if own != number or flags != kind or not _HEADER < lower <= upper <= self._size:
            raise ValueError(f"page {number} is damaged")
        offsets = np.frombuffer(page[_HEADER:lower], dtype="=u2").astype(np.int64)
        # A node: 2 x 16 bits of size or page number, 16 of flags, 16 of the key's length, the key.
        if lower % 2 or offsets.min() < upper or offsets.max() + 8 > self._size:
            raise ValueError(f"page {number} is damaged")
        return page, offsets

    def _branch(self, number: int) -> list[int]:
        """Return the pages below a page of branches."""
        page, offsets = self._page(number, _BRANCH)
        low, high, flags, key = _words(page, offsets)
        if (offsets + 8 + key > self._size).any():
            raise ValueError(f"page {number} is damaged")
        children: list[int] = (low | high << 16 | flags << 32).tolist()
        return children

    def _leaf(self, number: int) -> int:
        """Check a page of entries, and the pages of values that lie elsewhere; return its count."""
        page, offsets = self._page(number, _LEAF)
        low, high, flags, key = _words(page, offsets)
        value = low | high << 16
        big = flags == _BIG
        end = offsets + 8 + key + np.where(big, 8, value)
        if (flags & ~_BIG).any() or (key == 0).any() or (end > self._size).any():
            raise ValueError(f"page {number} is damaged, or holds a database of its own")
        # What liblmdb reads of such a value is its place and this length, nothing on its own pages.
        starts, lengths = (offsets + 8 + key)[big].tolist(), value[big].tolist()
        for start, length in zip(starts, lengths, strict=True):
            (first,) = struct.unpack_from("=Q", page, start)
            self._take(first, -(-(length + _HEADER) // self._size))
        return len(offsets)


def _words(page: bytes, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the four 16-bit words that each node begins with, [4, nodes]; nodes lie evenly."""
    if (offsets % 2).any():
        raise ValueError("a node lies at an odd place")
    words = np.frombuffer(page, dtype="=u2").astype(np.int64)
    nodes: npt.NDArray[np.int64] = words[offsets // 2 + np.arange(4)[:, None]]
    return nodes
