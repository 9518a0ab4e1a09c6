"""Writing files whole: a half-written file never bears its final name."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from .errors import DdimxError
from .timing import timed

# Folders of which nothing is read: what macOS puts beside the files in a zip.
PASSED_OVER = ("__MACOSX",)
HIDDEN, CLOSED = "hidden files", "folders that cannot be entered"
NOWHERE, AGAIN = "links that lead nowhere", "links to folders that are here already"


def visible_files(folder: Path, suffixes: Collection[str], *, recursive: bool = True) -> list[Path]:
    """Return the files of a folder whose names end in one of ``suffixes``, sorted by path.

    Whether a suffix is written in capitals makes no difference. Which files are looked at is said
    by :func:`folder_contents`.

    Args:
        suffixes: in lower case, each with its dot.
        recursive: whether files in subfolders belong to it too.
    """
    names, _ = folder_contents(folder, recursive=recursive)
    return sorted(folder / name for name in names if suffix_of(name) in suffixes)


def suffix_of(name: str) -> str:
    """Return a file's suffix in lower case, with its dot; empty for a name without one."""
    return os.path.splitext(name)[1].lower()


def folder_contents(
    folder: Path, *, recursive: bool = True
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the files below a folder, and what was passed over, by reason.

    Both are paths relative to it with slashes, in no order. Hidden files and folders (their names
    begin with a dot) and ``__MACOSX`` are passed over. A link to a folder is entered, unless that
    folder is below ``folder`` already or was entered by another link: every file is there once,
    and a loop ends.

    Args:
        recursive: whether files in subfolders belong to it too.

    Raises:
        OSError: the folder is there and cannot be read.
    """
    names: list[str] = []
    passed: dict[str, list[str]] = {}
    entered: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        # All real folders come first, so that a link beside one changes no file's path.
        below = folders.pop() if folders else links.pop()
        try:
            status = os.stat(folder / below)
            if (status.st_dev, status.st_ino) in entered:
                passed.setdefault(AGAIN, []).append(below)
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder / below) as scanned:
                entries = list(scanned)
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone meanwhile
        except OSError:
            if not below:
                raise
            passed.setdefault(CLOSED, []).append(below)
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            try:
                is_file, is_folder = entry.is_file(), entry.is_dir()
            except OSError:  # a link to itself, or to what may not be looked at
                is_file = is_folder = False
            if is_passed_over(entry.name):
                passed.setdefault(HIDDEN, []).append(path)
            elif is_file:
                names.append(path)
            elif is_folder and recursive:
                (links if entry.is_symlink() else folders).append(path)
            elif entry.is_symlink() and not is_folder:
                passed.setdefault(NOWHERE, []).append(path)
        links.sort(reverse=True)
    return names, passed


def is_passed_over(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or of no interest to anybody."""
    return name.startswith(".") or name in PASSED_OVER


class OtherContents(FileExistsError):
    """A file or folder is there, is not what would be written, and may not be replaced."""


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it into place.

    The rename is atomic on POSIX, and the folder is synced after it, so that after a crash the
    file is either absent (or the old one) or complete. On an exception the temporary file goes.
    Without ``replace`` a file that is there stays, which is right if it has the same bytes: a
    command that was killed at its end then finds its work done.

    Raises:
        OtherContents: without ``replace``, if something else is there.
    """
    with _claimed(path) as (part, release):
        yield part
        part.chmod(0o666 & ~_umask())
        sync(part)
        if replace or not _is_there(path, part):
            release()
            part.replace(path)
        _sync_folder(path.parent)


_unsynced: ContextVar[dict[Path, None] | None] = ContextVar("ddimx folders", default=None)


@contextmanager
def folders_synced_once() -> Iterator[None]:
    """Sync a folder once at the end, and not after every file that is written within.

    After a crash before that, a file is still absent or whole; only whether it bears its name is
    open. So it is for many files of which a record tells afterwards.
    """
    folders: dict[Path, None] = {}
    token = _unsynced.set(folders)
    try:
        yield
    finally:
        _unsynced.reset(token)
        for folder in folders:
            sync(folder)


def _sync_folder(folder: Path) -> None:
    """Sync a folder in which a file got its name, now or when that is due."""
    folders = _unsynced.get()
    if folders is None:
        sync(folder)
    else:
        folders[folder] = None


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success rename it into place.

    A folder of that name is replaced: set aside first, and removed once the new one is there. On
    an exception the temporary folder goes and an earlier one stays. Without ``replace`` a folder
    that is there stays, which is right if it holds the same.

    Raises:
        OtherContents: without ``replace``, if something else is there.
    """
    with _claimed(path) as (part, _):
        tree, old = part.with_suffix(TREE), part.with_suffix(OLD)
        try:
            tree.mkdir()
            yield tree
            for file in (tree, *tree.rglob("*")):
                sync(file)
            if replace or not _is_there(path, tree):
                if path.is_dir():
                    path.replace(old)
                tree.replace(path)
            _sync_folder(path.parent)
        finally:
            _clear_beside(part, path)


def sweep(folder: Path, *names: str) -> None:
    """Remove what processes that were killed left unfinished in a folder.

    With ``names``, only what would have become a file or folder of one of these names; without, all
    that bears our temporary names, and safetensors' too: for a folder that is ours alone. What a
    living process is writing is left: it holds a lock, which dies with it. With ``names``, their
    lock files (:func:`ddimx.runs.lock.lock_file`) go as well, unless they are held.
    """
    for name in names:
        lock = folder / f".{name}.lock"
        with _unheld(lock) as left:
            if left:
                lock.unlink(missing_ok=True)
    try:
        parts = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    wanted = set(names)
    for part in parts:
        match = _PART.match(part.name)
        if match is not None and (not wanted or match[1] in wanted):
            _sweep_one(part, folder / match[1])
        elif not wanted and _SAFETENSORS.match(part.name) and part.is_file():
            part.unlink(missing_ok=True)


# A writer's file ".NAME.xxxxxxxx.part" bears its lock; a folder stands beside it, with that suffix.
PART, TREE, OLD = ".part", ".tree", ".old"
_ANY = re.compile(r"^\.(.+)\.[a-z0-9_]{8}\.(?:part|tree|old)$")
_PART = re.compile(r"^\.(.+)\.[a-z0-9_]{8}\.part$")
_SAFETENSORS = re.compile(r"^\.tmp[A-Za-z0-9]{6}$")


def is_unfinished(name: str) -> bool:
    """Return whether a file or folder of this name is one that :func:`sweep` takes for unfinished.

    A folder that holds nothing else was begun by us, and by a process that was killed.
    """
    stem, dot, suffix = name.rpartition(".")
    part = stem + PART if dot + suffix in (TREE, OLD) else name
    return bool(_PART.match(part) or _SAFETENSORS.match(name))


@contextmanager
def _claimed(path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield a fresh, locked file beside ``path``, and what must be called before it is renamed.

    Its end removes the file, unless it has been renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        # Between the two calls somebody who sweeps may have taken it for a dead process' file.
        if _locked(handle) is not False and os.fstat(handle).st_nlink:
            break
        os.close(handle)
    part, is_open = Path(name), True

    def release() -> None:
        nonlocal is_open
        if os.name == "nt" and is_open:  # Windows renames no open file
            os.close(handle)
            is_open = False

    try:
        yield part, release
    finally:
        with suppress(OSError):  # what cannot be removed now is swept later
            release()
            part.unlink(missing_ok=True)
        if is_open:
            os.close(handle)


def _locked(handle: int) -> bool | None:
    """Lock an open file: whether it could be had, None where there are no locks.

    The lock belongs to the process that opened the file and ends with it. Windows needs none, since
    there an open file cannot be removed.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _is_there(path: Path, made: Path) -> bool:
    """Return whether a file or folder is there already; OtherContents if it is another one."""
    if not os.path.lexists(path):
        return False
    if not _same(path, made):
        raise OtherContents(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return True


def _same(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes, or two folders the same files."""
    if one.is_dir() and other.is_dir():
        names = {path.name for path in one.iterdir()}
        same_names = names == {path.name for path in other.iterdir()}
        return same_names and all(_same(one / name, other / name) for name in names)
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _sweep_one(part: Path, path: Path) -> None:
    """Remove one writer's files if it is dead; ``path`` is what it would have written."""
    if part.is_dir():  # as whole_folder had it in version 0.1
        _clear_beside(part, path)
        shutil.rmtree(part, ignore_errors=True)
        return
    with _unheld(part) as dead:
        if dead:
            _clear_beside(part, path)
            part.unlink(missing_ok=True)


@contextmanager
def _unheld(path: Path) -> Iterator[bool]:
    """Yield whether no living process holds the lock of a file, which is ours meanwhile."""
    handle = None
    try:
        if os.name == "nt":
            path.replace(path)  # refused while its writer has it open
        else:
            handle = os.open(path, os.O_RDWR)
    except OSError:  # of a living writer, gone meanwhile, or somebody else's
        yield False
        return
    try:
        yield handle is None or bool(_locked(handle))
    finally:
        if handle is not None:
            os.close(handle)


def is_locked(path: Path) -> bool | None:
    """Return whether a living process holds the lock of a file, None where there are no locks.

    Looking takes the lock for a moment. Nobody holds that of a file that is not there.
    """
    if os.name == "nt":
        with _unheld(path) as free:
            return not free and path.exists()
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        had = _locked(handle)
        return None if had is None else not had
    finally:
        os.close(handle)


def _clear_beside(part: Path, path: Path) -> None:
    """Remove the folders beside a writer's file; one that was set aside returns to a free place."""
    tree, old = part.with_suffix(TREE), part.with_suffix(OLD)
    shutil.rmtree(tree, ignore_errors=True)
    if old.exists() and not path.exists():
        old.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder, unless it is absent or holds something.

    Raises:
        OSError: it is empty and cannot be removed.
    """
    try:
        folder.rmdir()
    except OSError:
        if folder.is_dir() and not any(folder.iterdir()):
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with whole_file(path) as part:
        part.write_bytes(data)


def create_bytes(path: Path, data: bytes) -> bool:
    """Write ``data`` to a path at which nothing is yet, whole; return whether this process did.

    Of all processes that try, on whatever machines share the folder, one succeeds: a hard link is
    made or is not, which is so on NFS too.

    Raises:
        DdimxError: this file system makes no hard links, and so creates no whole file exclusively.
    """
    with _claimed(path) as (part, release):
        part.write_bytes(data)
        part.chmod(0o666 & ~_umask())
        sync(part)
        release()
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError as error:
            raise DdimxError(
                f"{path.parent}: this file system cannot create a file exclusively "
                f"({error.strerror or error}), by which several processes agree on one run; choose "
                "another --out, or make the run in one process"
            ) from None
        _sync_folder(path.parent)
        return True


def append_line(path: Path, text: str) -> None:
    """Add a line to a file; where it does not fit, nothing is added.

    A process that is killed meanwhile may leave the beginning of the line. What is no UTF-8 in a
    file's name is written as :func:`write_json` does it.

    Raises:
        OSError: it cannot be written.
    """
    line = (text + "\n").encode("utf-8", "backslashreplace")
    with path.open("ab", buffering=0) as stream:
        before = stream.seek(0, os.SEEK_END)
        try:
            if stream.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            with suppress(OSError):
                stream.truncate(before)
            raise


def final_path(path: Path) -> Path:
    """Return what a temporary path of ours would have become, any other path as it is."""
    for part in (path, *path.parents):
        match = _ANY.match(part.name)
        if match is not None:
            return part.with_name(match[1]) / path.relative_to(part)
    return path


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON (NaN is refused), whole or not at all.

    A file name whose bytes are no UTF-8 is written with JSON's own escapes for what Python holds.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "backslashreplace"))


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_files(paths: Sequence[Path]) -> str:
    """Return a file's hexadecimal SHA-256, or of several one over their names and hashes."""
    if len(paths) == 1:
        return sha256_file(paths[0])
    lines = [f"{path.name} {sha256_file(path)}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
        with timed("syncing"):
            os.fsync(handle)
    finally:
        os.close(handle)
