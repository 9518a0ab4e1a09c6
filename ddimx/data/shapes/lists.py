"""The lists of a prepared set of shapes: ``train.jsonl``, ``val.jsonl``, ``test.jsonl``.

A line is one JSON object with the token file, relative to the list's folder, and its category.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import DdimxError
from ...untrusted.names import all_inside
from ...untrusted.text import parse_json, read_bytes

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Entry:
    """One shape of a list; ``category`` is empty where the list names none."""

    file: Path
    category: str


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
    files, categories = [], []
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
        except ValueError as error:
            raise DdimxError(
                f"{path}, line {number}: no JSON object with a 'file' ({error})"
            ) from None
        files.append(value["file"])
        categories.append(category)
    paths = all_inside(path.parent, files, path)
    return [Entry(*pair) for pair in zip(paths, categories, strict=True)]
