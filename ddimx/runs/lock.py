"""One living writer for a folder or a file: a second one is refused at once.

The lock is the operating system's (flock, or its counterpart on Windows), so that it ends with the
process that holds it, however that ends. Its file is called ``.ddimx.lock`` in a folder,
``.NAME.lock`` beside a file NAME, and is removed by the process that held the lock; a killed
process leaves it behind, where it locks nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DdimxError, UsageError
from ..files import is_locked
from ..untrusted.names import refusal

# How a file system says that it has no locks: ENOLCK of NFS without a lock daemon.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
ATTEMPTS = 3  # a lock file may be removed by its owner between our opening and our locking it


def lock_name(key: str = "") -> str:
    """Return the name of a folder's lock file; ``key`` names the part of the folder it is for."""
    return f".ddimx-{key}.lock" if key else ".ddimx.lock"


def is_lock(name: str) -> bool:
    """Return whether a file of this name in a folder is a lock of ours."""
    return name.startswith(".ddimx") and name.endswith(".lock")


@contextmanager
def lock_folder(folder: Path, key: str = "") -> Iterator[None]:
    """Be the only process that writes into a folder, or into the part of it that ``key`` names.

    The folder is made if it is not there, and removed again if nothing was put into it.

    Raises:
        UsageError: another process is writing there; nothing was touched.
        DdimxError: the folder or the lock file cannot be made.
    """
    with ExitStack() as stack:
        fresh = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DdimxError(f"cannot create {folder}: {error.strerror or error}") from None
        if fresh:
            stack.callback(_remove_if_empty, folder)
        try:
            stack.enter_context(held(folder / lock_name(key), folder))
        except OSError as error:
            raise DdimxError(f"cannot write to {folder}: {error.strerror or error}") from None
        yield


@contextmanager
def lock_file(path: Path | None) -> Iterator[None]:
    """Be the only process that writes a file, or a folder that is replaced as a whole.

    Without a path nothing is written, and nothing is locked.

    Raises:
        UsageError: another process is writing it; nothing was touched.
        OSError: the lock file cannot be made, and so neither could the file.
    """
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.parent / f".{path.name}.lock", path):
        yield


@contextmanager
def held(name: Path, what: Path, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which is made for that and removed at the end.

    Where a file system has no locks, nothing is locked.

    Args:
        name: the lock's file.
        what: what is written meanwhile, for the message.
        seconds: how long to wait for it.

    Raises:
        UsageError: another process holds it.
        OSError: the file cannot be made.
    """
    if name.is_symlink():  # it is opened to be written, by older versions of filelock also emptied
        raise refusal(name.name, name.parent, "is a symbolic link")
    lock = FileLock(name)
    for attempt in range(ATTEMPTS):
        try:
            lock.acquire(blocking=seconds > 0, timeout=seconds)
            break
        except Timeout:
            if is_locked(name) is None:  # what filelock does then outlives a killed process
                yield
                return
            if attempt == ATTEMPTS - 1:
                raise UsageError(
                    f"another process is writing {what}; wait for its end, or choose another --out"
                ) from None
        except NotImplementedError:  # a file system without locks, which filelock says so
            yield
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield
            return
    try:
        yield
    finally:
        # While we still hold it: afterwards the file may be another process's. Windows does not
        # remove open files, and there filelock does it.
        for _ in range(2):  # an input/output error may pass
            with suppress(OSError):
                name.unlink(missing_ok=True)
                break
        lock.release()


def is_held(name: Path) -> bool:
    """Return whether a living process holds the lock of a file; looking takes it for a moment."""
    return bool(is_locked(name))


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
