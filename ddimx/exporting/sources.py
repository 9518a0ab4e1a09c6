"""Which shapes to export: a file, a folder, or the newest run that made some."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..octree.file import SUFFIXES, Shape, holds_tokens, token_files
from ..runs.folder import ROOT

WAY_OUT = "'ddimx prepare octrees' makes them of meshes and points"


@dataclass(frozen=True)
class ExportItem:
    """One shape to export.

    Attributes:
        source: its token file, or the shape itself.
        base: the path of its files, without suffix.
        exact: the path of its one file, where a name was asked for.
    """

    source: Path | Shape
    base: Path
    exact: Path | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return str(self.source) if isinstance(self.source, Path) else self.base.name


def items_of(source: Path, out: Path | None) -> list[ExportItem]:
    """Return the shapes of a token file or of a folder, those in its subfolders included.

    Args:
        out: a folder to write to, in which subfolders are kept; None writes beside the sources.

    Raises:
        UsageError: no such file or folder, none of its files ends in .npz or .npy, or two files
            would be written to one name.
    """
    if not source.exists():
        raise UsageError(f"no file or folder {source}")
    if source.is_dir():
        files = token_files(source)
        if not files:
            raise UsageError(f"{source}: no token files (.npz, .npy) in this folder; {WAY_OUT}")
        root = source
    elif source.suffix.lower() in SUFFIXES:
        files, root = [source], source.parent
    else:
        raise UsageError(f"{source}: token files end in .npz or .npy; {WAY_OUT}")
    bases = [(out or root) / file.relative_to(root).with_suffix("") for file in files]
    base, count = Counter(bases).most_common(1)[0]
    if count > 1:
        both = [str(f) for f, b in zip(files, bases, strict=True) if b == base]
        raise UsageError(f"{' and '.join(both)} would be written to the same name")
    return [ExportItem(file, base) for file, base in zip(files, bases, strict=True)]


def newest_run(root: Path = ROOT) -> Path | None:
    """Return the newest run folder that holds token files, None if there is none."""
    if not root.is_dir():
        return None
    numbered = [
        (int(m[1]), path)
        for path in root.iterdir()
        if (m := (re.match(r"(\d{4,})-", path.name) if path.is_dir() else None))
    ]
    for _, path in sorted(numbered, reverse=True):
        if any(holds_tokens(file) for file in token_files(path)):
            return path
    return None
