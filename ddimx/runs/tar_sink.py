"""Samples in tars of some thousand each, as readers of webdataset expect them.

A million files in a folder are more than most file systems take well. A tar holds for every sample
``000123.png``, byte for byte the file that ``--format png`` writes, and after it ``000123.json``:
``index``, ``seed``, ``class`` where the model has classes, and under ``about`` the texts that stand
in the PNG. Equal samples give equal tars: no time, owner or path is in them.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ..config import DataConfig
from ..errors import DdimxError
from ..files import remove_if_empty, sync, whole_file
from ..untrusted.names import inside
from ..untrusted.tars import BLOCK, Member, header_at, read_at, tar_members
from .formats import PARTS, PIECE
from .image_sink import ImageSink
from .indices import Indices
from .pictures import save_image

UNIT = 4096  # samples of a tar: some 16 MB at 32x32, some 500 MB at 256x256
RECORD = 20 * BLOCK  # tar files are multiples of it
_TAR = re.compile(r"^samples-(\d{6,})\.tar$")
_PIECE = re.compile(rf"^(\d{{8,}})-(\d+){re.escape(PIECE)}$")
_LAST = re.compile(rb"^(\d{6,})\.json$")
_TAIL = 1 << 16
_COPY = 1 << 20
_MEMBERS = 2  # of a sample


@dataclass(frozen=True)
class _Held:
    """A file that holds the samples of a range of indices: a tar, complete or not, or a piece."""

    path: Path
    indices: range


class TarSink(ImageSink):
    """Tars of 4,096 samples: ``samples-000002.tar`` holds the run's third 4,096, counted from 0.

    A batch is first written as a piece, a small tar in the folder ``parts``; once the samples of a
    tar are all there, it is put together of its pieces, which are then removed. Of a run that grew,
    the last tar is replaced by a longer one.
    """

    one_file = False

    def __init__(
        self,
        folder: Path,
        data: DataConfig,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
        unit: int | None = None,
    ) -> None:
        """Write to ``folder``; ``classes`` and ``about`` as :class:`ImageSink` has them.

        Args:
            unit: the samples of a tar, ``UNIT`` if None.
        """
        super().__init__(folder, data, "png", classes, about)
        self.unit = UNIT if unit is None else unit
        self._run = range(1 << 62)
        self._held: dict[int, list[_Held]] | None = None

    def begin(self, indices: range) -> None:
        """Take the indices of the whole run: the first tar begins with the first of them."""
        self._run, self._held = indices, None

    def files(self, indices: range) -> list[str]:
        """Return the names of the tars of a run of these indices."""
        return [self._tar(number).name for number in range(-(-len(indices) // self.unit))]

    def done(self) -> Set[int]:
        """Return the indices in tars and in pieces, by names and the ends of tars."""
        self._held = None
        return Indices(ranges=(each.indices for held in self._files().values() for each in held))

    def write(
        self, indices: Sequence[int], samples: Sequence[Tensor], labels: Tensor | None
    ) -> None:
        """Write the pieces of a batch, samples float32 [C, H, W], and the tars that are complete.

        Raises:
            DdimxError: a piece or a tar that is damaged or of something else.
        """
        folder = inside(self._folder, PARTS, self._folder)
        held = self._files()
        members = self._members(indices, samples, labels)
        for piece in self._consecutive(indices):
            path = folder / f"{piece.start:08d}-{len(piece)}{PIECE}"
            with (
                whole_file(path) as part,
                tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar,
            ):
                for name, content in (member for _ in piece for member in next(members)):
                    info = tarfile.TarInfo(name)  # with neither time nor owner
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            number = self._number(piece.start)
            held.setdefault(number, []).append(_Held(path, piece))
        for number in dict.fromkeys(map(self._number, indices)):
            self._join(number)

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Put together the tars that are not yet, and return the names of all.

        Raises:
            DdimxError: samples are missing, or as :meth:`write`.
        """
        self.begin(indices)
        names = self.files(indices)
        for number, name in enumerate(names):
            if not self._join(number):
                raise DdimxError(
                    f"{self._folder / name}: samples of it are missing; the same command makes them"
                )
        return names

    def tidy(self) -> None:
        """Remove the pieces of tars that are complete."""
        self._held = None
        for number in self._files():
            self._join(number)
        remove_if_empty(inside(self._folder, PARTS, self._folder))

    def pixels(self, indices: range) -> npt.NDArray[np.uint8]:
        """Read images out of the tars, uint8 [B, H, W, C]."""
        pictures = []
        places: dict[str, tuple[int, int]] = {}
        number = -1
        for index in indices:
            if self._number(index) != number:
                number = self._number(index)
                places = {m.name: (m.offset, m.size) for m in _contents(self._tar(number))}
            name = f"{index:06d}.png"
            if name not in places:
                raise DdimxError(f"{self._tar(number)}: holds no {name}")
            content = read_at(self._tar(number), *places[name])
            picture = np.asarray(Image.open(io.BytesIO(content)))
            pictures.append(picture if picture.ndim == 3 else picture[..., None])
        return np.stack(pictures)

    def _number(self, index: int) -> int:
        return (index - self._run.start) // self.unit

    def _wanted(self, number: int) -> range:
        """Return the indices of the run that belong into a tar."""
        start = self._run.start + number * self.unit
        return range(start, min(start + self.unit, self._run.stop))

    def _tar(self, number: int) -> Path:
        return self._folder / f"samples-{number:06d}.tar"

    def _members(
        self, indices: Sequence[int], samples: Sequence[Tensor], labels: Tensor | None
    ) -> Iterator[list[tuple[str, bytes]]]:
        """Yield the names and contents of each sample's members."""
        for index, picture, facts in self.described(indices, samples, labels):
            stream = io.BytesIO()
            save_image(stream, picture, "png", facts)
            said: dict[str, object] = {"index": index}
            if facts.get("seed", "").isdigit():
                said["seed"] = int(facts["seed"])
            if "class" in facts:
                said["class"] = facts["class"]
            text = json.dumps(said | {"about": facts}, separators=(",", ":"))
            yield [
                (f"{index:06d}.png", stream.getvalue()),
                (f"{index:06d}.json", text.encode()),
            ]

    def _consecutive(self, indices: Sequence[int]) -> list[range]:
        """Return a batch's indices as ranges, of which each belongs into one tar."""
        ranges: list[range] = []
        for index in indices:
            last = ranges[-1] if ranges else range(0)
            if last and index == last.stop and self._number(index) == self._number(last.start):
                ranges[-1] = range(last.start, index + 1)
            else:
                ranges.append(range(index, index + 1))
        return ranges

    def _files(self) -> dict[int, list[_Held]]:
        """Return which files hold what belongs into each tar, looked up once."""
        if self._held is not None:
            return self._held
        self._held = {}
        found: list[_Held] = []
        parts = inside(self._folder, PARTS, self._folder)
        for path in parts.iterdir() if parts.is_dir() else ():
            if match := _PIECE.match(path.name):
                start = int(match[1])
                found.append(_Held(path, range(start, start + int(match[2]))))
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            match = _TAR.match(path.name)
            if match and (wanted := self._wanted(int(match[1]))):  # no other is of this run
                found.append(_Held(path, range(wanted.start, _last_index(path) + 1)))
        for each in found:
            if each.indices and each.indices.start in self._run:
                self._held.setdefault(self._number(each.indices.start), []).append(each)
        return self._held

    def _join(self, number: int) -> bool:
        """Make a tar if all its samples are there; return whether it is complete.

        Its pieces go once it is on disk under its name.
        """
        wanted, path, held = self._wanted(number), self._tar(number), self._files()
        if sum(len(each.indices) for each in held.get(number, ())) < len(wanted):
            return False
        sources: list[tuple[_Held, range]] = []
        reached = wanted.start
        for each in sorted(held.get(number, ()), key=lambda h: (h.indices.start, -len(h.indices))):
            stop = min(each.indices.stop, wanted.stop)
            if each.indices.start <= reached < stop:
                sources.append((each, range(reached, stop)))
                reached = stop
        if reached < wanted.stop:
            return False
        if [each.path for each, _ in sources] != [path]:
            with whole_file(path) as part, part.open("wb") as target:
                for each, indices in sources:
                    _copy(each, indices, target)
                target.write(bytes(2 * BLOCK))
                target.write(bytes(-target.tell() % RECORD))
            sync(self._folder)  # before the pieces go, whatever comes first of a batch's syncs
        for each in held.get(number, ()):
            if each.path != path:
                each.path.unlink(missing_ok=True)
        held[number] = [_Held(path, wanted)]
        return True


