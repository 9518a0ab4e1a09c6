"""The record of a run, ``manifest.json``, and the question whether a folder holds the same run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import DdimxError, UsageError
from ..files import create_bytes, write_bytes
from ..untrusted.text import read_json, shortened, shown

Record = dict[str, Any]

NAME = "manifest.json"
_WIDTH = 88  # characters of an object on one line, besides its key
_HASH = re.compile("[0-9a-f]{64}")


def read_record(folder: Path, what: str, schema: int) -> Record | None:
    """Return a folder's record, or None if it has none.

    Args:
        folder: the run's.
        what: the kind of run, for the message where it is another one's: without an identity.
        schema: the newest that can be read.

    Raises:
        DdimxError: a record that cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable manifest ({shortened(str(error))})") from None
    if not isinstance(value, dict) or not isinstance(value.get("identity"), dict):
        raise DdimxError(f"{path}: not a manifest of a {what}")
    version = value.get("schema", 1)
    if not isinstance(version, int) or version > schema:
        raise DdimxError(
            f"{path}: written in schema {shown(version)}, this version reads up to {schema}; "
            "update ddimx"
        )
    return value


def write_record(folder: Path, record: Record) -> None:
    """Write a folder's record, whole or not at all, as JSON for people.

    What is short stands on one line, and so does every list that holds no objects, however long:
    of a table every column, of a run the names of all files.

    Raises:
        ValueError: NaN, which is not JSON.
    """
    write_bytes(folder / NAME, _bytes(record))


def create_record(folder: Path, record: Record) -> bool:
    """Write a folder's record as :func:`write_record` does, unless there is one; return whether.

    Raises:
        DdimxError: this file system creates no file exclusively.
    """
    return create_bytes(folder / NAME, _bytes(record))


def _bytes(record: Record) -> bytes:
    return (_text(record) + "\n").encode("utf-8", "backslashreplace")


def _text(value: Any, indent: str = "") -> str:
    """Return a value as JSON; its first line stands behind ``indent`` and a key."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    if isinstance(value, dict) and (not indent or len(indent) + len(line) > _WIDTH):
        keys = (json.dumps(key, ensure_ascii=False) for key in value)
        items = [f"{key}: {_text(v, inner)}" for key, v in zip(keys, value.values(), strict=True)]
        opening, closing = "{}"
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [_text(item, inner) for item in value]
        opening, closing = "[]"
    else:
        return line
    lines = ",\n".join(inner + item for item in items)
    return f"{opening}\n{lines}\n{indent}{closing}"


# What people call a key of an identity, and what it means that the key is not there.
_NAMES = {"guided": "rows with --guidance"}
_IMPLIED = {"guided": "all"}


def check_same(
    folder: Path, count: int, old_identity: Record, new_identity: Record, new_count: int
) -> None:
    """Raise UsageError unless ``folder`` holds the requested run.

    Args:
        folder: the run's.
        count: how many samples it has, or is to have.
        old_identity: its identity.
        new_identity: the identity of the requested run.
        new_count: how many samples are requested.
    """
    if changes := differences(old_identity, new_identity):
        raise UsageError(
            f"{folder} holds a different run ({changes}); choose another --out or --overwrite"
        )
    if new_count < count:
        raise UsageError(
            f"{folder} holds {count} samples of this run, {new_count} were asked for; "
            "choose another --out or --overwrite"
        )


def differences(old_identity: Record, new_identity: Record) -> str:
    """Return what differs between two identities, the first four of it, empty if nothing does."""
    other = [
        key
        for key in {**new_identity, **old_identity}
        if old_identity.get(key) != new_identity.get(key)
    ]
    return ", ".join(
        f"{_NAMES.get(k, k)}: "
        + " -> ".join(_short(i.get(k, _IMPLIED.get(k))) for i in (old_identity, new_identity))
        for k in other[:4]
    )


def _short(value: Any) -> str:
    """Return a value of an identity for people: of a long list its ends, of a hash its start."""
    if isinstance(value, list):
        shortlist = value if len(value) < 5 else [*value[:2], value[-1]]
        items = [f"{v:g}" if isinstance(v, float) else _short(v) for v in shortlist]
        return "[" + ", ".join(items if len(value) < 5 else [*items[:2], "...", items[-1]]) + "]"
    if not isinstance(value, str):
        return shown(value)
    return value[:12] + "..." if _HASH.fullmatch(value) else shortened(value)
