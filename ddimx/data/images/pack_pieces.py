"""What shards of a packed set leave for the one that joins them: pixels in pieces, and what is bad.

A piece is the images of consecutive positions, at most a chunk, in two files beside the records of
the shards:

    000000256-000000512.pixels  the images that could be decoded, one behind the other
    000000256-000000512.bad     JSON, [[position, message], ...]; only where some could not be

The second is written first, so that a piece with pixels is whole. Pieces say by themselves what is
decoded: a killed shard loses the piece in its hands, also where others go on in other shards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import DdimxError
from ...files import write_bytes, write_json
from ...runs.shards import SHARDS
from ...untrusted.text import read_json

_NAME = re.compile(r"([0-9]{9,15})-([0-9]{9,15})\.pixels")


@dataclass(frozen=True)
class Decoded:
    """Images at consecutive positions: bytes of the good ones, (position, why) of the others."""

    good: list[bytes]
    bad: list[tuple[int, str]]


@dataclass(frozen=True)
class Piece:
    """A piece that is on the disk."""

    path: Path
    positions: range


class Pieces:
    """The pieces of a set in its unfinished folder."""

    PATTERNS = ("*-*.pixels", "*-*.bad")  # of their names

    def __init__(self, folder: Path, image_bytes: int) -> None:
        """Look at nothing yet; ``image_bytes`` is the size of an image."""
        self._folder, self._image_bytes = folder / SHARDS, image_bytes
        self._pieces: list[Piece] | None = None

    def listed(self) -> list[Piece]:
        """Return those that are on the disk now, by position."""
        found = []
        for path in self._folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                found.append(Piece(path, range(int(match[1]), int(match[2]))))
        return sorted(found, key=lambda piece: piece.positions.start)

    def write(self, positions: range, decoded: Decoded) -> None:
        """Write a piece, whole or not at all."""
        name = f"{positions.start:09d}-{positions.stop:09d}"
        if decoded.bad:
            write_json(self._folder / f"{name}.bad", decoded.bad)
        write_bytes(self._folder / f"{name}.pixels", b"".join(decoded.good))

    def read(self, positions: range) -> Decoded:
        """Return the images at positions, all of which are in pieces.

        Whoever asks for these has no more need of those before them: pieces that end there go.

        Raises:
            DdimxError: a piece is not of the size that it should have.
        """
        if self._pieces is None:
            self._pieces = self.listed()
        while self._pieces and self._pieces[0].positions.stop <= positions.start:
            piece = self._pieces.pop(0)
            piece.path.unlink(missing_ok=True)
            piece.path.with_suffix(".bad").unlink(missing_ok=True)
        decoded = Decoded([], [])
        for piece in self._pieces:
            if piece.positions.start >= positions.stop:
                break
            decoded.good.extend(self._good(piece, positions))
            decoded.bad.extend(bad for bad in self._bad(piece) if bad[0] in positions)
        return decoded

    def _good(self, piece: Piece, positions: range) -> Iterator[bytes]:
        """Yield those images of a piece that are at positions."""
        bad = {position for position, _ in self._bad(piece)}
        good = [position for position in piece.positions if position not in bad]
        size = piece.path.stat().st_size
        if size != len(good) * self._image_bytes:
            raise DdimxError(
                f"{piece.path}: {size} bytes, where {len(good)} images of {self._image_bytes} "
                "should be; remove it and the records (.json) beside it, and start all shards again"
            )
        with piece.path.open("rb") as stream:
            for place, position in enumerate(good):
                if position in positions:
                    stream.seek(place * self._image_bytes)
                    yield stream.read(self._image_bytes)

    def _bad(self, piece: Piece) -> list[tuple[int, str]]:
        path = piece.path.with_suffix(".bad")
        try:
            return [(int(position), str(reason)) for position, reason in read_json(path)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise DdimxError(
                f"{path}: {error}; remove it, the pixels and the records (.json) beside it, and "
                "start all shards again"
            ) from None
