"""Thousands of shards of one run, with failures: the contract of :mod:`ddimx.runs.shards` alone.

Each process of the simulation does on disk what ``ddimx sample --shard K/N`` does there, through
the same code and in a real folder. Two things are missing, the network and the samples' files: a
sample is there when its byte in shared memory is set. So what a process costs here is what the
contract costs.

Processes run one after the other. One that is to be killed runs in a fork, which sends itself
SIGKILL right before its n-th operation on files in a certain stage (Python's audit events: open,
rename, remove, link, scandir ...), or between two samples. So nothing is cleaned up after it, as
after a real kill. Every draw is counted: one that is repeated must have been lost by a kill.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ddimx.errors import DdimxError
from ddimx.files import is_unfinished
from ddimx.progress import Progress
from ddimx.runs.record import Record, read_record
from ddimx.runs.run import RunSpec
from ddimx.runs.shards import (
    ALL,
    Listing,
    Shard,
    ShardFilling,
    begin_shard,
    read_shard,
    remove_shards,
)
from ddimx.signals import Stop
from ddimx.timing import Clock, timed

from ..runner import Array, Table

STAGES = (
    "before its claim",
    "after its claim, before a sample",
    "between two samples",
    "after its samples, before its record's end",
    "while it gathers",
)
# Moments in each stage: its beginning and its operations on files; of the third, its samples.
OPERATIONS = (16, 1, 0, 16, 18)
EVENTS = ("open", "os.", "fcntl.", "tempfile.", "shutil.")
EACH, BATCH = 10, 4  # samples of a shard of the first N, and of a batch
KILLED, AGAIN = 0.1, 0.5  # how often a process is killed, and started again before N changes
WORK = 60.0  # seconds: what a shard's samples are assumed to take; the share is of these
SEED = 0


class _Counts:
    """What all processes know, in memory that forks share: uint8 [samples], and a few numbers.

    ``there``: the sample's file is on disk. ``drawn``: how often the network has drawn it.
    ``lost``: how often it was drawn and killed before its file was there. ``cost``: what a forked
    process's coordination took. ``stage``: where it was killed.
    """

    def __init__(self, samples: int) -> None:
        memory = mmap.mmap(-1, 24 + 3 * samples)
        self.there, self.drawn, self.lost = np.frombuffer(memory, np.uint8, offset=24).reshape(
            3, samples
        )
        self.cost = np.frombuffer(memory, np.float64, 2)
        self._stage = np.frombuffer(memory, np.int64, 1, 16)

    @property
    def stage(self) -> int:
        """The stage, an index of ``STAGES``."""
        return int(self._stage[0])

    @stage.setter
    def stage(self, value: int) -> None:
        self._stage[0] = value


class _Sink:
    """Where samples go that cost nothing; its own time counts as work, not as coordination."""

    one_file = False

    def __init__(self, counts: _Counts, enter: Callable[[int], None]) -> None:
        self._counts, self._enter = counts, enter

    def done(self) -> set[int]:
        with timed("work"):
            return set(np.flatnonzero(self._counts.there).tolist())

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        self._enter(4)
        return []

    def tidy(self) -> None:
        """Remove nothing."""


@dataclass(frozen=True)
class Death:
    """When a process ends itself: before operation ``number`` (from 1) of ``stage``."""

    stage: int
    number: int

    @classmethod
    def drawn(cls, draw: random.Random, samples: int, stages: Sequence[int] = range(4)) -> Death:
        """Return a moment at random, of a process that has so many samples to draw."""
        stage = draw.choice(stages)
        return cls(stage, draw.randint(1, OPERATIONS[stage] or samples))


@dataclass(eq=False)
class Run:
    """A run of so many samples, and what its processes cost.

    ``costs`` has the seconds of coordination of every process that ended well, and how many of them
    it waited for the disk, by what it had to do; ``killed`` how many were killed in each stage.
    """

    folder: Path
    samples: int
    costs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Begin with no sample."""
        self.counts = _Counts(self.samples)
        self._spec = RunSpec(
            verb="sample",
            label="simulated",
            out=self.folder,
            overwrite=False,
            identity={"seed": SEED},
            count=self.samples,
            read=lambda place: read_record(place, "run", 2),
            translate=lambda record: dict(record["identity"]),
            clear=lambda place, _: remove_shards(place),
            versions={"ddimx": "simulated"},
        )

    def process(self, what: str, shard: Shard, *, gather: bool = False) -> str:
        """Do what one process does, and return the record's status."""
        with Clock() as clock:
            status = str(self._shard(shard, gather, lambda _: None, lambda _: None)["status"])
        self.costs.setdefault(what, []).append(_cost(clock))
        return status

    def dying(self, what: str, shard: Shard, death: Death, *, gather: bool = False) -> bool:
        """Do the same in a fork that may kill itself; return whether it did."""
        with _forked() as child:
            if not child:
                self._die(shard, death, gather)
        if _ended_well(child):
            self.costs.setdefault(what, []).append(tuple(self.counts.cost.tolist()))
            return False
        self.killed[STAGES[self.counts.stage]] += 1
        return True

    def together(self, what: str, shards: Sequence[Shard]) -> None:
        """Let a process make each of these shards, all begun at the same moment."""
        reader, writer = os.pipe()
        results = [np.frombuffer(mmap.mmap(-1, 16), np.float64) for _ in shards]
        children = []
        for shard, result in zip(shards, results, strict=True):
            with _forked() as child:
                if not child:
                    os.close(writer)
                    os.read(reader, 1)  # until the parent closes its end
                    with Clock() as clock:
                        self._shard(shard, False, lambda _: None, lambda _: None)
                    result[:] = _cost(clock)
            children.append(child)
        os.close(reader)
        os.close(writer)
        ended_well = [_ended_well(child) for child in children]  # wait for all of them
        if not all(ended_well):
            raise DdimxError(f"{what}: a process was killed by somebody else")
        self.costs[what] = [(float(r[0]), float(r[1])) for r in results]

    def check(self) -> None:
        """Hold the run to what it promises.

        Raises:
            DdimxError: a sample is missing or was made twice, two records claim the same one, or
                something is left over.
        """
        counts, faults = self.counts, []
        if missing := int((counts.there != 1).sum()):
            faults.append(f"{missing} samples are not there")
        if twice := int((counts.drawn != 1 + counts.lost).sum()):
            faults.append(f"{twice} samples were drawn again though nothing was lost")
        seen, indices = Listing.of(self.folder), range(self.samples)
        records = [read_shard(self.folder, shard, indices) for shard in seen.records]
        made = Counter(i for record in records for block in record["made"] for i in block)
        if made != Counter(indices):
            faults.append("the records do not say of every sample once that it was made")
        record = read_record(self.folder, "run", 2)
        if record is None or record["status"] != "complete":
            faults.append("the run is not complete")
        left = [p.name for p in self.folder.rglob("*") if is_unfinished(p.name)]
        if left or seen.claims or seen.locks:
            faults.append(f"left over: {len(left) + len(seen.claims) + len(seen.locks)} files")
        if faults:
            raise DdimxError(f"{self.folder}: " + "; ".join(faults))

    def _shard(
        self,
        shard: Shard,
        gather: bool,
        enter: Callable[[int], None],
        between: Callable[[Sequence[int]], None],
    ) -> Record:
        """Do what one process does; ``enter`` is told the stage, ``between`` what is in memory."""
        counts, left = self.counts, 0
        with begin_shard(self._spec, shard) as (folder, before):
            sink = _Sink(counts, enter)
            record: Record = {
                "status": "running",
                "count": self.samples,
                "identity": self._spec.identity,
                "batch_size": BATCH,
                "versions": dict(self._spec.versions),
            }
            filling = ShardFilling(
                *(folder, before, record, sink, range(self.samples)),
                shard=shard,
                spec=self._spec,
                gather=gather,
            )

            def draw(batch: Sequence[int]) -> None:
                nonlocal left
                with timed("work"):
                    enter(2)
                    counts.drawn[list(batch)] += 1
                    for number, index in enumerate(batch):
                        between(batch[number:])
                        counts.there[index] = 1
                    left -= len(batch)
                    if not left:
                        enter(3)

            with filling.held():
                left = len(filling.pending())
                enter(1 if left else 3)
                return filling.fill(
                    *(draw, dict, Stop(), Progress(quiet=True)), title="simulated", rows=1
                )

    def _die(self, shard: Shard, death: Death, gather: bool) -> None:
        """Do what one process does in this one, which is a fork, until it is killed."""
        counts, operations = self.counts, 0
        counts.stage = 0

        def enter(stage: int) -> None:
            nonlocal operations
            if stage != counts.stage:
                counts.stage, operations = stage, 0
                operation()

        def operation(lost: Sequence[int] = ()) -> None:
            nonlocal operations
            if counts.stage == death.stage:
                operations += 1
                if operations == death.number:
                    counts.lost[list(lost)] += 1
                    os.kill(os.getpid(), signal.SIGKILL)

        def event(name: str, _: object) -> None:
            if counts.stage != 2 and name.startswith(EVENTS):
                operation()

        sys.addaudithook(event)
        with Clock() as clock:
            self._shard(shard, gather, enter, operation)
        counts.cost[:] = _cost(clock)


