"""A shard of a run: its part of a folder that many processes fill, and the gathering of it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DdimxError, UsageError
from ..progress import Progress
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
    Listing,
    Shard,
    blocks_of,
    claim_shard,
    come_first,
    indices_of,
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
def begin_shard(
    spec: RunSpec, shard: Shard, *, gather: bool = False
) -> Iterator[tuple[Path, Record | None]]:
    """Yield the folder of a run that is made in shards and, where it is begun, its record.

    A refused command leaves the folder as it is, and so does a look at a run (``gather``).

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
        with ExitStack() as stack:
            is_begun = (folder / SHARDS).is_dir
            if not gather and come_first(stack, lambda: lock_folder(folder), is_begun):
                record = found_run(folder, spec)
                if record is not None:
                    check_shared(folder, spec, record)
                if record is None or record["status"] != "complete":
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
            "asked for; its shards are blocks of that number: choose another --out, or, once it is "
            f"complete, remove {folder / SHARDS} and let one process go on"
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
        super().__post_init__()
        self._made: list[range] = []
        self._made_before: list[range] = []
        self._pending = []
        self._is_first = self._is_complete = False

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
                if self.previous_record is None and self.gather:
                    raise DdimxError(f"{self.folder}: holds no run")
                if self.previous_record is None:
                    begun = self.record | {"status": "running", "sharded": True}
                    self._is_first = create_record(self.folder, begun)
                self._is_complete = self.whole
                if not (self.gather or self._is_complete):
                    self._claim(stack)
            yield

    @property
    def whole(self) -> bool:
        """Whether the run is complete, with all its files."""
        before = self.previous_record
        if before is None or before["status"] != "complete":
            return False
        if not all((self.folder / name).is_file() for name in before.get("files", [])):
            return False
        if self.sink.one_file or self._lists_all(before):
            return True
        done = self.sink.done()
        return all(i in done for i in self.indices)

    def _lists_all(self, before: Record) -> bool:
        """Return whether a record names every file of samples, as those of large runs do not."""
        return hasattr(self.sink, "files") or len(before.get("files", [])) > len(self.indices)

    def _claim(self, stack: ExitStack) -> None:
        """Lock this shard until the stack ends, and find out what of it is to be made."""
        folder, shard, indices = self.folder, self.shard, self.indices
        (folder / SHARDS).mkdir(exist_ok=True)
        seen = lock_shard(stack, folder, shard, indices, self.unit)
        before = self.previous_record = self.spec.read(folder)  # what there is under our lock
        if before is None:
            raise UsageError(f"{folder}: another process has just removed this run; begin again")
        check_shared(folder, self.spec, before)
        covered: list[range] = []
        for other in overlapping(shard, seen.records, indices, self.unit):
            made = read_shard(folder, other, indices)["made"]
            covered += made
            if other == shard:
                self._made_before = made
        self._made = remainder(self.owned, covered)
        if shard in seen.records and not self._made:
            return
        self._pending = indices_of(self._made)
        # Files are looked for only where somebody has begun with them, since that costs a look at
        # all of the run's. Without records there are few, or the records were removed.
        begun = bool(overlapping(shard, seen.claims, indices, self.unit))
        begun |= not before.get("sharded") or not (seen.records or self._is_first)
        begun |= shard in seen.records  # finished, and relied on a record that is gone
        claim_shard(folder, shard)
        if begun:
            done = self.sink.done()
            self._pending = [i for i in self._pending if i not in done]

    def left(self) -> int:
        """Return how many samples will be written, as far as this process can say.

        Whoever begins a run counts for all; what others have written since, nobody knows.
        """
        return len(self.indices if self._is_first else self._pending)

    def _uncovered(self, seen: Listing) -> list[range]:
        """Return which samples no finished shard owns; without shards, which are not there."""
        indices = self.indices
        if not (seen.records or (self.folder / SHARDS).is_dir()):
            done = self.sink.done()
            return blocks_of([i for i in indices if i not in done])
        return remainder(indices, (s.owns(indices, self.unit) for s in seen.records))

    @property
    def _suffix(self) -> str:  # type: ignore[override]
        return f", shard {self.shard}"

    def _begin(self, progress: Progress) -> None:
        """Say what of this shard is there already; the manifest is everybody's and stays."""
        self.record["seconds"] = 0.0
        if self.gather or self._is_complete:
            return
        total, left = sum(map(len, self._made)), len(self.pending())
        if not total:
            progress.say(f"{self.folder}: nothing is left to do for shard {self.shard}")
        elif total > left:
            there = f"{total - left} of {total} samples of shard {self.shard}"
            progress.say(f"{self.folder}: {there} are there")

    def _stopped(self) -> Record:
        """Return that the user has stopped this shard; its claim says that it was begun."""
        return self.record | {"status": "interrupted"}

    def _end(self, finish: Callable[[], dict[str, Any]], progress: Progress) -> Record:
        """Record that this shard is finished; where the run is then whole, gather it.

        Raises:
            DdimxError: with ``gather``, samples are missing; the message says which.
        """
        if self._is_complete:
            return self._as_it_is(progress)
        made = sum(map(len, self._made))
        with timed("coordinating"):
            if not self.gather and (made or not len(self.owned)):
                self._write_shard()
            seen = Listing.of(self.folder)
        gaps = self._uncovered(seen)
        if not gaps:
            return self._gather(finish, progress)
        if self.gather:
            raise DdimxError(self._missing(seen, gaps))
        done = len(self.indices) - sum(map(len, gaps))
        return self.record | {"status": "partial", "done": done, "made": made}

    def _as_it_is(self, progress: Progress) -> Record:
        """Return the record of a run that is complete."""
        assert self.previous_record is not None
        progress.say(f"{self.folder}: complete, {self.previous_record['count']:,} samples")
        self._tidy()
        return self.previous_record

    def _write_shard(self) -> None:
        """Record that this shard is finished, after its files."""
        names = ("network_calls", "seconds", "batch_size", "engine", "device", "versions")
        about = {name: self.record[name] for name in names if name in self.record}
        write_shard(self.folder, self.shard, [*self._made_before, *self._made], about)

    def _gather(self, finish: Callable[[], dict[str, Any]], progress: Progress) -> Record:
        """Bring a run of which every sample is there into its final form, unless that is done.

        Raises:
            DdimxError: files are missing of which a shard's record says that they are there.
        """
        folder, indices = self.folder, self.indices
        with ExitStack() as stack:
            (folder / SHARDS).mkdir(exist_ok=True)
            try:
                stack.enter_context(held(folder / SHARDS / GATHERING, folder))
            except UsageError:
                progress.say(f"{folder}: all samples are there; another process is gathering them")
                return self.record | {"status": "partial", "done": len(indices), "made": 0}
            sweep_run(folder)
            before = self.previous_record = self.spec.read(folder)
            assert before is not None
            if self.whole:
                return self._as_it_is(progress)
            seen = Listing.of(folder)
            records = [read_shard(folder, shard, indices) for shard in sorted(seen.records)]
            gaps = remainder(indices, (block for record in records for block in record["made"]))
            if gaps and records:  # a record was removed on which another one relies
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
                "network_calls": sum(r.get("network_calls", 0) for r in records or [before]),
                "seconds": round(sum(r.get("seconds", 0.0) for r in records or [before]), 3),
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
        if (self.folder / SHARDS).is_dir():
            tidy_shards(self.folder)

    def _missing(self, seen: Listing, gaps: Sequence[range]) -> str:
        """Say what of the run is missing, who is at it, and what makes the rest."""
        alone = f"ddimx {self.spec.verb} --resume {self.folder}"
        others = replace(seen, locks=seen.locks - {self.shard})  # this process has its own
        return missing(others, gaps, self.indices, self.unit, alone=alone)
