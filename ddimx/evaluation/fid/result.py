"""The result of a measurement by several processes: who puts it together, and whether it is there.

``result.json`` in the folder of the parts says of what it is the result, who puts it together,
since when and under which launcher, whether that is done, and then the figures and the SHA-256 of
each file that was written. A process has nothing to do only if all of this holds: the result is of
what the process measures itself, as the images' files, the network and the options say; one of its
own launch made it, or is at it now; and the files that it asks for are there, as they were written.
Otherwise it measures: to do so once more costs time, not to do so would lose a result.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...files import sha256_file, write_json
from ...launch import Launch
from ...runs.lock import lock_folder
from ...untrusted.text import read_object, shortened

NAME = "result"
LOOKS, PAUSE = 3, 0.1  # attempts at a lock that others hold for a moment, seconds between them


class Result:
    """The result in a folder of parts, as one process sees it.

    Args:
        began: when the process was started, in seconds of the epoch.
        outputs: the files that are to be written, by their options; None where none is.
        options: what else the result depends on, as JSON values.
    """

    def __init__(
        self,
        folder: Path,
        launch: Launch,
        began: float,
        outputs: Mapping[str, Path | None],
        options: Mapping[str, Any],
    ) -> None:
        self._folder, self.path = folder, folder / f"{NAME}.json"
        self._began, self._launcher = began, launcher_of(launch)
        self._outputs = {key: path for key, path in outputs.items() if path is not None}
        paths = {key: os.path.realpath(path) for key, path in self._outputs.items()}
        self._measured = {"outputs": paths, **options}
        self._before = self._record()

    def identify(self, sets: Mapping[str, Any]) -> None:
        """Say of which images and which network the result is, as JSON values.

        What was not said yet is not compared.
        """
        self._measured |= sets

    def is_done(self) -> bool | None:
        """Return whether this process's result is there; False if it was begun, None if not."""
        record = self._record()
        with suppress(OSError, KeyError, TypeError, AttributeError):
            measured = json.loads(json.dumps(self._measured))
            if {key: record["measured"].get(key) for key in measured} != measured:
                return None
            if record["done"] is not True:
                return False  # of whatever launch: it is the same, and who is at it lives or died
            if not self._is_of_this_launch(record):
                return None
            written = record["sha256"]
            if all(sha256_file(path) == written[key] for key, path in self._outputs.items()):
                return True
        return None

    def is_over(self) -> bool:
        """Return whether another process of this launch has put, or now puts, the result together.

        One that died over it does not count.
        """
        is_done = self.is_done()
        if is_done is False:
            with ExitStack() as stack:
                return not self._is_locked_by_us(stack)
        return is_done is True

    @contextmanager
    def begun(self, wait: str, say: Any) -> Iterator[bool]:
        """Be the only process that puts a result together here; yield False if another one is.

        One that puts together another result, of other images or into other files, is waited for.

        Args:
            wait: what to say, by ``say``, before waiting.
        """
        with ExitStack() as stack:
            while not self._is_locked_by_us(stack):
                if self.is_done() is not None:
                    yield False
                    return
                if wait:
                    say(wait)
                    wait = ""
            if self.is_done():
                yield False
                return
            self._write(done=False)
            yield True

    def finish(self, figures: Any) -> None:
        """Say that the result is there.

        Raises:
            OSError: that cannot be written.
            ValueError: figures that JSON cannot hold.
        """
        sums = {key: sha256_file(path) for key, path in self._outputs.items()}
        self._write(done=True, sha256=sums, figures=figures)

    def where(self) -> str:
        """Return who has the result or puts it together, and where it is or will be."""
        files = " and ".join(map(str, self._outputs.values()))
        if self.is_done():
            files = f" in {files}" if files else ""
            return f"{who(self.path)} has the result{files}; the figures are in {self.path}"
        return f"{who(self.path)} puts the result together" + (
            f", in {files}" if files else f", prints it and keeps it in {self.path}"
        )

    def _record(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return read_object(self.path)
        return {}

    def _is_of_this_launch(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record is of this launch: by its launcher, or since it is newer than we.

        Times are only compared with those of this machine: the clocks of two need not agree.
        """
        if self._launcher is not None and record["launcher"] == self._launcher:
            return True
        is_here = record["host"] == socket.gethostname()
        return record != self._before or (is_here and bool(record["time"] > self._began))

    def _is_locked_by_us(self, stack: ExitStack) -> bool:
        """Return whether no other process puts a result together, and hold that on ``stack``.

        Others take the lock for a moment only to look, so it is tried more than once.
        """
        for attempt in range(LOOKS):
            try:
                stack.enter_context(lock_folder(self._folder, NAME))
                return True
            except UsageError:
                if attempt < LOOKS - 1:
                    time.sleep(PAUSE)
        return False

    def _write(self, **facts: Any) -> None:
        record = {**me(), "launcher": self._launcher, "measured": self._measured, **facts}
        write_json(self.path, record)


def me() -> dict[str, Any]:
    """Return which process this is, for others to name it."""
    now = time.time()
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "time": now}


def who(path: Path) -> str:
    """Return which process wrote a file with :func:`me`."""
    try:
        record = read_object(path)
        pid, host, since = (shortened(str(record[what])) for what in ("pid", "host", "since"))
        return f"process {pid} on {host} (since {since})"
    except (OSError, ValueError, KeyError):
        return "another process"


def launcher_of(launch: Launch) -> str | None:
    """Return by what a launch is known to all its processes; None where they know nothing.

    A name that users give, such as torchrun's ``--rdzv-id``, does not count: the next launch may
    bear it too. Processes of torchrun on several machines go by what changed while they live.
    """
    if launch.source == "SLURM" and "SLURM_JOB_ID" in os.environ:
        step = os.environ.get("SLURM_STEP_ID", "")
        return f"SLURM {os.environ['SLURM_JOB_ID']}.{step}"
    if launch.source == "SLURM array" and "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"SLURM array {os.environ['SLURM_ARRAY_JOB_ID']}"
    if launch.source == "torchrun" and os.getppid() > 1:
        return f"torchrun {socket.gethostname()} {os.getppid()}"
    return None
