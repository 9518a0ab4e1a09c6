"""What one process of a run in shards does on disk, without a network, and until it is killed.

It is done by the code that ``ddimx sample --shard K/N`` runs, in a real folder. Two things are
missing, the network and the samples' files: a sample is there when its byte in shared memory is
set. So what a process costs here is what the contract costs.

A process that is to be killed runs in a fork, which sends itself SIGKILL right before its n-th
operation on files in a certain stage (Python's audit events: open, rename, remove, link, scandir
...), or between two samples. So nothing is cleaned up after it, as after a real kill. Every draw is
counted: one that is repeated must have been lost by a kill.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ddimx.errors import DdimxError
from ddimx.progress import Progress
from ddimx.runs.record import Record, read_record
from ddimx.runs.run import RunSpec
from ddimx.runs.shard_filling import ShardFilling, begin_shard
from ddimx.runs.shards import Shard, remove_shards
from ddimx.signals import Stop
from ddimx.timing import Clock, timed

if TYPE_CHECKING:
    from typing_extensions import Self

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
BATCH = 4  # samples of a batch


class Cost(NamedTuple):
    """Of a process, besides its work: seconds, those of them for the disk, the processor's."""

    seconds: float
    syncing: float
    processor: float


class _Counts:
    """What all processes know, in memory that forks share: uint8 [samples], and a few numbers.

    ``there``: the sample's file is on disk. ``drawn``: how often the network has drawn it.
    ``lost``: how often it was drawn and killed before its file was there. ``cost``: what a forked
    process's coordination took. ``stage``: where it was killed.
    """

    def __init__(self, samples: int) -> None:
        memory = mmap.mmap(-1, 32 + 3 * samples)
        bytes_ = np.frombuffer(memory, np.uint8, 3 * samples, 32)
        self.there, self.drawn, self.lost = bytes_.reshape(3, samples)
        self.cost = np.frombuffer(memory, np.float64, 3)
        self._stage = np.frombuffer(memory, np.int64, 1, 24)

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

    ``costs`` has the coordination of every process that ended well, by what it had to do;
    ``killed`` how many were killed in each stage.
    """

    folder: Path
    samples: int
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Begin with no sample."""
        self.counts = _Counts(self.samples)
        self._spec = RunSpec(
            verb="sample",
            label="simulated",
            out=self.folder,
            overwrite=False,
            identity={"seed": 0},
            count=self.samples,
            read=lambda place: read_record(place, "run", 2),
            translate=lambda record: dict(record["identity"]),
            clear=lambda place, _: remove_shards(place),
            versions={"ddimx": "simulated"},
        )

    def process(self, what: str, shard: Shard, *, gather: bool = False) -> str:
        """Do what one process does, and return the record's status."""
        with _Coordination() as clock:
            status = str(self._shard(shard, gather, lambda _: None, lambda _: None)["status"])
        self.costs.setdefault(what, []).append(clock.cost())
        return status

    def dying(self, what: str, shard: Shard, death: Death, *, gather: bool = False) -> bool:
        """Do the same in a fork that may kill itself; return whether it did."""
        with _forked() as child:
            if not child:
                self._die(shard, death, gather)
        if _ended_well(child):
            self.costs.setdefault(what, []).append(Cost(*self.counts.cost.tolist()))
            return False
        self.killed[STAGES[self.counts.stage]] += 1
        return True

    def together(self, what: str, shards: Sequence[Shard]) -> None:
        """Let a process make each of these shards, all begun at the same moment."""
        reader, writer = os.pipe()
        results = [np.frombuffer(mmap.mmap(-1, 24), np.float64) for _ in shards]
        children = []
        for shard, result in zip(shards, results, strict=True):
            with _forked() as child:
                if not child:
                    os.close(writer)
                    os.read(reader, 1)  # until the parent closes its end
                    with _Coordination() as clock:
                        self._shard(shard, False, lambda _: None, lambda _: None)
                    result[:] = clock.cost()
            children.append(child)
        os.close(reader)
        os.close(writer)
        ended_well = [_ended_well(child) for child in children]  # wait for all of them
        if not all(ended_well):
            raise DdimxError(f"{what}: a process was killed by somebody else")
        self.costs[what] = [Cost(*r.tolist()) for r in results]

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
        with _Coordination() as clock:
            self._shard(shard, gather, enter, operation)
        counts.cost[:] = clock.cost()


class _Coordination(Clock):
    """Measures the cost of a process. What else the machine does is not in the processor's time."""

    def __init__(self) -> None:
        super().__init__()
        self._processor = 0.0

    def __enter__(self) -> Self:
        self._processor = -time.process_time()
        return super().__enter__()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within as this part; of work the processor's time is left out."""
        before = time.process_time()
        with super().part(name):
            yield
        if name == "work":
            self._processor -= time.process_time() - before

    def cost(self) -> Cost:
        """Return what it was, right after the end."""
        parts = self.seconds
        seconds = sum(parts.values()) - parts.get("work", 0.0)
        return Cost(seconds, parts.get("syncing", 0.0), self._processor + time.process_time())


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
