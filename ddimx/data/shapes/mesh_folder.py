"""Finding meshes and point clouds in a folder: how they lie says what they are called.

    SRC/<id>.obj                                       one category, all together
    SRC/<category>/<id>.obj                            a folder for each category
    SRC/<category>/<train|val|test>/<id>.obj           the seed project's tree; its parts are kept
    SRC/<synset>/<id>/models/model_normalized.obj      ShapeNetCore v2 (v1: <id>/model.obj)

What lies deeper is named by its whole path. ShapeNet's ``all.csv``, if it lies in SRC, says which
shape belongs to which part.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import DdimxError, UsageError, unknown
from ...untrusted.foreign import reason
from ...untrusted.text import read_bytes
from .jobs import Job
from .lists import PARTS
from .meshes import EXTENSIONS, kind_of, read_surface, stamp_of
from .shapenet import SYNSETS

_PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LINKED = 100  # ways by which a folder is looked into, where links lead to it
_SYNSET = re.compile(r"\d{8}")
_SHAPENET_FILES = (("models", "model_normalized.obj"), ("model.obj",))


@dataclass(frozen=True)
class ShapeFile:
    """A file with what its place says: category, identity, and part where one is given."""

    path: Path
    category: str
    shape_id: str
    part: str | None


def find_shapes(
    source: Path, *, category: str | None = None, skip: Path | None = None
) -> list[ShapeFile]:
    """Return the shapes in a folder, ordered by their paths.

    Args:
        category: the name of what lies in no category's folder (default: the folder's own); of
            the folders' categories only this one is taken.
        skip: a folder within that is not looked into.

    Raises:
        UsageError: no such folder, nothing in it that can be read, a name that is not text, or no
            such category.
    """
    if not source.is_dir():
        raise UsageError(f"no folder {source}")
    csv_parts = _official_parts(source / "all.csv")
    shapes = [shape for path in _files(source, skip) if (shape := _place(source, path, category))]
    if not shapes:
        raise UsageError(f"no meshes or point clouds ({' '.join(EXTENSIONS)}) in {source}")
    if category is not None:
        names = {shape.category for shape in shapes}
        shapes = [shape for shape in shapes if shape.category == category]
        if not shapes:
            raise unknown("category", category, names)
    return [_with_part(shape, csv_parts) for shape in shapes]


def job_of(shape: ShapeFile) -> Job:
    """Return what makes a found shape."""
    stamp, size = stamp_of(shape.path)
    return Job(
        category=shape.category,
        shape_id=shape.shape_id,
        origin=str(shape.path),
        stamp=stamp,
        read=partial(read_surface, shape.path),
        size=size,
    )


def part_of(category: str, shape_id: str, shares: tuple[float, float, float]) -> str:
    """Return "train", "val" or "test" for a shape, by a hash of its name and of nothing else.

    So a shape stays where it is when others come or go. The shares are met on the average.
    """
    digest = hashlib.sha256(f"{category}/{shape_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for part, share in zip(PARTS, shares, strict=True):
        place -= share
        if place < 0:
            return part
    return PARTS[0]


def _files(source: Path, skip: Path | None) -> Iterator[Path]:
    """Yield the files of a known kind, hidden ones left out, in order."""
    closed = None if skip is None else skip.resolve()
    ancestors: dict[str, frozenset[tuple[int, int]]] = {}
    times: Counter[tuple[int, int]] = Counter()
    for folder, subfolders, names in os.walk(source, followlinks=True):
        status = os.stat(folder)
        own = (status.st_dev, status.st_ino)
        ways = ancestors.get(os.path.dirname(folder), frozenset())
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        times[own] += 1
        # A link to a folder above it, in which there would be no end, or links that fork on and on.
        if own in ways or times[own] > LINKED:
            subfolders[:] = []
            continue
        ancestors[folder] = ways | {own}
        if closed is not None:
            subfolders[:] = [
                name for name in subfolders if (Path(folder) / name).resolve() != closed
            ]
        for name in sorted(names):
            if not name.startswith(".") and kind_of(name) not in ("", ".txt", ".txt.gz"):
                path = Path(folder) / name
                if not _is_text(str(path.relative_to(source))):
                    raise UsageError(f"{str(path)!r}: its name is not in UTF-8; rename it")
                yield path


def _is_text(name: str) -> bool:
    """Whether a file's name can be written into a list; other bytes are surrogates in Python."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(source: Path, path: Path, category: str | None) -> ShapeFile | None:
    """Return what a file's place says, None for what is not a shape of its own."""
    parts = path.relative_to(source).parts
    if _SYNSET.fullmatch(source.resolve().name):
        parts = (source.resolve().name, *parts)  # one category of ShapeNet by itself
    if _SYNSET.fullmatch(parts[0]) and len(parts) > 2:
        if parts[2:] not in _SHAPENET_FILES:
            return None
        return ShapeFile(path, SYNSETS.get(parts[0], parts[0]), parts[1], None)
    *folders, name = (*parts[:-1], path.stem)
    part = None
    if folders and folders[-1].lower() in _PART_NAMES and len(folders) <= 2:
        part = _PART_NAMES[folders.pop().lower()]
    if not folders:
        return ShapeFile(path, category or source.resolve().name or "shape", name, part)
    return ShapeFile(path, folders[0], "-".join([*folders[1:], name]), part)


def _official_parts(path: Path) -> dict[tuple[str, str], str]:
    """Read ShapeNet's ``all.csv``: (category, model) -> part; nothing if there is no such file."""
    if not path.is_file():
        return {}
    try:
        text = read_bytes(path).decode("utf-8")
        rows = [
            (r["synsetId"].zfill(8), r["modelId"], r["split"])
            for r in csv.DictReader(text.splitlines(keepends=True))
        ]
        return {(SYNSETS.get(s, s), model): _PART_NAMES[part] for s, model, part in rows}
    except (OSError, KeyError, ValueError, AttributeError, csv.Error) as error:
        raise DdimxError(
            f"{path}: not ShapeNet's list of splits (synsetId, modelId, split): {reason(error)}"
        ) from None


def _with_part(shape: ShapeFile, official: dict[tuple[str, str], str]) -> ShapeFile:
    part = shape.part or official.get((shape.category, shape.shape_id))
    return ShapeFile(shape.path, shape.category, shape.shape_id, part)
