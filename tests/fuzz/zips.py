"""Zip files whose every field can be a lie."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from random import Random

from .values import NUMBERS, TEXTS, zeros


@dataclass
class Member:
    """One member as its headers tell, beside the bytes that are really there."""

    name: bytes
    method: int
    packed: bytes
    crc: int
    size: int
    stated: int = -1  # of the packed bytes; -1: the truth
    flags: int = 0
    disk: int = 0

    def headers(self, offset: int) -> tuple[bytes, bytes]:
        """Return the local header and the one in the directory."""
        stated = len(self.packed) if self.stated < 0 else self.stated
        sizes = (self.crc, stated & 0xFFFFFFFF, self.size & 0xFFFFFFFF)
        common = struct.pack("<5H3L", 20, self.flags, self.method, 0, 33, *sizes)
        name = self.name[:65535]
        local = b"PK\x03\x04" + common + struct.pack("<2H", len(name), 0) + name
        place = struct.pack("<5H2L", len(name), 0, 0, self.disk, 0, 0, offset & 0xFFFFFFFF)
        return local, b"PK\x01\x02" + struct.pack("<H", 20) + common + place + name


def stored(name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> Member:
    """Return an honest member."""
    packed = data
    if method == zipfile.ZIP_DEFLATED:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = packer.compress(data) + packer.flush()
    return Member(name.encode("utf-8", "replace"), method, packed, zlib.crc32(data), len(data))


def bomb(name: str, mebibytes: int) -> Member:
    """Return a member of zeros."""
    packed, crc = zeros(mebibytes)
    return Member(name.encode(), zipfile.ZIP_DEFLATED, packed, crc, mebibytes << 20)


def packed(members: list[Member], disk: int = 0, entries: int = -1, comment: bytes = b"") -> bytes:
    """Return a zip file."""
    body, directory = b"", b""
    for member in members:
        local, central = member.headers(len(body))
        body += local + member.packed
        directory += central
    count = len(members) if entries < 0 else entries
    end = struct.pack("<4H2LH", disk, disk, count & 0xFFFF, count & 0xFFFF, len(directory),
                      len(body), len(comment))  # fmt: skip
    return body + directory + b"PK\x05\x06" + end + comment


def spanned(data: bytes) -> bytes:
    """Return a zip file that says, in a 64-bit record, that it lies on several disks."""
    place = data.rfind(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 46, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 1, place, 2)
    return data[:place] + record + locator + data[place:]


def unpacked(data: bytes) -> list[tuple[str, bytes]]:
    """Return the members of a good zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(i.filename, archive.read(i)) for i in archive.infolist() if i.file_size < 1 << 24]


def edited(data: bytes, rng: Random) -> bytes:
    """Change a member's content, its name, or what the headers say of it."""
    from .mutate import mutated, plain

    try:
        inside = unpacked(data)
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, KeyError, zlib.error):
        return plain(data, rng)
    if not inside:
        return plain(data, rng)
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    place, kind = rng.randrange(len(inside)), rng.randrange(12)
    if kind < 6:
        name, content = inside[place]
        inside[place] = (name, mutated(content, rng))
    members = [stored(name, content, method) for name, content in inside]
    chosen = members[place]
    if kind == 6:
        chosen.name = rng.choice(
            (*TEXTS, "tokens", "tokens/", "../x", *(n for n, _ in inside))
        ).encode("utf-8", "surrogatepass")
    elif kind == 7:
        field = rng.choice(("crc", "size", "stated"))
        setattr(chosen, field, rng.choice(NUMBERS) % (1 << 32))
    elif kind == 8:
        chosen.method = rng.choice((1, 8, 9, 12, 14, 93, 99))
    elif kind == 9:
        chosen.flags = rng.choice((0x1, 0x8, 0x20, 0x40, 0x800, 0xFFFF))
    elif kind == 10:
        replaced = bomb(chosen.name.decode("utf-8", "replace"), rng.choice((300, 600, 1500)))
        members = [*members, replaced] if rng.random() < 0.5 else [replaced, *members]
        if rng.random() < 0.7:
            members.remove(chosen)
    elif kind == 11:
        if rng.random() < 0.5:
            return spanned(packed(members))
        return packed(members, rng.choice((0, 1, 65535)), rng.choice((-1, 0, 65535)), b"x" * 9)
    return packed(members)
