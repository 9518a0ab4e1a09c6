"""Writing files whole: a half-written file never bears its final name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

# What zipfile raises on a damaged archive: KeyError is a missing member, RuntimeError an encrypted
# one or, as NotImplementedError, an unknown compression. To be caught around reading, not more.
DAMAGED_ZIP: tuple[type[Exception], ...] = (OSError, EOFError, KeyError, RuntimeError)
DAMAGED_ZIP += (zipfile.BadZipFile, zlib.error)
# And what NumPy raises besides: its headers are literals of Python, objects would need a pickle.
DAMAGED_NUMPY: tuple[type[Exception], ...] = (*DAMAGED_ZIP, ValueError, OverflowError, TypeError)
DAMAGED_NUMPY += (SyntaxError, TokenError, struct.error)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it into place.

    The rename is atomic on POSIX, and the folder is synced after it, so that after a crash the
    file is either absent (or the old one) or complete. On an exception the temporary file goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success rename it into place.

    A folder of that name is replaced: set aside first, and removed once the new one is there. On
    an exception the temporary folder goes and an earlier one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    old = part.with_suffix(".old")
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        for file in part.rglob("*"):
            sync(file)
        if path.is_dir():
            path.replace(old)
        part.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not path.exists():
            old.replace(path)
        shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished in a folder that is ours alone."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with whole_file(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON (NaN is refused), whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Flush a file or folder to disk; a folder cannot be opened for that on Windows."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
