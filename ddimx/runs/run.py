"""A run that fills a folder item by item, however often it is interrupted.

What every such verb does, once: the folder is created or reused, locked, checked to hold the same
run, and swept; finished samples are skipped; the record says how far the run is; Ctrl-C, a kill or
a full disk end it with everything finished in its place; the same command goes on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..errors import DdimxError, UsageError
from ..files import is_unfinished, sweep
from ..progress import Progress
from ..signals import Interrupted, Stop
from ..timing import timed
from .batches import in_batches
from .folder import fresh_run
from .lock import is_lock, lock_folder
from .record import Record, check_same, write_record
from .shards import SHARDS


class Stopped(Exception):
    """The user stopped the run in the middle of a batch."""


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into one that says what is kept, and what to do.

    Raises:
        DdimxError: for every OSError within.
    """
    try:
        yield
    except OSError as error:
        # The message omits the temporary file's name, which means nothing to the user.
        raise DdimxError(
            f"cannot write to {folder}: {error.strerror or error}; what was written is valid, "
            "the same command goes on from there"
        ) from None


def only_ours(folder: Path) -> bool:
    """Return whether a folder holds nothing but the leftovers of our killed processes."""
    return all(is_unfinished(path.name) or is_lock(path.name) for path in folder.iterdir())


def sweep_run(folder: Path) -> None:
    """Remove what killed processes left unfinished in a run's folder and those directly below."""
    sweep(folder)
    with os.scandir(folder) as entries:  # which knows of each of a million files that it is one
        folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in folders:
        sweep(folder / name)


@contextmanager
def locked_output(out: Path | None, verb: str, label: str, names: Sequence[str]) -> Iterator[Path]:
    """Yield a folder to write files of these names to, which no other process does meanwhile.

    Other files in the folder are left alone.

    Args:
        out: the folder, or None for a fresh numbered one.
        verb, label: the name of a fresh one.
        names: of the files that will be written; what is unfinished of them is removed.

    Raises:
        UsageError: it is a file, or another process writes there.
        DdimxError: it cannot be made, or written within.
    """
    folder = _output(out, verb, label)
    with lock_folder(folder), reporting(folder):
        sweep(folder, *names)
        yield folder


def _output(out: Path | None, verb: str, label: str) -> Path:
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file")
    return fresh_run(verb, label) if out is None else out


@dataclass(frozen=True)
class RunSpec:
    """What a run is: its folder, its identity and its size.

    Attributes:
        verb, label: the name of a fresh folder.
        out: the folder, or None for a fresh one.
        overwrite: whether what the folder holds is removed first.
        identity: everything that determines the files, except how many there are.
        count: how many samples.
        read: returns a folder's record, or None.
        translate: brings a record's identity up to this version's.
        clear: removes what an earlier run wrote, given its record; nothing else.
        versions: of packages that all processes of a run in shards must have.
    """

    verb: str
    label: str
    out: Path | None
    overwrite: bool
    identity: Record
    count: int
    read: Callable[[Path], Record | None]
    translate: Callable[[Record], Record]
    clear: Callable[[Path, Record | None], None]
    versions: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def begin(spec: RunSpec) -> Iterator[tuple[Path, Record | None]]:
    """Yield the folder of a run and, where it was begun before, its record.

    Raises:
        UsageError: the folder holds something else, or another process writes there.
        DdimxError: the folder cannot be written, then or within.
    """
    folder = _output(spec.out, spec.verb, spec.label)
    with lock_folder(folder), reporting(folder):
        if (folder / SHARDS).is_dir() and not spec.overwrite:  # since this process has looked
            raise UsageError(
                f"{folder} was begun in shards a moment ago; the same command makes what is missing"
            )
        if spec.overwrite:
            record = spec.read(folder)
            sweep_run(folder)
            spec.clear(folder, record)
            yield folder, None
            return
        record = found_run(folder, spec)
        sweep_run(folder)
        yield folder, record


def found_run(folder: Path, spec: RunSpec) -> Record | None:
    """Return the record of the run that a folder holds, None for a folder that is ours and empty.

    Raises:
        UsageError: it holds something else.
    """
    record = spec.read(folder)
    if record is None and not only_ours(folder):
        raise UsageError(f"{folder} is not empty and holds no run; choose another --out")
    if record is not None:
        check_run(folder, spec, record)
    return record


def check_run(folder: Path, spec: RunSpec, record: Record) -> None:
    """Raise UsageError unless a folder's record is of the run that ``spec`` describes."""
    old = spec.translate(record)
    check_same(folder, record["count"], old, spec.identity, spec.count)


