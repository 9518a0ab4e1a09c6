"""Run folders: numbered, never reused, found again by ``--resume last``."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import DdimxError

ROOT = Path("runs")
_NAME = re.compile(r"^(\d{4,})-([a-z]+)(-.*)?$")


def fresh_run(verb: str, label: str, root: Path = ROOT) -> Path:
    """Create and return ``root/NNNN-verb-label`` with the next free number.

    Raises:
        DdimxError: the folder cannot be created.
    """
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-.") or "run"
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = max((int(m[1]) for m in _matches(root)), default=0)
        while True:
            number += 1
            if (folder := _claimed(root, number, f"{verb}-{slug}")) is not None:
                return folder
    except OSError as error:
        raise DdimxError(f"cannot create a run folder in {root}: {error.strerror}") from None


def last_run(verb: str, root: Path = ROOT) -> Path:
    """Return the newest run folder of a verb.

    Raises:
        DdimxError: there is none.
    """
    folders = runs_of(verb, root)
    if not folders:
        raise DdimxError(f"no '{verb}' run in {root.resolve()} to resume")
    return folders[-1]


def runs_of(verb: str, root: Path = ROOT) -> list[Path]:
    """Return the run folders of a verb, the newest last."""
    return [
        path for _, path in sorted((int(m[1]), root / m[0]) for m in _matches(root) if m[2] == verb)
    ]


def _claimed(root: Path, number: int, rest: str) -> Path | None:
    """Create the folder of a number, or return None where another run has the number.

    Two names of one number can both be created, so a hidden folder guards the number meanwhile.
    """
    claim, folder = root / f".{number:04d}", root / f"{number:04d}-{rest}"
    try:
        claim.mkdir()
    except FileExistsError:
        return None
    try:
        if any(root.glob(f"{number:04d}-*")):
            return None
        folder.mkdir()
        return folder
    finally:
        claim.rmdir()


def _matches(root: Path) -> list[re.Match[str]]:
    if not root.is_dir():
        return []
    return [m for p in root.iterdir() if p.is_dir() and (m := _NAME.match(p.name))]
