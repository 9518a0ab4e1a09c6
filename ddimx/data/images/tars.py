"""Pictures in tar files, as webdataset has them: what belongs to one has its name up to a dot.

A class is the whole number in ``000123.cls`` (webdataset's habit), or a name or a number under
``class`` in ``000123.json``, which ``ddimx sample --format tar`` writes. Headers are read once, and
then every picture from its place.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ...errors import DdimxError
from ...files import is_passed_over, suffix_of
from ...untrusted import limits
from ...untrusted.names import relative
from ...untrusted.tars import Member, read_at, tar_members
from ...untrusted.text import parse_json
from ..arrays import Integers

UNCLASSED = "pictures whose class cannot be read"
MOST_CLASSES = 10_000  # that are numbers without names
_BEGINNING = 1 << 16
_DIGITS = 9  # of a class's number, sign and end of line included: more than MOST_CLASSES needs
_NAME = 255  # characters of a class's name
_COMPANIONS = (".json", ".cls")


class Tars:
    """The pictures in one or several tars, by name; several threads may read them.

    In one tar names are those of its members. Of several, the tar's stands before: "a.tar/0.png".

    Attributes:
        names: the pictures', in no order.
        others: names of members that are neither pictures nor say a picture's class.
        hidden: names of members that are passed over.
        classes: by the picture's name, a name or a number; empty unless every picture has one.
        faults: pictures whose class cannot be read, where the others have one.
        note: why classes that were said are not used, or "".
    """

    def __init__(
        self, folder: Path, paths: Sequence[str], suffixes: Collection[str], *, one: bool
    ) -> None:
        """Read the headers of the tars of these names in ``folder``.

        Args:
            suffixes: of pictures.
            one: whether it is one tar, whose name does not stand before its members'.

        Raises:
            DdimxError: one that cannot be read, is cut, damaged or compressed, or holds a picture
                whose name leads elsewhere.
        """
        self._folder, self._paths, self._one = folder, list(paths), one
        self._places: dict[str, tuple[int, int, int]] = {}
        self.others: list[str] = []
        self.hidden: list[str] = []
        self.classes: dict[str, str | int] = {}
        self.faults: list[str] = []
        self.note = ""
        are_classed = True
        for number, name in enumerate(self._paths):
            path, before = folder / name, "" if one else f"{name}/"
            pictures: dict[str, Member] = {}
            companions: dict[str, Member] = {}
            try:
                for member in tar_members(path):  # of several with one name the last stays
                    suffix = suffix_of(member.name)
                    if suffix in suffixes:
                        relative(member.name, path)  # as a zip's: it becomes a message
                    if any(map(is_passed_over, member.name.split("/"))):
                        self.hidden.append(before + member.name)
                    elif suffix in suffixes:
                        pictures[member.name] = member
                    else:
                        companions[member.name] = member
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise DdimxError(f"{path}: not a readable tar of images ({reason})") from None
            used = set()
            for member in pictures.values():
                self._places[before + member.name] = (number, member.offset, member.size)
                own = _companions(member.name, companions)
                used.update(own)
                if not are_classed:
                    continue
                are_classed = self._read_class(path, before + member.name, own, companions)
                if not are_classed and self.classes:
                    self.note = f"classes are not used: {before}{member.name} has none"
            self.others += [before + name for name in companions if name not in used]
        if self.faults and not self.classes:
            self.note = f"classes are not used: that of {self.faults[0]} cannot be read, nor others"
        if not are_classed or not self.classes:
            self.classes, self.faults = {}, []

    @property
    def names(self) -> list[str]:
        """The pictures' names, in the order of the tars and their members."""
        return list(self._places)

    def name_within(self, name: str) -> str:
        """Return a picture's name without its tar's."""
        return name if self._one else name[len(self._paths[self._places[name][0]]) + 1 :]

    def read(self, name: str) -> bytes:
        """Return a picture's bytes.

        Raises:
            OSError: the tar cannot be read.
            ValueError: it has become shorter, or the picture is too large to be held.
        """
        return self._part(name, 0, self._places[name][2])

    def begin(self, name: str) -> io.BytesIO:
        """Return the first 64 KiB of a picture; raises as :meth:`read`."""
        return io.BytesIO(self._part(name, 0, min(_BEGINNING, self._places[name][2])))

    def end(self, name: str, count: int) -> bytes:
        """Return a picture's last bytes, at most so many; raises as :meth:`read`."""
        size = self._places[name][2]
        return self._part(name, max(0, size - count), min(count, size))

    def _part(self, name: str, start: int, count: int) -> bytes:
        number, offset, _ = self._places[name]
        _check_size(name, count)
        return read_at(self._folder / self._paths[number], offset + start, count)

    def _read_class(
        self, path: Path, name: str, own: Sequence[str], companions: dict[str, Member]
    ) -> bool:
        """Note the class of a picture; return whether its companions say one, readable or not."""
        for companion in own:
            _, offset, size = companions[companion]
            try:
                _check_size(companion, size * limits.TEXT_COST)
                text = read_at(path, offset, size)
                value = _number(text) if suffix_of(companion) == ".cls" else _named(text)
            except (OSError, ValueError):
                self.faults.append(name)
                return True
            if value is not None:
                self.classes[name] = value
                return True
        return False


