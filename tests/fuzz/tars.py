"""Tars made by hand: any field, with the checksum that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from .mutate import mutated
from .values import integer_bytes

BLOCK = 512


def entry(name: str, content: bytes, *, kind: bytes = b"0", size: bytes | None = None) -> bytes:
    """Return a member: its header in the form of POSIX, and its bytes up to a whole block."""
    header = bytearray(BLOCK)
    header[: len(name.encode())] = name.encode()
    header[100:108] = b"0000644\0"
    header[124:136] = b"%011o\0" % len(content) if size is None else size
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    return checked(header) + content + bytes(-len(content) % BLOCK)


def checked(header: bytes | bytearray) -> bytes:
    """Return a header with the checksum of its bytes."""
    block = bytearray(header)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """Return a tar of plain files."""
    return b"".join(entry(name, content) for name, content in members.items()) + bytes(2 * BLOCK)


def edited(data: bytes, rng: Random) -> bytes:
    """Return a tar with another field in some header, or other bytes in one block.

    Headers keep sound checksums, without which nobody would read on.
    """
    blocks = [bytearray(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    headers = [block for block in blocks if block[257:262] == b"ustar"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        block = rng.choice(headers)
        at = rng.choice((0, 124, 124, 156, 156, 257, 345, 482))
        field = rng.choice((b"L", b"x", b"g", b"S", b"1", b"5", b"\x80", b"-1", b"../", b"/"))
        field = integer_bytes(rng)[:12] if rng.random() < 0.3 else field
        block[at : at + len(field)] = field
        block[:] = checked(block)
    if rng.random() < 0.3:
        block = rng.choice(blocks)
        if block not in headers:
            block[:] = mutated(bytes(block), rng)
    if rng.random() < 0.2:
        blocks = blocks[: rng.randrange(len(blocks))]
    return b"".join(blocks)