def simulate(
    shards: int,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
    chance: float = KILLED,
) -> Run:
    """Make a run that begins with so many shards and is finished with others, with failures.

    Of N shards four fifths are begun, in random order; a tenth of all processes are killed, and
    half of these started again. Then N becomes three tenths of that, and at last a 25th, at most
    64, until the run is whole, whose gathering is killed as well.

    Raises:
        DdimxError: the run does not hold what the contract promises.
    """
    run, draw = Run(folder, EACH * shards), random.Random(SEED)
    last = min(64, max(2, shards // 25))
    for of, part in ((shards, 0.8), (max(3, shards * 3 // 10), 0.6), (last, 1.0)):
        due = draw.sample(range(1, of + 1), round(part * of))
        begun = set()
        while due:
            number = due.pop()
            shard, again = Shard(of, number), number in begun
            begun.add(number)
            what = f"{of:,} shards, " + ("started again" if again else "started")
            # Whoever comes last gathers, and is killed at that.
            closing = part == 1.0 and not due
            if closing or draw.random() < chance:
                stages = (4,) if closing else range(4)
                killed = run.dying(what, shard, Death.drawn(draw, run.samples // of, stages))
                if killed and not closing and (part == 1.0 or draw.random() < AGAIN):
                    due.insert(draw.randint(0, len(due)), number)
            else:
                run.process(what, shard)
        say(f"{of:,} shards: {run.counts.there.sum():,} of {run.samples:,} samples are there")
    for _ in range(3):
        run.dying("gathering", ALL, Death.drawn(draw, 0, (4,)), gather=True)
    if run.process("gathering", ALL, gather=True) != "complete":
        raise DdimxError(f"{folder}: --gather did not end the run")
    run.check()
    return run


def at_once(processes: int, folder: Path) -> Run:
    """Make a run of which all shards begin at the same moment, each in a process of its own.

    Raises:
        DdimxError: the run does not hold what the contract promises.
    """
    run = Run(folder, EACH * processes)
    shards = [Shard(processes, number) for number in range(1, processes + 1)]
    run.together(f"{processes} shards, started at once", shards)
    run.check()
    return run


def table(
    shards: int, processes: int, folder: Path, say: Callable[[str], None] = lambda _: None
) -> Table:
    """Simulate, and return what the coordination of a process costs as one table of JSON values.

    Args:
        shards: how many a run begins with.
        processes: how many are started at one moment, of another run.
        folder: in whose file system the runs are made; nothing is left there.
        say: is told how far it is.

    Raises:
        DdimxError: a run does not hold what the contract promises.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="scale-") as name:
        at_once(2, Path(name) / "warm")  # what is imported and looked up once
        simulate(3, Path(name) / "warm, with failures")
        run = simulate(shards, Path(name) / "failures", say)
        together = at_once(processes, Path(name) / "together")
    killed = ", ".join(f"{run.killed[stage]:,} {stage}" for stage in STAGES)
    lost = int(run.counts.lost.sum())
    return {
        "title": f"coordination of a process, a run of {shards:,} shards with failures",
        "baseline": "",
        "notes": [
            f"{sum(run.killed.values()):,} processes killed: {killed}",
            f"each of {run.samples:,} samples is there once; {lost:,} draws were lost, since their "
            "process was killed before the file was there, and these alone were repeated",
            f"of {WORK:.0f} s: the share of the 95th percentile in a shard's work of that length",
        ],
        "rows": [
            _row(what, np.array(costs)) for what, costs in (run.costs | together.costs).items()
        ],
    }


def _row(what: str, costs: Array) -> dict[str, Any]:
    """Return a row of costs, float64 [processes, 2]: seconds, and those of them for the disk."""
    median, p95, most = (float(q) for q in np.quantile(costs[:, 0], [0.5, 0.95, 1.0]))
    return {
        "name": what,
        "processes": len(costs),
        "median_ms": 1e3 * median,
        "p95_ms": 1e3 * p95,
        "largest_ms": 1e3 * most,
        "syncing_ms": 1e3 * float(np.median(costs[:, 1])),
        "percent_of_work": 100 * p95 / WORK,
    }


def _cost(clock: Clock) -> tuple[float, float]:
    """Return the seconds of a process besides its work, and those of them for the disk."""
    parts = clock.seconds
    return sum(parts.values()) - parts.get("work", 0.0), parts.get("syncing", 0.0)


@contextmanager
def _forked() -> Iterator[int]:
    """Fork: yield the child's process number, and in the child 0; it ends with the block."""
    with warnings.catch_warnings():
        # Of the threads that other libraries have begun the child needs none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        yield child
        return
    code = 1
    try:
        yield 0
        code = 0
    except BaseException:  # noqa: BLE001 - a child must not return into what its parent does
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _ended_well(child: int) -> bool:
    """Wait for a fork; return whether it ended well, False if it was killed.

    Raises:
        DdimxError: it failed; its traceback stands on stderr.
    """
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise DdimxError(f"a process of the simulation failed with status {status}")
    return True
