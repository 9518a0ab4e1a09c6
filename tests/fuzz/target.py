"""What is fuzzed: a kind of file, how to make a good one, and how a verb reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any


@dataclass(frozen=True)
class Target:
    """A reader of files from outside.

    Attributes:
        name: how reports and the command line call it.
        make: writes good files into a folder, the same ones whenever it is called.
        read: reads the files of such a folder as a verb would. It may raise DdimxError only.
        edit: writes a folder's files anew, wrong in a way that only this kind of file can be
            (a tensor's name inside a pickle, say); called for every fourth input.
        changed: names of the files that are changed, as globs; the others stay as they are.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    edit: Callable[[Path, Random], Any] | None = None
    changed: tuple[str, ...] = ("**/*",)

    def files(self, folder: Path) -> list[Path]:
        """Return the files of a folder that are changed."""
        found = {path for pattern in self.changed for path in folder.glob(pattern)}
        return sorted(path for path in found if path.is_file())
