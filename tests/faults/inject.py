"""Counting what a process changes below one folder, and failing or dying at the n-th change.

Python's own calls are wrapped (``os``, ``open``, and the writes to what ``open`` returned), in the
main thread only: what other threads do comes in another order every time. What C libraries write
by themselves is not seen; ddimx has them write into files that it opened.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import signal
import sys
import threading
from pathlib import Path

KILL, ENOSPC, EIO = "kill", "ENOSPC", "EIO"
KINDS = (KILL, ENOSPC, EIO)
MOMENT = "moment"  # not of a change: the process dies at the n-th call of any function

# What changes a folder, with the place of the path (or the open file) among the arguments.
CALLS = {
    **dict.fromkeys(("mkdir", "rmdir", "unlink", "remove", "chmod", "truncate"), 0),
    **dict.fromkeys(("rename", "replace", "link", "symlink"), 1),
    **dict.fromkeys(("fsync", "ftruncate", "write"), 0),
}
# What a full disk does not refuse.
FREEING = {"rmdir", "unlink", "remove", "chmod"}
_RANDOM = re.compile(r"\.[a-z0-9_]{8}(?=\.(part|tree|old)\b)")


class Injector:
    """Watches one folder; ``calls`` lists the changes so far."""

    def __init__(
        self, folder: Path, kind: str | None = None, at: int = 0, within: str = ""
    ) -> None:
        """Fail at the change number ``at``, counted from 1, or never if ``kind`` is None.

        A disk that is full stays full; an input/output error comes once. Changes of files whose
        path does not hold ``within`` are not counted.
        """
        self._folder, self._kind, self._at = os.path.realpath(folder), kind, at
        self._within, self._count = within, 0
        self.calls: list[str] = []
        self._busy = False

    def install(self) -> None:
        """Put the wrappers in place, for good: this is for a process that is thrown away."""
        for name, place in CALLS.items():
            setattr(os, name, self._wrapped(name, getattr(os, name), place))
        self._open = os.open
        os.open = self._opened
        builtins.open = io.open = self._stream

    def _wrapped(self, name, real, place):
        def call(*args, **kwargs):
            self._change(name, args[place], kwargs.get("dir_fd"))
            return real(*args, **kwargs)

        return call

    def _opened(self, path, flags, mode=0o777, *, dir_fd=None):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._change("open", path, dir_fd)
        return self._open(path, flags, mode, dir_fd=dir_fd)

    def _stream(
        self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None,
        closefd=True, opener=None,
    ):  # fmt: skip
        """Open as ``io.open`` does, with a raw file whose writes are counted."""
        if not set(mode) & set("wax+"):
            return _io_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            self._change("open", file)
        injector = self

        class Raw(io.FileIO):
            def write(self, data):
                whole = super().write
                half = bytes(data)[: len(data) // 2]  # what a disk that fills up still takes

                def short():
                    self.seek(-whole(half), os.SEEK_CUR)  # for those who try again

                injector._change("write", self.fileno(), short=short)
                return whole(data)

            def truncate(self, size=None):
                injector._change("truncate", self.fileno())
                return super().truncate(size)

        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        both = io.BufferedRandom if "+" in mode else io.BufferedWriter
        buffered = both(raw, buffering) if buffering > 1 else both(raw)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text

    def _change(self, call, where, folder=None, short=None):
        if self._busy or threading.current_thread() is not threading.main_thread():
            return
        self._busy = True  # finding out where this is changes nothing
        try:
            path = _path(where, folder)
            if path != self._folder and not path.startswith(self._folder + os.sep):
                return
            name = os.path.relpath(path, self._folder)
            self.calls.append(f"{call} {_RANDOM.sub('', name)}")
            self._count += self._within in name
            if self._kind is None or self._within not in name or self._count < self._at:
                return
            if self._kind == KILL:
                if short is not None:
                    short()
                os.kill(os.getpid(), signal.SIGKILL)
            number = getattr(errno, self._kind)
            refused = self._count == self._at or self._kind == ENOSPC
            if refused and not (self._kind == ENOSPC and call in FREEING):
                if short is not None:
                    short()
                raise OSError(number, os.strerror(number), path)
        finally:
            self._busy = False


class Moments:
    """Counts the calls that the main thread makes, and dies at the n-th: between two steps, inside
    of one, while a checkpoint is written.

    The number of a call is the same in every run up to what depends on times, whatever the load.
    """

    def __init__(self, at: int = 0) -> None:
        """Die at the call number ``at``, counted from 1; never if it is 0."""
        self.count, self._at = 0, at

    def install(self) -> None:
        """Begin to count, for good: this is for a process that is thrown away."""
        sys.setprofile(self._seen)

    def _seen(self, frame, event, argument):
        if event in ("call", "c_call"):
            self.count += 1
            if self.count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)


_io_open = io.open


def _path(where, folder):
    if isinstance(where, int):
        return os.readlink(f"/proc/self/fd/{where}").removesuffix(" (deleted)")
    path = os.fspath(where)
    path = os.fsdecode(path)
    if folder is not None:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
