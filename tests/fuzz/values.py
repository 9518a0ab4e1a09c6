"""Values that break readers, and small tools of the mutators."""

from __future__ import annotations

import zlib
from functools import lru_cache
from random import Random

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 256, 4096, 65535, 10**6, 10**9, 10**12, 2**31 - 1, 2**31)
NUMBERS += (2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(10**12))
FLOATS = ("0.5", "-0.0", "1e-320", "1e308", "1e309", "-1e309", "1e400", "NaN", "Infinity", "1e5")
DIGITS = "9" * 5000
DEPTH = 5000
TEXTS = ("", " ", "a", "0", "\0", "../../x", "/x", "é" * 40, "\U0001f600", "\ud800", "a" * 20000)
TEXTS += ("%s%n", "None", "\n\n", "x" * 300, "~", ".", "..")
BLOCK = 1 << 20


def integer_bytes(rng: Random) -> bytes:
    """Return a number as a binary field of 1, 2, 4 or 8 bytes."""
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice(NUMBERS) % (1 << 8 * width)
    return number.to_bytes(width, rng.choice(("little", "big")))


@lru_cache
def zeros(count: int) -> tuple[bytes, int]:
    """Return ``count`` MiB of zeros as a raw deflate stream, and their CRC-32.

    A block that ends in a full flush refers to nothing before it, so that it can be repeated.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc, one = 0, bytes(BLOCK)
    for _ in range(count):
        crc = zlib.crc32(one, crc)
    return block * count + b"\x03\x00", crc


def position(rng: Random, length: int) -> int:
    """Return a place in data: anywhere, or near the start or end, where headers are."""
    span = rng.choice((length, min(length, 64), min(length, 512)))
    place = rng.randrange(span + 1)
    return place if rng.random() < 0.7 else length - place