def labels_of(tars: Tars, names: Sequence[str]) -> tuple[tuple[str, ...], Integers | None, str]:
    """Return the classes that tars state of pictures, the labels, and why there are none.

    Returns:
        The names, () where classes are numbers, which are their own labels; int64 [N], None for
        fewer than two classes; a sentence or "".
    """
    if not tars.classes:
        return (), None, tars.note
    values = [tars.classes[name] for name in names]
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) < len(values):
        return (), None, "classes are not used: some pictures have a name of it and some a number"
    if not texts:
        numbers = np.array(values, dtype=np.int64)
        least, most = int(numbers.min()), int(numbers.max())
        if least < 0 or most >= MOST_CLASSES:
            why = f"classes are not used: numbers from {least} to {most}, which lie between 0 and "
            return (), None, f"{why}{MOST_CLASSES - 1}"
        return (), numbers if least < most else None, ""
    different = sorted(set(texts))
    label = {name: number for number, name in enumerate(different)}
    if len(different) < 2:
        return (), None, ""
    labels = np.array([label[text] for text in texts], dtype=np.int64)
    return tuple(different), labels, ""


def _companions(name: str, companions: dict[str, Member]) -> list[str]:
    """Return the members that speak of a picture, by its name or the part before its first dot."""
    folder, slash, last = name.rpartition("/")
    stems = dict.fromkeys((last.rpartition(".")[0], last.partition(".")[0]))
    texts = (f"{folder}{slash}{stem}{suffix}" for stem in stems for suffix in _COMPANIONS)
    return [text for text in texts if text in companions]


def _named(text: bytes) -> str | int | None:
    """Return the name or the number that a JSON says under "class", None where there is neither."""
    value = parse_json(text)
    found = value.get("class") if isinstance(value, dict) else None
    if isinstance(found, str):
        return sys.intern(found) if len(found) <= _NAME else None
    return found if type(found) is int else None


def _number(text: bytes) -> int:
    """Return the whole number that a ``.cls`` holds; ValueError for anything else."""
    digits = text.strip()
    if not digits.removeprefix(b"-").isdigit() or len(digits) > _DIGITS:
        raise ValueError("not the number of a class")
    return int(digits)


def _check_size(name: str, size: int) -> None:
    """Raise ValueError for what is too large to be held in memory, however large the tar is."""
    if size > limits.memory():
        needed = limits.readable(size)
        raise ValueError(f"{name} takes {needed}; --limit-memory {needed} allows it")
