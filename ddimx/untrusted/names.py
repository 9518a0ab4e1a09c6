"""Names that a file gives: of a manifest, a journal, an archive or a list, checked before use.

Such a name may lead to a file below the folder it belongs to and to nothing else. What is refused
is refused on every system, so that a set made on one can be read on the other: a name that is
harmless here may be absolute on Windows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import DdimxError

LONGEST = 255  # bytes of one part; no common file system has longer names
_SHOWN = 80
# Most names are of this form, which nothing below would refuse; long lists are checked by it.
_PLAIN = re.compile(
    r"(?=.{1,255}\Z)\w[\w +-]*(?:\.[\w+-]+)*(?:/\w[\w +-]*(?:\.[\w+-]+)*)*", re.ASCII
)


def relative(name: Any, origin: str | Path) -> str:
    """Return a name that ``origin`` gives, if it is that of something below a folder.

    That is a text, neither empty nor absolute, without drive (``C:x``), share (``\\\\server\\x``),
    NUL or a part ``..``, whichever of the two slashes divides it. No disk is looked at: this is
    enough for a member of an archive that is read in memory.

    Args:
        origin: the file that holds the name, for the message.

    Raises:
        DdimxError: any other name, with what is wrong with it.
    """
    if isinstance(name, str) and _PLAIN.fullmatch(name):
        return name
    reason = _fault(name)
    if reason is not None:
        raise refusal(name, origin, reason)
    return str(name)


def inside(folder: Path, name: Any, origin: str | Path) -> Path:
    """Return the path of a name below ``folder``; ``folder`` itself may be a symbolic link.

    Raises:
        DdimxError: a name as :func:`relative` refuses it, or one that leads out of the folder by
            a symbolic link, whether the link is the last part or one before it.
    """
    return all_inside(folder, [name], origin)[0]


def all_inside(folder: Path, names: Iterable[Any], origin: str | Path) -> list[Path]:
    """Return the paths of all names, or raise as :func:`inside` before any has been used."""
    checked = [relative(name, origin) for name in names]
    root = os.path.realpath(folder)
    parents: dict[Path, bool] = {}  # whether it stays inside; resolving costs most of the time
    paths = []
    for name in checked:
        path = folder / name
        try:
            link = os.path.islink(path)  # False also where a part is too long or is no folder
            if path.parent not in parents:
                parents[path.parent] = _is_below(os.path.realpath(path.parent), root)
            stays = parents[path.parent] and (not link or _is_below(os.path.realpath(path), root))
        except (OSError, ValueError) as error:
            raise refusal(name, origin, f"cannot be looked up ({error})") from None
        if not stays:
            raise refusal(name, origin, f"leads out of {folder} by a symbolic link")
        paths.append(path)
    return paths


def refusal(name: Any, origin: str | Path, reason: str) -> DdimxError:
    """Return the error for a name that is not used, shortened where it is long."""
    shown = repr(name)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return DdimxError(f"{origin}: the name {shown} is refused: it {reason}")


def _is_below(path: str, root: str) -> bool:
    return Path(path).is_relative_to(root)


def _fault(name: Any) -> str | None:
    """Return what is wrong with a name, None for one that may be used."""
    if not isinstance(name, str):
        return "is not a text"
    if "\0" in name:
        return "holds a NUL character"
    windows = PureWindowsPath(name)
    if name.startswith(("/", "\\")) or windows.drive:
        return "is not relative"
    parts = re.split(r"[/\\]", name)
    # Windows drops dots and spaces at a part's end, so that ".. " and "..." lead upwards too.
    if any(part not in ("", ".") and not part.strip(". ") for part in parts):
        return "leads upwards by '..'"
    if all(part in ("", ".") for part in parts):
        return "names no file"
    try:
        if max(len(os.fsencode(part)) for part in parts) > LONGEST:
            return f"has a part of more than {LONGEST} bytes"
    except UnicodeEncodeError:
        return "cannot be written in this system's encoding"
    return None
