"""Zip and gzip from outside: what a member unpacks to is bounded before and while it is read.

Only members that are asked for are read. Every function raises ValueError for an archive that is
refused or damaged, and OSError for a file that cannot be read; the caller says which file it was.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from . import limits
from .text import shortened

# What zipfile raises on a damaged archive: KeyError is a missing member, RuntimeError an encrypted
# one or, as NotImplementedError, an unknown compression.
_DAMAGED: tuple[type[Exception], ...] = (
    EOFError,
    KeyError,
    RuntimeError,
    IndexError,
    OverflowError,
    struct.error,
)
_DAMAGED += (zipfile.BadZipFile, zlib.error)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_LOCAL = struct.Struct("<4s22x2H")  # before a member's bytes: lengths of its name and extra field
_END = struct.Struct("<4s4H2LH")  # of a zip's directory
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MOST_COMMENT = 1 << 16
_CHUNK = 1 << 20
_BEGINNING = 1 << 16


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn whatever zipfile and zlib raise on damaged data into one ValueError.

    Args:
        what: the kind of file, as "zip file".
    """
    try:
        yield
    except _DAMAGED as error:
        reason = shortened(str(error).partition("\n")[0]) or type(error).__name__
        raise ValueError(f"not a readable {what}: {reason}") from None


@dataclass(frozen=True)
class Member:
    """Where a member lies in its archive, so that it can be read without the directory.

    An archive of a data set has a million members: its directory is read once, by one process.

    Attributes:
        offset: of the member's own header in the file, bytes.
        stored, size: its bytes in the file, and unpacked.
        checksum: CRC-32 of what it unpacks to.
        method: how it is compressed; ``encrypted`` ones are refused like unknown methods.
    """

    name: str
    offset: int
    stored: int
    size: int
    checksum: int
    method: int
    encrypted: bool


def read_member(path: Path, member: Member, copies: int = 1) -> bytes:
    """Return the bytes of one member; the archive's directory is not read.

    Args:
        copies: how many times its content is held at once while it is worked on.

    Raises:
        OSError: the archive cannot be read.
        ValueError: the archive has changed or is damaged, or the member unpacks to more than what
            is read.
    """
    _check_kind(member.name, member.method, member.encrypted)
    with path.open("rb") as stream:
        stored = min(member.stored, os.fstat(stream.fileno()).st_size)
        limits.refused(member.name, member.size, stored, copies)
        stream.seek(member.offset)
        head = stream.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
            raise ValueError(f"{member.name} is not where the archive's directory says")
        _, name, extra = _LOCAL.unpack(head)
        stream.seek(name + extra, os.SEEK_CUR)
        data = stream.read(stored)
    if member.method == zipfile.ZIP_DEFLATED:
        with readable("zip file"):
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    if len(data) != member.size or zlib.crc32(data) != member.checksum:
        raise ValueError(f"{member.name} is damaged: it is not what the archive's directory says")
    return data


def _check_kind(name: str, method: int, encrypted: bool) -> None:
    """Raise ValueError for a member that is not read, whatever it holds."""
    if encrypted:
        raise ValueError(f"{name} is encrypted")
    if method not in _METHODS:
        raise ValueError(
            f"{name} is compressed by method {method}; stored and deflated members are read"
        )


class Archive:
    """The members of a zip file, by name; directories are left out.

    Members that are stored or deflated are read. ``read`` and ``open`` hold what a member declares
    against what its bytes in the file may become, and ``zipfile`` stops at what it declares.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        """Take an open zip file of ``size`` bytes; see :func:`open_zip`."""
        self._archive, self._size = archive, size
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._twice: set[str] = set()
        for info in archive.infolist():
            if info.filename in self._members:
                self._twice.add(info.filename)
            if not info.filename.endswith("/"):  # is_dir fails on an empty name
                self._members[info.filename] = info

    @property
    def names(self) -> list[str]:
        """The names of the members in the order of the directory."""
        return list(self._members)

    def declared(self, name: str) -> int:
        """Return how many bytes a member says it unpacks to."""
        return self._info(name).file_size

    def checksum(self, name: str) -> int:
        """Return the CRC-32 that the directory gives for a member."""
        return self._info(name).CRC

    def member(self, name: str) -> Member:
        """Return where a member lies; whether it can be read is said when it is."""
        info = self._info(name)
        return Member(
            name,
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type,
            bool(info.flag_bits & _ENCRYPTED),
        )

    def check(self, names: list[str], copies: int = 1) -> None:
        """Raise ValueError unless these members may be read, together.

        Args:
            copies: how many times their content is held at once while it is worked on.
        """
        infos = [self._info(name) for name in names]
        for info in infos:
            _check_kind(info.filename, info.compress_type, bool(info.flag_bits & _ENCRYPTED))
        stored = min(sum(info.compress_size for info in infos), self._size)
        declared = sum(info.file_size for info in infos)
        what = names[0] if len(names) == 1 else f"what is needed of it ({len(names)} members)"
        limits.refused(what, declared, stored, copies)

    def open(self, name: str, copies: int = 1) -> io.BufferedReader:
        """Open one member for reading, after :meth:`check`; to be closed by the caller."""
        self.check([name], copies)
        info = self._info(name)
        with readable("zip file"):
            stream = self._archive.open(info)
        return unzipped(stream, self._size, copies)

    def begin(self, name: str) -> io.BytesIO:
        """Return the first 64 KiB of one member, whatever it unpacks to."""
        with readable("zip file"), self._archive.open(self._info(name)) as stream:
            return io.BytesIO(stream.read(_BEGINNING))

    def read(self, name: str, copies: int = 1) -> bytes:
        """Return one member's bytes; it must be as long as it declares."""
        with self.open(name, copies) as stream:
            data = stream.read()
        if len(data) != self.declared(name):
            raise ValueError(f"{name} is shorter than it declares")
        return data

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name in self._twice:
            raise ValueError(f"it holds {name} twice")
        if name not in self._members:
            raise ValueError(f"it holds no {name}")
        return self._members[name]


