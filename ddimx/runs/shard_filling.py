"""A shard of a run: its part of a folder that many processes fill, and the gathering of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DdimxError, UsageError
from ..progress import Progress
from ..signals import Stop
from ..timing import timed
from ..untrusted.names import inside
from ..untrusted.text import shortened
from .lock import held, lock_folder
from .record import Record, create_record
from .run import Filling, RunSpec, check_run, found_run, reporting, sweep_run
from .shards import (
    ALL,
    GATHERING,
    LISTED,
    SHARDS,
    WAIT,
    Listing,
    Shard,
    claim_shard,
    lock_shard,
    missing,
    overlapping,
    read_shard,
    remainder,
    tidy_shards,
    write_shard,
)
from .sinks import unit_of

MOST_LOST = 1_000  # samples that are looked up for a message
# What the manifest keeps of the process that made it.
FIRST = ("command", "asked", "versions", "device", "dtype", "batch_size", "engine")


@contextmanager
def begin_shard(spec: RunSpec, shard: Shard) -> Iterator[tuple[Path, Record | None]]:
    """Yield the folder of a run that is made in shards and, where it is begun, its record.

    Raises:
        UsageError: no folder is named, it holds something else, or one process alone fills it.
        DdimxError: the folder cannot be written, then or within.
    """
    folder = spec.out
    if folder is None:
        raise UsageError(
            f"this is process {shard} of one run: name its folder with --out, the same for all; "
            "--shard 1/1 is this process alone"
        )
    if spec.overwrite:
        raise UsageError(
            f"--overwrite: shard {shard} would remove what the others have made; remove {folder} "
            "before they start, or choose another --out"
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file")
    inside(folder, SHARDS, folder)  # no link to another place
    with reporting(folder):
        deadline = time.monotonic() + WAIT
        while not (folder / SHARDS).is_dir():
            with ExitStack() as stack:
                try:
                    stack.enter_context(lock_folder(folder))
                except UsageError:
                    # Another shard has it for some milliseconds, or one process fills the folder.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
                    continue
                if not (folder / SHARDS).is_dir():  # made between our look and our lock
                    found_run(folder, spec)
                    (folder / SHARDS).mkdir()
        record = spec.read(folder)
        if record is not None:
            check_shared(folder, spec, record)
        yield folder, record


def check_shared(folder: Path, spec: RunSpec, record: Record) -> None:
    """Refuse a run that is another one, of another size, or of another version of the code.

    Raises:
        UsageError: what differs, and what to do.
    """
    check_run(folder, spec, record)
    if record["count"] != spec.count:
        raise UsageError(
            f"{folder} is a run of {record['count']:,} samples in shards, and {spec.count:,} were "
            "asked for; its shards are blocks of that number: choose another --out"
        )
    for name, version in spec.versions.items():
        other = record.get("versions", {}).get(name)
        if other != version:
            raise UsageError(
                f"{folder} was begun with {name} {shortened(str(other))}, and this is {version}: "
                "all shards of a run are made by one version; install that one, or choose another "
                "--out"
            )


@dataclass(eq=False)
class ShardFilling(Filling):
    """A shard's part of a folder that is being filled; see :class:`ddimx.runs.run.Filling`.

    The record's ``status`` becomes "complete" for the process that gathers the run, "partial" where
    others are not finished, or "interrupted".

    Attributes:
        shard: which one.
        spec: of the run.
        gather: only look whether all is there, and gather it.
    """

    shard: Shard = ALL
    spec: RunSpec = field(kw_only=True)
    gather: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Begin with nothing to make; :meth:`held` finds out what there is."""
        if hasattr(self.sink, "begin"):  # of tars, whose members depend on the run's first index
            self.sink.begin(self.indices)
        self._made: list[range] = []
        self._pending: Sequence[int] = []
        self._seen = Listing(self.folder, frozenset(), frozenset(), frozenset())

    @cached_property
    def owned(self) -> range:
        """The indices of this shard's samples."""
        return self.shard.owns(self.indices, self.unit)

    @property
    def unit(self) -> int:
        """How many samples the sink keeps in a file: only one shard may make it."""
        return unit_of(self.sink)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the run's manifest, unless it is there, and be the only one to make this shard.

        Raises:
            UsageError: the manifest is of another run, this shard or one that overlaps with it is
                being made.
            DdimxError: this file system creates no file exclusively.
        """
        with ExitStack() as stack:
            with timed("coordinating"):
                self._share_manifest()
                if not self.gather:
                    self._claim(stack)
            yield

    def _share_manifest(self) -> None:
        """Make the run's manifest if nobody has, and check that it is of this run."""
        if self.previous_record is not None:
            return
        self.previous_record = self.record | {"status": "running", "sharded": True}
        if not create_record(self.folder, self.previous_record):
            record = self.spec.read(self.folder)
            assert record is not None  # whole from the moment on at which it is there
            check_shared(self.folder, self.spec, record)

    def _claim(self, stack: ExitStack) -> None:
        """Lock this shard until the stack ends, and find out what of it is to be made."""
        folder, shard, indices = self.folder, self.shard, self.indices
        seen = self._seen = lock_shard(stack, folder, shard, indices, self.unit)
        if shard in seen.records:
            return
        covered: list[range] = []
        for other in overlapping(shard, seen.records, indices, self.unit):
            covered += read_shard(folder, other, indices)["made"]
        self._made = remainder(self.owned, covered)
        blocks = self._made
        self._pending = blocks[0] if len(blocks) == 1 else [i for block in blocks for i in block]
        # Files are looked for only where somebody has begun with them, since that costs a look at
        # all of the run's.
        assert self.previous_record is not None
        begun = overlapping(shard, seen.claims, indices, self.unit)
        if begun or not self.previous_record.get("sharded"):
            sweep_run(folder)
            done = self.sink.done()
            self._pending = [i for i in self._pending if i not in done]
        claim_shard(folder, shard)

    def pending(self) -> Sequence[int]:
        """Return the indices of the samples that this process has to make."""
        return self._pending

    def left(self) -> int:
        """Return how many samples of the run are not there yet, whoever makes them."""
        return sum(map(len, self._uncovered(self._seen)))

    def _uncovered(self, seen: Listing) -> list[range]:
        """Return which samples no finished shard owns."""
        return remainder(self.indices, (s.owns(self.indices, self.unit) for s in seen.records))

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
        """Draw what is pending of this shard; where the run is then whole, gather it.

        The arguments are those of :meth:`ddimx.runs.run.Filling.fill`.

        Raises:
            DdimxError: with ``gather``, samples are missing; the message says which.
        """
        folder, shard, record = self.folder, self.shard, self.record
        if not self.gather:
            total = sum(map(len, self._made))
            if not total:
                progress.say(f"{folder}: nothing is left to do for shard {shard}")
            elif total > len(self._pending):
                there = total - len(self._pending)
                progress.say(f"{folder}: {there} of {total} samples of shard {shard} are there")
            self.draw_pending(
                self._pending,
                draw,
                stop,
                progress,
                title=f"{title}, shard {shard}",
                rows=rows,
                indivisible=indivisible,
            )
            if stop:
                return record | {"status": "interrupted"}
            if total or not len(self.owned):
                with timed("coordinating"):
                    self._write_shard()
        with timed("coordinating"):
            seen = Listing.of(folder)
        gaps = self._uncovered(seen)
        if not gaps:
            return self._gather(finish, progress)
        if self.gather:
            raise DdimxError(self._missing(seen, gaps))
        done = len(self.indices) - sum(map(len, gaps))
        return record | {"status": "partial", "done": done, "made": sum(map(len, self._made))}

    def _write_shard(self) -> None:
        """Record that this shard is finished, after its files."""
        names = ("network_calls", "seconds", "batch_size", "engine", "device", "versions")
        about = {name: self.record[name] for name in names if name in self.record}
        write_shard(self.folder, self.shard, self._made, about)

    def _gather(self, finish: Callable[[], dict[str, Any]], progress: Progress) -> Record:
        """Bring a run of which every sample is there into its final form, unless that is done.

        Raises:
            DdimxError: files are missing of which a shard's record says that they are there.
        """
        folder, indices = self.folder, self.indices
        with ExitStack() as stack:
            try:
                stack.enter_context(held(folder / SHARDS / GATHERING, folder))
            except UsageError:
                progress.say(f"{folder}: all samples are there; another process is gathering them")
                return self.record | {"status": "partial", "done": len(indices), "made": 0}
            sweep_run(folder)
            before = self.spec.read(folder)
            assert before is not None
            files = before.get("files", [])
            if before["status"] == "complete" and all((folder / f).is_file() for f in files):
                progress.say(f"{folder}: complete, {before['count']:,} samples")
                self._tidy()
                return before
            seen = Listing.of(folder)
            records = [read_shard(folder, shard, indices) for shard in sorted(seen.records)]
            gaps = remainder(indices, (block for record in records for block in record["made"]))
            if gaps:  # a record was removed on which another one relies
                raise DdimxError(self._missing(seen, gaps))
            progress.say(f"{folder}: all {len(indices):,} samples are there; gathering")
            done = self.sink.done()
            if lost := [i for i in indices if i not in done]:
                at_fault = [
                    f"{SHARDS}/{Shard(record['of'], record['shard']).name}.json"
                    for record in records
                    if any(i in block for i in lost[:MOST_LOST] for block in record["made"])
                ]
                raise DdimxError(
                    f"{folder}: {len(lost):,} samples that were made are not there, the first is "
                    f"{lost[0]}; remove {', '.join(at_fault[:LISTED])}, and start these shards "
                    "again"
                )
            with timed("files"):
                names = self.sink.finish(indices)
            more = finish()
            self.record |= {
                **{name: before[name] for name in FIRST if name in before},
                "network_calls": sum(record.get("network_calls", 0) for record in records),
                "seconds": round(sum(record.get("seconds", 0.0) for record in records), 3),
                "sharded": True,
                "shards": len(records),
                **more,
                "files": [*names, *more.get("files", ())],
            }
            self._write("complete")
            self._tidy()
            return self.record

    def _tidy(self) -> None:
        """Remove what a complete run needs no longer: parts, and what killed shards have left."""
        self.sink.tidy()
        tidy_shards(self.folder, self.shard)

    def _missing(self, seen: Listing, gaps: Sequence[range]) -> str:
        """Say what of the run is missing, who is at it, and what makes the rest."""
        alone = f"ddimx {self.spec.verb} --resume {self.folder}"
        return missing(seen, gaps, self.indices, self.unit, alone=alone)
