"""Which token files belong to which part of a data set, and to which category.

A prepared set has a list for each part, ``train.jsonl``, ``val.jsonl``, ``test.jsonl``: a line is
one JSON object with the token file, relative to the list's folder, its category, and how many
variants in the file are taken (1, the shape itself, where it does not say). The original project's
tree has a folder for each part, and beside it a list of the names in it:

    <category>/<part>/<id>.npz
    <category>/<part>.txt
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ...errors import DdimxError
from ...octree.file import SUFFIXES, holds_tokens, token_files
from ...untrusted.names import all_inside, relative
from ...untrusted.text import parse_json, read_bytes
from .layouts import category_of, read_names

PARTS = ("train", "val", "test")
RECORD = "prepare.json"  # beside a prepared set's lists


@dataclass(frozen=True)
class Entry:
    """One shape of a list.

    Attributes:
        category: empty where the list names none.
        variants: how many trees of the file are taken, the shape itself first.
    """

    file: Path
    category: str
    variants: int = 1


def lists_of(where: Path) -> list[str]:
    """Return the names of a prepared data set's lists, empty for whatever else ``where`` is."""
    where = where.expanduser()
    return [name for name in PARTS if (where / f"{name}.jsonl").is_file()]


def read_list(path: Path) -> list[Entry]:
    """Read a list, in its order; empty lines are passed over.

    Raises:
        DdimxError: a file that cannot be read, a line that does not describe a shape, or a
            file that does not lie in the list's folder.
    """
    try:
        lines = read_bytes(path).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: cannot be read ({error})") from None
    files, abouts = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
            if not isinstance(value, dict) or "file" not in value:
                raise ValueError("it names none")
            category = value.get("category", "")
            if not isinstance(category, str):
                raise ValueError("its category is not a text")
            variants = value.get("variants", 1)
            if type(variants) is not int or variants < 1:
                raise ValueError("its variants are not a number from 1 on")
        except ValueError as error:
            raise DdimxError(
                f"{path}, line {number}: no JSON object with a 'file' ({error})"
            ) from None
        files.append(value["file"])
        abouts.append((category, variants))
    paths = all_inside(path.parent, files, path)
    return [Entry(file, *about) for file, about in zip(paths, abouts, strict=True)]


def read_tree(root: Path, part: str) -> list[Entry]:
    """Return the shapes of a part of the original project's tree; none where it is none.

    Where a folder has no list beside it, all its token files belong to the part. ``root`` may also
    be the folder of one category.

    Raises:
        DdimxError: a list that cannot be read, or that names a file which is not there or lies
            elsewhere.
    """
    part = relative(part, "data.train_split, data.test_split")
    if not root.is_dir():
        return []
    folders = [root] if (root / part).is_dir() else sorted(root.iterdir())
    entries = []
    for folder in folders:
        if folder.name.startswith(".") or not (folder / part).is_dir():
            continue
        files = token_files(folder / part, recursive=False)
        path = folder / f"{part}.txt"
        if path.is_file():
            try:
                data = read_bytes(path)
            except (OSError, ValueError) as error:
                raise DdimxError(f"{path}: cannot be read ({error})") from None
            names = [name.removeprefix(f"{part}/") for name in read_names(data, str(path))]
            names = [name if name.lower().endswith(SUFFIXES) else f"{name}.npz" for name in names]
            files = all_inside(folder / part, names, path)
            absent = next((file for file in files if not file.is_file()), None)
            if absent is not None:
                raise DdimxError(f"{path} names {absent.name}, which is not in {folder / part}")
        category = category_of(folder.resolve().name)
        entries += [Entry(file, category) for file in files]
    return entries if entries and holds_tokens(entries[0].file) else []


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
