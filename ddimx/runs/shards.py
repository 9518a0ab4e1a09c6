"""A run that many processes fill without speaking to each other: shards, and the contract on disk.

Shard K of N owns a fixed block of the run's samples, less what the records of finished shards
already cover, so that N may be another one in every launch. Beside the run's manifest, which is
made once by whoever comes first, stands the folder ``shards``:

* ``00017-of-00064.claim``: this shard was begun; JSON that says by whom. Its lock, held by the
  living process alone, is ``.00017-of-00064.lock``.
* ``00017-of-00064.json``: this shard is finished; written whole, after all its files. It says which
  samples the shard has made.

A process writes its own samples, claim and record, and nothing of another's. Whoever finds that all
samples are covered gathers: the run's last files, and the manifest's ``status: complete``.

What a process costs besides its work: two listings of ``shards``, and four small files.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DdimxError, UsageError
from ..files import write_json
from ..launch import parse_shard
from ..progress import Progress
from ..signals import Stop
from ..timing import timed
from ..untrusted.names import inside
from ..untrusted.text import read_object, shortened, shown
from .lock import held, is_held, lock_folder, lock_name
from .record import Record, create_record
from .run import Filling, RunSpec, check_run, found_run, reporting, sweep_run

SHARDS = "shards"
SCHEMA = 1
WAIT = 10.0  # seconds for which a shard waits for another one that is making the folder
PATIENCE = 0.2  # seconds: whoever looks whether a shard is alive holds its lock for a moment
_NAME = re.compile(r"\.?([0-9]{5,9})-of-([0-9]{5,9})\.(json|claim|lock)")
GATHERING = ".gather.lock"
LISTED, MOST_LOST = 8, 1_000  # shards or ranges in a message; samples that are looked up for it
# What the manifest keeps of the process that made it.
FIRST = ("command", "asked", "versions", "device", "dtype", "batch_size", "engine")


@dataclass(frozen=True, order=True)
class Shard:
    """Shard ``number`` (from 1) of ``of``."""

    of: int
    number: int

    @property
    def name(self) -> str:
        """Its name on disk: ``00017-of-00064``."""
        return f"{self.number:05d}-of-{self.of:05d}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parsed(cls, text: str) -> Shard:
        """Return the shard of "K/N".

        Raises:
            UsageError: something else, or K outside 1..N.
        """
        number, of = parse_shard(text)
        return cls(of, number)

    def owns(self, indices: range, unit: int = 1) -> range:
        """Return the block of a run's samples that is this shard's.

        All shards of one N together own every sample once. Blocks begin at multiples of ``unit``
        samples from the run's first, for formats that keep so many in a file.
        """
        units = -(-len(indices) // unit)
        first, stop = (units * k // self.of * unit for k in (self.number - 1, self.number))
        return indices[first:stop]


ALL = Shard(1, 1)


@dataclass(frozen=True)
class Listing:
    """What one look at the folder of shards shows, by names alone."""

    folder: Path
    records: frozenset[Shard]
    claims: frozenset[Shard]
    locks: frozenset[Shard]

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """Look at the shards of a run's folder."""
        found: dict[str, set[Shard]] = {"json": set(), "claim": set(), "lock": set()}
        with os.scandir(folder / SHARDS) as entries:
            for entry in entries:
                if match := _NAME.fullmatch(entry.name):
                    number, of = int(match[1]), int(match[2])
                    if 1 <= number <= of:
                        found[match[3]].add(Shard(of, number))
        return cls(folder, *(frozenset(found[kind]) for kind in ("json", "claim", "lock")))

    def living(self) -> list[Shard]:
        """Return the shards that a process is making now."""
        return sorted(shard for shard in self.locks if is_held(_path(self.folder, shard, "lock")))


def read_shard(folder: Path, shard: Shard, indices: range) -> Record:
    """Return the record of a finished shard.

    Raises:
        DdimxError: it cannot be read, or is not of a shard of this run.
    """
    path = _path(folder, shard, "json")
    try:
        record = read_object(path)
        made = [range(first, stop) for first, stop in record["made"]]
        ours = record["shard"] == shard.number and record["of"] == shard.of
        inside = all(indices.start <= r.start <= r.stop <= indices.stop for r in made)
        if record["schema"] != SCHEMA or not ours or not inside:
            raise ValueError(f"it says {shown(record)}")
        return record | {"made": made}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DdimxError(
            f"{path}: not the record of a shard of this run ({error}); remove it, and start shard "
            f"{shard} again"
        ) from None


def who(folder: Path, shard: Shard) -> str:
    """Return by whom a shard is made, as its claim says it."""
    try:
        claim = read_object(_path(folder, shard, "claim"))
        pid, host, since = (shortened(str(claim[name])) for name in ("pid", "host", "since"))
        return f"process {pid} on {host} since {since}"
    except (OSError, ValueError, KeyError):
        return "another process"


def overlapping(
    shard: Shard, shards: Iterable[Shard], indices: range, unit: int = 1
) -> list[Shard]:
    """Return those that own samples of a shard; of the same N that is itself alone."""
    mine = shard.owns(indices, unit)
    return [
        other
        for other in shards
        if other == shard or (other.of != shard.of and _overlap(other.owns(indices, unit), mine))
    ]