def _contents(path: Path) -> list[Member]:
    """Return the members of a tar; DdimxError if it is damaged."""
    try:
        return list(tar_members(path))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> DdimxError:
    return DdimxError(
        f"{path}: not what this run wrote ({why}); remove it, and the same command makes it again"
    )


def _last_index(path: Path) -> int:
    """Return the index of the last sample in a tar, from its end where that tells."""
    try:
        size = path.stat().st_size
        start = max(0, size - _TAIL) // BLOCK * BLOCK
        tail = read_at(path, start, size - start)
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if size % RECORD or tail[-2 * BLOCK :].strip(b"\0"):
        raise _damaged(path, "it is cut")
    for at in range(len(tail) // BLOCK * BLOCK - BLOCK, -1, -BLOCK):
        header = header_at(tail[at : at + BLOCK])
        if header is not None and (match := _LAST.match(header[0])):
            return int(match[1])
    last = _contents(path)[-1:]  # its JSON is longer
    match = _LAST.match(last[0].name.encode()) if last else None
    if match is None:
        raise _damaged(path, "it ends without a sample")
    return int(match[1])


def _copy(held: _Held, indices: range, target: io.BufferedIOBase) -> None:
    """Copy the members of some of the samples that a file holds, as they stand there."""
    members = _contents(held.path)
    expected = [f"{i:06d}.{kind}" for i in held.indices for kind in ("png", "json")]
    if [member.name for member in members] != expected:
        raise _damaged(held.path, "its members are others")
    first, last = (
        members[(index - held.indices.start) * _MEMBERS + offset]
        for index, offset in ((indices[0], 0), (indices[-1], 1))
    )
    start, stop = first.offset - BLOCK, last.offset + -(-last.size // BLOCK) * BLOCK
    with held.path.open("rb") as source:
        source.seek(start)
        while start < stop:
            chunk = source.read(min(_COPY, stop - start))
            if not chunk:
                raise _damaged(held.path, "it is cut")
            target.write(chunk)
            start += len(chunk)
