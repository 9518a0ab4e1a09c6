"""Results on stdout, and the folder that they are written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UsageError


def print_json(value: Any) -> None:
    """Print one JSON document, and nothing else, to stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def fresh_folder(verb: str, model: str) -> Path:
    """Create and return a numbered run folder that is named after a model."""
    from ..runs import fresh_run
    from ..weights.source import SUFFIX

    return fresh_run(verb, Path(model).name.removesuffix(SUFFIX))


def refuse_existing(out: Path | None, overwrite: bool) -> None:
    """Raise UsageError for a file that is there and may not be written over."""
    if out is not None and out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another file or --overwrite")


def output_folder(out: Path | None, overwrite: bool, names: tuple[str, ...]) -> Path | None:
    """Return the folder to write to, or None for a fresh run's.

    Raises:
        UsageError: it is a file, or holds one of ``names`` and may not be written over.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file")
    if out is not None and not overwrite and any((out / name).exists() for name in names):
        raise UsageError(f"{out} holds results already; choose another --out or --overwrite")
    return out