class Storage(Protocol):
    """Takes samples by index, and knows which it has. Every file is whole or absent."""

    @property
    def one_file(self) -> bool:
        """Whether all samples end in one file, so that a finished run cannot grow."""
        ...

    def done(self) -> Set[int]:
        """Return the indices of the samples that are on disk."""
        ...

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Bring the run's files into their final form, if they are not, and return their names."""
        ...

    def tidy(self) -> None:
        """Remove temporary files, once the record says that the run is complete."""
        ...


@dataclass(eq=False)
class Filling:
    """A folder that is being filled: which samples are pending, and the record of it all.

    Attributes:
        folder: the run's.
        previous_record: the record of the run so far, None for a fresh run.
        record: what will be written; ``status``, ``seconds`` and ``files`` are set here.
        sink: where samples go.
        indices: those of all samples.

    Raises:
        UsageError: a finished file of another number of samples.
    """

    folder: Path
    previous_record: Record | None
    record: Record
    sink: Storage
    indices: range

    def __post_init__(self) -> None:
        if hasattr(self.sink, "begin"):  # of tars, whose members depend on the run's first index
            self.sink.begin(self.indices)
        previous = self.previous_record
        if previous is None or not self.sink.one_file or previous.get("status") != "complete":
            return
        if len(self.indices) != previous["count"]:
            raise UsageError(
                f"{self.folder} holds a finished file of {previous['count']} samples; "
                "choose another --out or --overwrite"
            )

    def held(self) -> AbstractContextManager[None]:
        """Return the context in which the folder is filled; a run's own process holds its lock."""
        return nullcontext()

    def pending(self) -> Sequence[int]:
        """Return the indices of the samples that this process has to make, looked up once."""
        return self._pending

    @cached_property
    def _pending(self) -> Sequence[int]:
        if self.previous_record is None:  # files with our names are not of this run
            return self.indices
        if self.whole:
            return []
        indices = self.sink.done()
        return [i for i in self.indices if i not in indices]

    def left(self) -> int:
        """Return how many samples of the run are not there yet, whoever makes them."""
        return len(self.pending())

    @property
    def whole(self) -> bool:
        """Whether all samples are in their one file already."""
        previous = self.previous_record
        if previous is None or not self.sink.one_file or previous.get("status") != "complete":
            return False
        return all((self.folder / name).is_file() for name in previous.get("files", []))

    def fill(
        self,
        draw: Callable[[Sequence[int]], None],
        finish: Callable[[], dict[str, Any]],
        stop: Stop,
        progress: Progress,
        *,
        title: str,
        rows: int,
        indivisible: str | None = None,
    ) -> Record:
        """Draw what is pending, finish, and return the record.

        Its ``status`` is "complete", or "interrupted" if ``stop`` was set; then the same run goes
        on where this one ended.

        Args:
            draw: draws and writes a batch; may raise :class:`Stopped`.
            finish: is called when all samples are there, after the sink's; returns what goes into
                the record as well. It runs again if a killed process may not have reached it.
            stop: set once the user asked to stop.
            progress: where to say what is there already, and that memory ran out.
            title, rows: of the progress: what is done, and in how many advances for each sample.
            indivisible: as of :func:`ddimx.runs.batches.in_batches`.
        """
        self._begin(progress)
        pending, before = self.pending(), self.record["seconds"]
        progress.start(title + self._suffix, len(pending) * rows)

        def halved(size: int) -> None:
            self.record["batch_size"] = size
            progress.say(f"out of memory; going on with batches of {size}")

        start = time.perf_counter()
        try:
            size = self.record["batch_size"]
            batches = in_batches(pending, size, draw, halved=halved, indivisible=indivisible)
            while not stop and next(batches, None) is not None:
                pass
        except (Stopped, Interrupted):
            stop.signal = stop.signal or signal.SIGINT
        finally:
            progress.stop()
            self.record["seconds"] = round(before + time.perf_counter() - start, 3)
        return self._stopped() if stop else self._end(finish, progress)

    _suffix = ""  # of the title, where this is a part of a run

    def _begin(self, progress: Progress) -> None:
        """Say what is there already, and record that the run goes on."""
        if present := len(self.indices) - len(self.pending()):
            progress.say(
                f"{self.folder}: {present} of {len(self.indices)} samples are there already"
            )
        self.record["seconds"] = (self.previous_record or {}).get("seconds", 0.0)
        self._write("running")

    def _stopped(self) -> Record:
        """Record that the user has stopped the run."""
        return self._write("interrupted")

    def _end(self, finish: Callable[[], dict[str, Any]], _progress: Progress) -> Record:
        """Bring a run of which all samples are there into its final form."""
        with timed("files"):
            files = self.sink.finish(self.indices, whole=self.whole)
        more = finish()
        self.record |= more | {"files": [*files, *more.get("files", ())]}
        self._write("complete")
        self.sink.tidy()
        return self.record

    def _write(self, status: str) -> Record:
        self.record["status"] = status
        with timed("files"):
            write_record(self.folder, self.record)
        return self.record
