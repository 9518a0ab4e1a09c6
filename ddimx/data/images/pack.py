"""Making a packed set: every image decoded, cropped and resized once.

What is finished stays in ``<name>.unfinished/`` until all is done: ``pixels`` grows by chunks, and
``state.json`` says after each how far it is valid. A killed process loses the chunk in its hands,
and ends after its resumption with the same bytes as if it had not been killed.

At the end the two files of an earlier set go, the JSON first; then the new JSON is written, and
last ``pixels`` gets the array's name. A process that is killed in between leaves one of the files
or none, never two that do not belong together, and the same command ends its work.

Shards leave their pixels in files of their own, see :mod:`.pack_shards`; the last one packs what
these hold as one process packs what it decodes.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DdimxError, UsageError
from ...files import sweep, sync, write_json
from ...progress import Progress
from ...runs.lock import lock_folder
from ...runs.run import reporting
from ...runs.shared import begun_in_shards, remove_shared
from ...untrusted.names import all_inside, refusal
from ...untrusted.text import read_object
from ..arrays import Bytes
from .encoded import EncodedSource
from .folder import FolderSource
from .listing import passed_over
from .pack_pieces import Decoded, Pieces
from .packed import HEADER_SIZE, VERSION, array_header, index_path, read_index

ATTEMPTS = 3
CHUNK, CHUNK_BYTES = 256, 1 << 26  # at most so much between two records of how far it is


@dataclass
class _State:
    """How far a preparation is; ``bad`` holds (position, message)."""

    origin: dict[str, Any]
    done: int = 0
    digest: str = ""
    bad: list[tuple[int, str]] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """The number of images that are in the file of pixels."""
        return self.done - len(self.bad)


@dataclass(frozen=True)
class PackedSet:
    """A complete packed set.

    Attributes:
        path: the array's.
        images, held_out: how many there are in all, and how many of them are held out.
        bad: why images were left out, one message each.
        fingerprint: of the pixels.
        image_shape: (H, W, C) of every image.
        classes: the names of the labels, if there are any.
        start: how many images existed before this process began.
        old: whether it is one file, as version 0.1 wrote it.
    """

    path: Path
    images: int
    held_out: int
    bad: tuple[str, ...]
    fingerprint: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    start: int
    old: bool = False


class Packing:
    """One data set on its way into one file: training images first, then those held out."""

    def __init__(
        self, parts: tuple[EncodedSource, EncodedSource], origin: dict[str, Any], path: Path
    ) -> None:
        """Lay out the work; ``origin`` identifies the set: what it is made from, and how."""
        self._parts, self._path = parts, path
        self._total = sum(map(len, parts))
        self._image_bytes = math.prod(parts[0].image_shape)
        self._chunk = max(1, min(CHUNK, CHUNK_BYTES // self._image_bytes))
        prints = [part.fingerprint for part in parts]
        self._origin = origin | {"count": self._total, "names_sha256": prints}
        self._folder = unfinished(path)
        self._pixels, self._record = self._folder / "pixels", self._folder / "state.json"

    def run(self, progress: Progress, *, overwrite: bool = False) -> PackedSet:
        """Make the set, or continue one that was interrupted, or return one that is complete.

        Raises:
            UsageError: the set, or its unfinished folder, exists and is of something else.
            DdimxError: nothing could be decoded, or nothing can be written.
        """
        if not self._total:
            raise DdimxError("there are no images to pack")
        if self._path.exists() and not overwrite:
            return self._existing()
        self._check_beside(overwrite)
        self._check_folder()
        with lock_folder(self._folder), reporting(self._path):
            if overwrite:
                remove_shared(self._folder, *Pieces.PATTERNS)
            elif begun_in_shards(self._folder):
                raise UsageError(
                    f"{self._folder} was begun in shards, by another process just now; the same "
                    "command goes on with it"
                )
            self._sweep()
            state = self._state(overwrite)
            self._check_space(self._total - state.done)
            self._cut(state)
            start = state.done
            self._fill(state, self._decoded, progress)
            return self._finish(state, start)

    def _check_folder(self) -> None:
        # Files are written in it in place: through a link, another file would be overwritten.
        if self._folder.is_symlink():
            raise refusal(self._folder.name, self._path.parent, "is a symbolic link")

    def _sweep(self) -> None:
        """Remove what killed processes have left unfinished, where nothing leads elsewhere."""
        all_inside(self._folder, ["pixels", "state.json"], self._folder)
        sweep(self._folder)
        sweep(self._path.parent, index_path(self._path).name)

    def remarks(self) -> list[str]:
        """Return what was passed over in a folder or a zip, and why it has no classes."""
        part = self._parts[0]
        if not isinstance(part, FolderSource):
            return []
        lines = passed_over(part.listing.skipped)
        return [f"{part.listing.root}: {line}" for line in (*lines, *part.listing.notes)]

    def _check_beside(self, overwrite: bool) -> None:
        """Refuse to replace a JSON that is not of this set, unless it is to be overwritten."""
        beside = index_path(self._path)
        if overwrite or not os.path.lexists(beside):
            return
        try:
            origin = read_object(beside).get("origin")
        except (OSError, ValueError):
            origin = None
        if origin != self._origin:
            raise UsageError(
                f"{beside} is there and is of something else; give --overwrite to replace it, or "
                "another name"
            )

    def _existing(self) -> PackedSet:
        """Return the complete set, if it has this origin.

        Raises:
            UsageError: it is of something else.
        """
        if not self._path.is_file():
            raise UsageError(
                f"{self._path} exists and is not a plain file; give the name of a file"
            )
        try:
            index = read_index(self._path)
        except DdimxError:
            index = {"origin": None}
        if index["origin"] != self._origin:
            raise UsageError(
                f"{self._path} is there and is made from something else; give --overwrite to "
                "replace it, or another name"
            )
        shutil.rmtree(self._folder, ignore_errors=True)  # of a process killed after its last rename
        count = self._total - len(index["bad"])
        held_out = count - index["held_out_from"]
        return PackedSet(
            self._path,
            count,
            held_out,
            tuple(index["bad"]),
            index["fingerprint"],
            self._parts[0].image_shape,
            tuple(index["classes"]),
            self._total,
            old="version" not in index,
        )

    def _state(self, overwrite: bool = False) -> _State:
        """Return how far the work of one process alone is.

        Raises:
            UsageError: the unfinished folder is of something else.
            DdimxError: the record is damaged.
        """
        fresh = _State(self._origin)
        state = self._read_state() if self._record.is_file() else fresh
        if state.origin != self._origin:
            if not overwrite:
                raise UsageError(
                    f"{self._folder} holds an unfinished file of something else; give "
                    "--overwrite to begin again, or another name"
                )
            state = fresh
        if not self._pixels.is_file():  # of a process killed after its last rename
            state = fresh
        return state

    def _check_space(self, images: int) -> None:
        """Raise DdimxError unless so many more images fit onto the disk."""
        needed = images * self._image_bytes
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise DdimxError(
                f"{self._path} needs {needed / 1e9:.1f} GB more and the disk has "
                f"{free / 1e9:.1f} GB left"
            )

    def _cut(self, state: _State) -> None:
        """Cut the file of pixels where it ends according to the record.

        Raises:
            DdimxError: it is shorter.
        """
        with self._pixels.open("ab") as stream:
            valid = HEADER_SIZE + state.kept * self._image_bytes
            if state.done and stream.tell() < valid:
                raise DdimxError(f"{self._pixels} is shorter than recorded; remove {self._folder}")
            stream.truncate(valid)

    def _read_state(self) -> _State:
        try:
            values = read_object(self._record)
            values["bad"] = [(position, message) for position, message in values["bad"]]
            state = _State(**values)
            if not (
                type(state.done) is int
                and len(state.bad) <= state.done <= self._total
                and isinstance(state.digest, str)
                and all(type(p) is int and isinstance(m, str) for p, m in state.bad)
            ):
                raise ValueError("its numbers do not fit")
        except (ValueError, TypeError, KeyError) as error:
            raise DdimxError(f"{self._record}: {error}; remove {self._folder}") from None
        return state

    def _fill(self, state: _State, chunk: Callable[[range], Decoded], progress: Progress) -> None:
        """Append chunk after chunk; ``chunk`` returns the images at positions."""
        progress.start("packing", self._total, state.done)
        with self._pixels.open("ab") as stream:
            while state.done < self._total:
                positions = range(state.done, min(state.done + self._chunk, self._total))
                decoded = chunk(positions)
                stream.write(b"".join(decoded.good))
                stream.flush()
                os.fsync(stream.fileno())
                state.digest = _chain(state.digest, decoded.good)
                state.done = positions.stop
                state.bad += decoded.bad
                write_json(self._record, asdict(state))
                progress.advance(len(positions), f"{len(state.bad)} bad" if state.bad else "")
        progress.stop()

    def _decoded(self, positions: range) -> Decoded:
        """Decode the images at positions, and say which cannot be."""
        cut = len(self._parts[0])
        train = [p for p in positions if p < cut]
        held_out = [p - cut for p in positions if p >= cut]
        results: list[Bytes | DdimxError] = self._parts[0].each(train)
        results += self._parts[1].each(held_out)
        decoded = Decoded([], [])
        for position, result in zip(positions, results, strict=True):
            if isinstance(result, DdimxError):
                decoded.bad.append((position, str(result)))
            else:
                decoded.good.append(result.tobytes())
        return decoded

    def _finish(self, state: _State, start: int) -> PackedSet:
        """Add the header, and put both files in their places."""
        if not state.kept:
            _remove(self._folder)  # once they are mended, the same command begins anew
            raise DdimxError(f"none of {self._total} images can be decoded: {state.bad[0][1]}")
        cut = len(self._parts[0])
        training = cut - sum(position < cut for position, _ in state.bad)
        messages = [message for _, message in state.bad]
        shape = (state.kept, *self._parts[0].image_shape)
        index = {
            "version": VERSION,
            "shape": list(shape),
            "held_out_from": training,
            "labels": self._labels({position for position, _ in state.bad}),
            "classes": list(self._parts[0].classes),
            "fingerprint": state.digest,
            "origin": self._origin,
            "bad": messages,
        }
        with self._pixels.open("r+b") as stream:
            stream.write(array_header(shape))
        sync(self._pixels)
        beside = index_path(self._path)
        for earlier in (beside, self._path):
            earlier.unlink(missing_ok=True)
            sync(self._path.parent)
        write_json(beside, index)
        self._pixels.replace(self._path)
        sync(self._path.parent)
        _remove(self._folder)
        held_out = state.kept - training
        return PackedSet(
            self._path,
            state.kept,
            held_out,
            tuple(messages),
            state.digest,
            self._parts[0].image_shape,
            tuple(self._parts[0].classes),
            start,
        )

    def _labels(self, bad: set[int]) -> list[int] | None:
        """Return the labels of the images that were kept."""
        own = [part.labels for part in self._parts]
        if own[0] is None or own[1] is None:
            return None
        both: list[int] = np.concatenate([own[0], own[1]]).tolist()
        return [label for position, label in enumerate(both) if position not in bad]


def unfinished(path: Path) -> Path:
    """Return the folder in which a packed set is made."""
    return path.with_name(path.name + ".unfinished")


def _remove(folder: Path) -> None:
    """Remove a folder in which another shard, which has nothing to do, may still come and go."""
    for attempt in range(ATTEMPTS):
        try:
            shutil.rmtree(folder)
            return
        except OSError:
            if not folder.exists():
                return
            if attempt == ATTEMPTS - 1:
                raise


def _chain(digest: str, images: list[bytes]) -> str:
    """Return the digest of a digest and a chunk; a plain SHA-256 could not be resumed."""
    chain = hashlib.sha256(digest.encode())
    for image in images:
        chain.update(image)
    return chain.hexdigest()
