"""A digest inside a checkpoint, by which damage is found that leaves it readable.

Safetensors has no checksum: a file with a page of zeros among its numbers is read like any other.
A sealed file's first piece of metadata is the SHA-256 of all of its bytes, with zeros in the place
of the digest itself. Files without one, as version 0.1 and models have it, go on to be read: of
them only that is damage which makes them unreadable.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import BinaryIO, Protocol

from safetensors import SafetensorError, safe_open

from ...errors import DdimxError
from ...untrusted.text import shortened

KEY = "ddimx.sha256"
EMPTY = "0" * 64
# Inside a value the quotes would be escaped, so that only the key itself looks so.
_BEFORE = f'"{KEY}":"'.encode()
# The metadata of a file without a seal; another key beside them is a damaged one of ours.
_UNSEALED = {"format", "ddimx.schema", "ddimx.kind", "ddimx.config", "ddimx.info"}
_MOST_HEADER = 100_000_000  # bytes, of safetensors' own reader
_CHUNK = 1 << 20


class Hash(Protocol):
    """What :mod:`hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of what was added."""
        ...


def place_of(text: bytes) -> int | None:
    """Return where in a file's beginning the 64 characters of its digest stand, if it has one."""
    found = text.find(_BEFORE)
    return None if found < 0 else found + len(_BEFORE)


def write_seal(stream: BinaryIO, start: bytes, digest: Hash) -> None:
    """Put the digest of everything that was written into its place, where ``start`` has one."""
    place = place_of(start)
    if place is not None:
        stream.seek(place)
        stream.write(digest.hexdigest().encode())


def damage(path: Path) -> str | None:
    """Return what is damaged in a file of ours, or None; a sealed one is read to its end.

    Raises:
        DdimxError: it cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = stream.read(8)
            header = struct.unpack("<Q", length)[0] if size >= 8 else 0
            if not 0 < header <= min(size - 8, _MOST_HEADER):
                return f"it is cut off, or no safetensors file ({size} bytes)"
            start = length + stream.read(header)
            place = place_of(start)
            if place is not None:
                digest = hashlib.sha256(start[:place] + EMPTY.encode() + start[place + 64 :])
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                stored = start[place : place + 64]
                if digest.hexdigest().encode() != stored:
                    return "its bytes are not those that were written (SHA-256)"
                return None
        with safe_open(os.fspath(path), framework="np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, RuntimeError) as error:
        return f"not readable: {shortened(str(error))}"
    except OSError as error:
        if error.errno == errno.EIO:
            return f"not readable: {error.strerror}"
        raise DdimxError(f"cannot read {path}: {error.strerror or error}") from None
    # What is not ours at all, whoever reads the header refuses.
    strange = sorted(metadata.keys() - _UNSEALED) if "ddimx.schema" in metadata else []
    return f"its header holds {shortened(json.dumps(strange))}" if strange else None