@contextmanager
def open_zip(source: Path | BinaryIO) -> Iterator[Archive]:
    """Open a zip file, whose directory is bounded before it is read.

    Raises:
        OSError: it cannot be read.
        ValueError: not a zip file, damaged, of several disks, or with too large a directory.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as stream:
        archive, size = _opened(stream)
        with archive:
            yield Archive(archive, size)


def keep_zip(path: Path) -> Archive:
    """Open a zip file for as long as the archive is in use; several threads may read it.

    Raises:
        OSError, ValueError: as :func:`open_zip`.
    """
    stream = path.open("rb")
    try:
        archive, size = _opened(stream)
    except BaseException:
        stream.close()
        raise
    return Archive(archive, size)


def _opened(stream: BinaryIO) -> tuple[zipfile.ZipFile, int]:
    size = stream.seek(0, os.SEEK_END)
    _check_directory(stream, size)
    with readable("zip file"):
        return zipfile.ZipFile(stream), size


def unzipped(stream: IO[bytes], stored: int, copies: int = 1) -> io.BufferedReader:
    """Return a bounded stream of what another one unpacks.

    Args:
        stream: the one that unpacks, as of gzip or bz2.
        stored: the size of what it unpacks, bytes.

    Raises (while reading):
        ValueError: more comes out than ``stored`` bytes may become.
    """
    return io.BufferedReader(_Bounded(stream, stored, copies), _CHUNK)


class _Bounded(io.RawIOBase):
    def __init__(self, stream: IO[bytes], stored: int, copies: int) -> None:
        self._stream, self._stored, self._copies = stream, stored, copies
        self._read = 0

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readable(self) -> bool:
        return True

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_CHUNK) or b"", b""))

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with readable("compressed file"):
            data = self._stream.read(len(buffer))
        self._read += len(data)
        limits.refused("it", self._read, self._stored, self._copies)
        buffer[: len(data)] = data
        return len(data)


def _check_directory(stream: BinaryIO, size: int) -> None:
    """Raise ValueError for what zipfile would ignore, or read without a bound."""
    start = max(0, size - _END.size - _MOST_COMMENT - _LOCATOR.size - _END64.size)
    stream.seek(start)
    tail = stream.read(size - start)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise ValueError("not a zip file, or one that is cut")
    _, disk, first, here, entries, length, _, _ = _END.unpack_from(tail, place)
    # 0xFFFF: a larger directory says it again in its 64-bit record, right before this one.
    disks = max({disk, first} - {0xFFFF}, default=0) + (here != entries)
    if place >= _LOCATOR.size + _END64.size and tail[place - _LOCATOR.size :][:4] == b"PK\x06\x07":
        _, number, _, count = _LOCATOR.unpack_from(tail, place - _LOCATOR.size)
        record = _END64.unpack_from(tail, place - _LOCATOR.size - _END64.size)
        disks += number + (count > 1)
        if record[0] == b"PK\x06\x06":
            disks += record[4] + record[5] + (record[6] != record[7])
            length = record[8]
    if disks:
        raise ValueError("a zip that spans several disks, which is not read")
    length = min(length, size)
    if length * limits.DIRECTORY_COST > limits.memory():
        raise ValueError(
            f"its directory takes {limits.readable(length)}; --limit-memory "
            f"{limits.readable(length * limits.DIRECTORY_COST)} allows it"
        )
