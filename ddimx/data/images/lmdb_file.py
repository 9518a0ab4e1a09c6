"""LMDB folders, read by several threads; the package ``lmdb`` is the extra ``[lsun]``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ...errors import DdimxError, UsageError
from .lmdb_pages import check_lmdb


def open_lmdb(path: Path) -> Lmdb:
    """Open a folder with ``data.mdb``, or such a file itself; raises as :class:`Lmdb`.

    LMDB allows one environment for a path and process, which both parts of a data set share.
    """
    key = str(path.resolve())
    environment = _OPEN.get(key)
    if environment is None:
        environment = _OPEN[key] = Lmdb(path)
    return environment


class Lmdb:
    """One environment, opened for reading: ``get`` and ``keys``.

    Attributes:
        path: the folder or the file.
        entries: how many values there are.
    """

    def __init__(self, path: Path) -> None:
        """Open the environment.

        Raises:
            UsageError: the package is missing.
            DdimxError: no environment, or one that is cut or damaged: it is not mapped then, for
                reading it could end the process.
        """
        try:
            import lmdb
        except ImportError:
            raise UsageError(
                f"{path} is an LMDB, which needs the package lmdb: pip install 'ddimx[lsun]'"
            ) from None
        self.path, self._fault = path, lmdb.Error
        try:
            with (path / "data.mdb" if path.is_dir() else path).open("rb") as stream:
                self.entries = check_lmdb(stream)
        except (OSError, ValueError) as error:
            raise DdimxError(f"{path}: not a readable LMDB ({error})") from None
        with self._named():
            # No lock file, for the data may be read only; no read-ahead, for the order is random.
            self._env: Any = lmdb.open(
                str(path),
                subdir=path.is_dir(),
                readonly=True,
                lock=False,
                readahead=False,
                max_readers=512,
            )

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, None if there is none; DdimxError as it is opened."""
        with self._named(), self._env.begin() as transaction:
            value = transaction.get(key)
        return None if value is None else bytes(value)

    def keys(self) -> list[bytes]:
        """Return all keys in LMDB's order, which is that of their bytes; DdimxError likewise."""
        with self._named(), self._env.begin() as transaction:
            return [bytes(key) for key in transaction.cursor().iternext(values=False)]

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except self._fault as error:
            raise DdimxError(f"{self.path}: not a readable LMDB ({error})") from None


_OPEN: WeakValueDictionary[str, Lmdb] = WeakValueDictionary()
