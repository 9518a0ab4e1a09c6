"""LMDB folders, read by several threads; the package ``lmdb`` is the extra ``[lsun]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..errors import DdimxError, UsageError


def open_lmdb(path: Path) -> Lmdb:
    """Open a folder with ``data.mdb``, or such a file itself; raises as :class:`Lmdb`.

    LMDB allows one environment for a path and process, which both parts of a data set share.
    """
    key = str(path.resolve())
    found = _OPEN.get(key)
    if found is None:
        found = _OPEN[key] = Lmdb(path)
    return found


class Lmdb:
    """One environment, opened for reading: ``get`` and ``keys``."""

    def __init__(self, path: Path) -> None:
        """Open the environment.

        Raises:
            UsageError: the package is missing.
            DdimxError: no environment.
        """
        try:
            import lmdb
        except ImportError:
            raise UsageError(
                f"{path} is an LMDB, which needs the package lmdb: pip install 'ddimx[lsun]'"
            ) from None
        self.path = path
        try:
            # No lock file, for the data may be read only; no read-ahead, for the order is random.
            self._env: Any = lmdb.open(
                str(path),
                subdir=path.is_dir(),
                readonly=True,
                lock=False,
                readahead=False,
                max_readers=512,
            )
        except lmdb.Error as error:
            raise DdimxError(f"{path}: not a readable LMDB ({error})") from None

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, None if there is none."""
        with self._env.begin() as transaction:
            value = transaction.get(key)
        return None if value is None else bytes(value)

    def keys(self) -> list[bytes]:
        """Return all keys in LMDB's order, which is that of their bytes."""
        with self._env.begin() as transaction:
            return [bytes(key) for key in transaction.cursor().iternext(values=False)]


_OPEN: WeakValueDictionary[str, Lmdb] = WeakValueDictionary()