def lock_shard(
    stack: ExitStack, folder: Path, shard: Shard, indices: range, unit: int = 1
) -> Listing:
    """Be the only process that makes a shard until the stack ends; return what else there is.

    Two shards of different N that begin at the same moment may both be refused; never may both
    go on.

    Raises:
        UsageError: this shard, or one that overlaps with it, is being made.
    """
    try:
        stack.enter_context(held(_path(folder, shard, "lock"), folder, seconds=PATIENCE))
    except UsageError:
        raise UsageError(
            f"{folder}: shard {shard} is being made by {who(folder, shard)}; wait for its end, "
            "or take another shard"
        ) from None
    seen = Listing.of(folder)
    for other in overlapping(shard, seen.locks - {shard}, indices, unit):
        if is_held(_path(folder, other, "lock")):
            raise UsageError(
                f"{folder}: shard {shard} overlaps with {other}, which is being made by "
                f"{who(folder, other)}; wait for its end, or take a shard of {other.of}"
            )
    return seen


def claim_shard(folder: Path, shard: Shard) -> None:
    """Say that this process has begun with a shard."""
    claim = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
    write_json(_path(folder, shard, "claim"), claim)


def write_shard(folder: Path, shard: Shard, made: Sequence[range], about: Record) -> None:
    """Record that a shard is finished, after its files.

    Args:
        made: the samples that it has made.
        about: what else is recorded.
    """
    write_json(
        _path(folder, shard, "json"),
        {
            "schema": SCHEMA,
            "shard": shard.number,
            "of": shard.of,
            "made": [[r.start, r.stop] for r in made],
            **about,
            "host": socket.gethostname(),
            "finished": _now(),
        },
    )
    _path(folder, shard, "claim").unlink(missing_ok=True)


def missing(
    seen: Listing,
    gaps: Sequence[range],
    indices: range,
    unit: int = 1,
    *,
    what: str = "samples",
    alone: str,
) -> str:
    """Say what of a run is missing, who is at it, and what makes the rest.

    Args:
        seen: the shards.
        gaps: what is missing of ``indices``.
        unit: as :meth:`Shard.owns` has it.
        what: the run is made of.
        alone: the command by which one process makes the rest.
    """
    folder, count = seen.folder, sum(map(len, gaps))
    living = seen.living()
    common = Counter(s.of for s in (*seen.records, *seen.claims)).most_common(1)
    of = common[0][0] if common else 1
    owned = {Shard(of, k): Shard(of, k).owns(indices, unit) for k in range(1, of + 1)}
    due = [s for s in owned if s not in living and any(_overlap(owned[s], g) for g in gaps)]
    lines = [f"{folder}: {count:,} of {len(indices):,} {what} are missing"]
    some = ", ".join(f"{r.start} to {r.stop - 1}" for r in gaps[:LISTED])
    lines.append(f"  {what} {some}{', ...' if len(gaps) > LISTED else ''}")
    lines += [f"  shard {s} is being made by {who(folder, s)}" for s in living[:LISTED]]
    if due:
        named = ", ".join(str(s) for s in due[:LISTED])
        more = f" and {len(due) - LISTED} more" if len(due) > LISTED else ""
        lines.append(
            f"  to be started again: --shard {named}{more}; or one process makes all that is "
            f"missing: {alone}"
        )
    return "\n".join(lines)


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
        return getattr(self.sink, "unit", 1)

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


def tidy_shards(folder: Path, own: Shard, key: str = "") -> None:
    """Remove what gathered shards no longer need: claims, and locks that killed ones have left.

    Args:
        folder: of the run.
        own: the shard whose lock this process may hold, which stays.
        key: of the folder's own lock (:func:`ddimx.runs.lock.lock_name`).
    """
    seen = Listing.of(folder)
    for shard in seen.claims:
        _path(folder, shard, "claim").unlink(missing_ok=True)
    left = [_path(folder, shard, "lock") for shard in seen.locks - {own}]
    for lock in (*left, folder / lock_name(key)):
        if not is_held(lock):
            lock.unlink(missing_ok=True)


def remove_shards(folder: Path) -> None:
    """Remove what the contract has written, and its folder unless it holds something else.

    Raises:
        UsageError: a shard is being made.
    """
    if not inside(folder, SHARDS, folder).is_dir():
        return
    seen = Listing.of(folder)
    if living := seen.living():
        raise UsageError(
            f"{folder}: shard {living[0]} is being made by {who(folder, living[0])}; wait for its "
            "end, or choose another --out"
        )
    for kind, shards in (("claim", seen.claims), ("json", seen.records), ("lock", seen.locks)):
        for shard in shards:
            _path(folder, shard, kind).unlink(missing_ok=True)
    if not any((folder / SHARDS).iterdir()):
        (folder / SHARDS).rmdir()


def _path(folder: Path, shard: Shard, kind: str) -> Path:
    return folder / SHARDS / f"{'.' if kind == 'lock' else ''}{shard.name}.{kind}"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _overlap(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def remainder(indices: range, covered: Iterable[range]) -> list[range]:
    """Return what of a range none of ``covered`` holds, in ascending order."""
    gaps, start = [], indices.start
    for block in sorted((r for r in covered if len(r)), key=lambda r: r.start):
        if block.start > start:
            gaps.append(range(start, min(block.start, indices.stop)))
        start = max(start, block.stop)
        if start >= indices.stop:
            return gaps
    return [*gaps, range(start, indices.stop)] if start < indices.stop else gaps
