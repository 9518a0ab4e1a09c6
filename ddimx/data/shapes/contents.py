"""What lies in a folder or a zip file of shapes: the files that may be shapes or lists of them.

Only names are looked at. Members of a zip file stay where they are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import DdimxError, UsageError
from ...files import is_passed_over
from ...untrusted.archives import Member, open_zip, read_member
from ...untrusted.names import relative
from ...untrusted.text import read_bytes
from .layouts import Parts, is_list, is_synset
from .lists import RECORD
from .meshes import ending

LINKED = 100  # ways by which a folder is looked into, where links lead to it
CSV = "all.csv"  # ShapeNet's own list of parts


@dataclass(frozen=True)
class SourceFile:
    """A file of a folder or a zip file.

    Attributes:
        parts: its place, from where the search began.
        path: of the file, or of the zip file that it is a member of.
        member: where it lies in the zip file.
    """

    parts: Parts
    path: Path
    member: Member | None = None

    @property
    def name(self) -> str:
        """Its name without the folders."""
        return self.parts[-1]

    @property
    def ending(self) -> str:
        """By which ending of its name it is read, "" if by none."""
        return ending(self.name)

    def read(self) -> tuple[bytes, str]:
        """Return what it holds, and what messages call it.

        Raises:
            DdimxError: it cannot be read.
        """
        origin = str(self.path) if self.member is None else f"{self.path}:{self.member.name}"
        try:
            if self.member is None:
                return read_bytes(self.path), origin
            return read_member(self.path, self.member), origin
        except (OSError, ValueError) as error:
            raise DdimxError(f"{origin}: cannot be read ({error})") from None


def files_of(source: Path, skip: Path | None, skipped: Counter[str]) -> Iterator[SourceFile]:
    """Yield the shapes and lists of a folder or a zip file in order.

    Links to folders are followed. Zip files that are named by a synset are looked into.

    Args:
        skip: a folder within that is not looked into.
        skipped: in it other files are counted, by the reason.

    Raises:
        UsageError: no such folder, or a name that is not text.
        DdimxError: a zip file that cannot be read, or a name in it that leads out of it.
    """
    if source.is_file() and source.suffix.lower() == ".zip":
        yield from _members(source, (), skipped)
        return
    if source.is_file():
        raise UsageError(f"{source} is a file; give its folder, or a zip file")
    if not source.is_dir():
        raise UsageError(f"no folder {source}")
    closed = None if skip is None else skip.resolve()
    ancestors: dict[str, frozenset[tuple[int, int]]] = {}
    times: Counter[tuple[int, int]] = Counter()
    for folder, subfolders, names in os.walk(source, followlinks=True):
        status = os.stat(folder)
        own = (status.st_dev, status.st_ino)
        ways = ancestors.get(os.path.dirname(folder), frozenset())
        subfolders[:] = sorted(name for name in subfolders if not is_passed_over(name))
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
        within = Path(folder).relative_to(source).parts
        if within and RECORD in names and any(name.endswith(".jsonl") for name in names):
            subfolders[:] = []
            skipped["prepared set"] += 1
            continue
        for name in sorted(names):
            path = Path(folder) / name
            if is_passed_over(name):
                skipped["hidden"] += 1
            elif name.lower().endswith(".zip") and is_synset(path.stem):
                yield from _members(path, within, skipped)
            elif other := _other_kind(name):
                skipped[other] += 1
            else:
                try:
                    str(path.relative_to(source)).encode()
                except UnicodeEncodeError:  # no list could hold it
                    raise UsageError(
                        f"{str(path)!r}: its name is not in UTF-8; rename it"
                    ) from None
                yield SourceFile((*within, name), path)


def _members(path: Path, within: Parts, skipped: Counter[str]) -> Iterator[SourceFile]:
    """Yield the members of a zip file that lies in the folder ``within``.

    Where a synset's zip file holds the shapes alone, they lie as in a folder of its name.
    """
    try:
        with open_zip(path) as archive:
            # Windows PowerShell 5 packs folders with backslashes.
            backslashes = all("/" not in name for name in archive.names)
            places = {
                relative(name.replace("\\", "/") if backslashes else name, path): name
                for name in archive.names
            }
            own = (path.stem,) if is_synset(path.stem) else ()
            if any(place.split("/")[0] == path.stem for place in places):
                own = ()
            for place, name in sorted(places.items()):
                parts = tuple(part for part in place.split("/") if part not in ("", "."))
                if any(map(is_passed_over, parts)):
                    skipped["hidden"] += 1
                elif other := _other_kind(parts[-1]):
                    skipped[other] += 1
                else:
                    yield SourceFile((*within, *own, *parts), path, archive.member(name))
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a zip file that can be read ({error})") from None


def _other_kind(name: str) -> str:
    """Return what a file is counted as if its name is that of no shape and no list, else ""."""
    if ending(name) or is_list(name) or name == CSV:
        return ""
    kind = PurePosixPath(name).suffix.lower()
    return kind if 0 < len(kind) < 12 else "without an ending"
