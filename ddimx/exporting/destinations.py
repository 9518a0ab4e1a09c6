"""Where files go: beside the sources, into a folder, or to the one name that was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from .settings import SUFFIXES, ExportSettings, without_suffix
from .sources import ExportItem

MERGED = "merged"


def is_file_name(out: Path | None) -> bool:
    """Return whether ``--out`` names a file: it ends as splats do and is not a folder."""
    return out is not None and out.name.endswith(SUFFIXES) and not out.is_dir()


def named(
    items: Sequence[ExportItem], settings: ExportSettings, out: Path, merge: bool
) -> list[ExportItem]:
    """Return the items (of which, merged or not, one file is made) with ``out`` as its name.

    Raises:
        UsageError: more than one file would have that name, or its ending is another format's.
    """
    if len(settings.formats) != 1 or (len(items) != 1 and not merge):
        what = "several shapes (--merge?)" if len(settings.formats) == 1 else "several formats"
        raise UsageError(f"--out {out} is one file, and there are {what}; name a folder")
    ending = "." + settings.targets(Path("x"))[settings.formats[0]].name.rpartition(".")[2]
    if out.suffix != ending:
        raise UsageError(f"--out {out}: files of format {settings.formats[0]} end in {ending}")
    return [replace(item, base=without_suffix(out), exact=out) for item in items]


def merged_item(items: Sequence[ExportItem]) -> ExportItem:
    """Return where one file of all items goes: to the name of the first, if one was asked for,
    else to "merged" in the folder that holds them all.
    """
    first = items[0]
    if first.exact is not None:
        return first
    common = Path(os.path.commonpath([item.base.parent.absolute() for item in items]))
    folder = first.base.parent
    while folder.absolute() != common:
        folder = folder.parent
    return ExportItem(folder / MERGED, folder / MERGED)
