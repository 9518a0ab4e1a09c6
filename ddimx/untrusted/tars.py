"""Tar files from outside: where each member lies, told from its header. Nothing is unpacked.

The headers are read here and not by ``tarfile``, which keeps an object for every member, takes 18
microseconds for each (this module 6; a million samples have two million members), reads extended
headers of any length, and in some Pythons from 3.10 on never ends on a negative size
(CVE-2025-8194). Understood are the formats of POSIX.1-1988 (ustar), POSIX.1-2001 (pax) and GNU.

Every function raises ValueError for a tar that is refused, cut or damaged, and OSError for a file
that cannot be read; the caller says which file it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import limits

BLOCK = 512
SUFFIX = ".tar"
COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".lz4")
# Bytes of an extended header: names have a few hundred.
MOST_EXTENDED = 1 << 16
_ZEROS = bytes(BLOCK)
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_FILES = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6", b"V")  # links, devices, folders, labels
_CHECKSUM = slice(148, 156)


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: as it stands there, without "./" before it; bytes that are no UTF-8 as Python's
            surrogates.
        offset: of its first byte in the tar.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


def refuse_compressed(path: Path) -> None:
    """Raise ValueError for the name of a compressed tar, or another compressed file."""
    if path.suffix.lower() in COMPRESSED:
        raise ValueError(_unpack("compressed"))


def tar_members(path: Path) -> Iterator[Member]:
    """Yield the plain files of a tar in their order, by reading its headers only.

    Links, devices, folders and sparse files are passed over. A name may come twice; whoever unpacks
    a tar keeps the last.
    """
    with path.open("rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        head = stream.read(2)
        if head in _MAGIC:
            raise ValueError(_unpack(f"compressed by {_MAGIC[head]}"))
        position, name, size, is_sparse = 0, None, None, False
        while True:
            stream.seek(position)
            header = stream.read(BLOCK)
            if header == _ZEROS:
                return
            if len(header) < BLOCK:
                raise ValueError(_cut(position) if position else "not a tar file")
            if not _is_sound(header):
                at = f"damaged: there is no header at byte {position}"
                raise ValueError(at if position else "not a tar file")
            kind, data = header[156:157], position + BLOCK
            declared = _number(header[124:136], position)
            if kind in _FILES and size is not None:
                declared = size
            if kind in _WITHOUT_DATA:
                declared = 0
            elif kind == b"S":
                data = _after_sparse(stream, header, data)
            if data + declared > end:
                raise ValueError(_cut(position))
            position = data + -(-declared // BLOCK) * BLOCK
            if kind in (b"L", b"x"):
                content = _extended(stream, data, declared)
                if kind == b"L":
                    name = content.split(b"\0", 1)[0]
                    continue
                records = _records(content, data)
                name = records.get(b"path", name)
                size = _decimal(records[b"size"], data) if b"size" in records else size
                is_sparse = any(key.startswith(b"GNU.sparse.") for key in records)
                continue
            if kind in (b"K", b"g"):  # the target of a link, or what holds for all members
                continue
            raw = _name(header) if name is None else name
            if kind in _FILES and not is_sparse and not raw.endswith(b"/"):
                while raw.startswith(b"./"):
                    raw = raw[2:]
                yield Member(raw.decode("utf-8", "surrogateescape"), data, declared)
            name, size, is_sparse = None, None, False


def read_at(path: Path, offset: int, count: int) -> bytes:
    """Return bytes of a file; ValueError if it is shorter."""
    with path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        data = stream.read(count)
    if len(data) != count:
        raise ValueError(f"{path} has become shorter")
    return data


def header_at(block: bytes) -> tuple[bytes, int] | None:
    """Return the name and the size that a block of a tar states, None if it is no header."""
    if len(block) != BLOCK or block == _ZEROS or not _is_sound(block):
        return None
    return _name(block), _number(block[124:136], 0)


def _is_sound(header: bytes) -> bool:
    """Return whether a block's checksum is that of a header."""
    field = header[_CHECKSUM].strip(b" \0")
    if not field.isdigit() or field.strip(b"01234567"):
        return False
    expected = int(field, 8)
    own = sum(header[_CHECKSUM])
    # The field counts as eight spaces. Some old programs summed signed bytes.
    if sum(header) - own + 256 == expected:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in header)
    return signed - own + 256 == expected


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes, position: int) -> int:
    """Return a size in octal digits, or as GNU writes large ones: in base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit() or digits.strip(b"01234567"):
        raise ValueError(f"damaged: the header at byte {position} states no size")
    return int(digits, 8)


def _decimal(text: bytes, position: int) -> int:
    if not text.isdigit() or len(text) > limits.INTEGER:
        raise ValueError(f"damaged: the header at byte {position} states no size")
    return int(text)


def _extended(stream: BinaryIO, offset: int, size: int) -> bytes:
    if size > MOST_EXTENDED:
        raise ValueError(
            f"an extended header of {limits.readable(size)} at byte {offset}; at most "
            f"{limits.readable(MOST_EXTENDED)} are read"
        )
    stream.seek(offset)
    return stream.read(size)


def _records(content: bytes, position: int) -> dict[bytes, bytes]:
    """Return what a pax header says: lines "LENGTH KEY=VALUE", whose length counts all of it."""
    records, at = {}, 0
    end = len(content.rstrip(b"\0"))
    while at < end:
        length = content[at : at + 9].partition(b" ")[0]
        stop = at + (int(length) if length.isdigit() else 0)
        key, sign, value = content[at + len(length) + 1 : stop].partition(b"=")
        if not at < stop <= end or not sign or not value.endswith(b"\n"):
            raise ValueError(f"damaged: the extended header at byte {position}")
        records[key] = value[:-1]
        at = stop
    return records


def _after_sparse(stream: BinaryIO, header: bytes, position: int) -> int:
    """Return where the data of GNU's sparse file begin: its table may take further blocks."""
    more = header[482]
    while more:
        stream.seek(position)
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise ValueError(_cut(position))
        more, position = block[504], position + BLOCK
    return position


def _cut(position: int) -> str:
    return f"cut: it ends in or after its header at byte {position}, without a tar's end"


def _unpack(how: str) -> str:
    return f"{how}, so that no member can be read without all before it; unpack it to a plain .tar"
