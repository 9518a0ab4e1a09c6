"""Thousands of shards of one run, with failures: what the contract promises, and what it costs.

Processes run one after the other (:mod:`.simulated`); a tenth is killed, some are started again,
and the number of shards changes twice on the way. At last the run is held to its promise: each
sample is there, and none was drawn again but those that a kill had lost.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddimx.errors import DdimxError
from ddimx.files import is_unfinished
from ddimx.runs.record import read_record
from ddimx.runs.shards import ALL, Listing, Shard, read_shard

from ..runner import Array, Table
from .simulated import STAGES, Death, Run

EACH = 10  # samples of a shard of the first N
KILLED, AGAIN = 0.1, 0.5  # how often a process is killed, and started again before N changes
WORK = 60.0  # seconds: what a shard's samples are assumed to take; the share is of these
SEED = 0


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
    check(run)
    return run


def at_once(processes: int, folder: Path) -> Run:
    """Make a run of which all shards begin at the same moment, each in a process of its own.

    Raises:
        DdimxError: the run does not hold what the contract promises.
    """
    run = Run(folder, EACH * processes)
    shards = [Shard(processes, number) for number in range(1, processes + 1)]
    run.together(f"{processes} shards, started at once", shards)
    check(run)
    return run


def check(run: Run) -> None:
    """Hold a run to what it promises.

    Raises:
        DdimxError: a sample is missing or was made twice, two records claim the same one, or
            something is left over.
    """
    counts, faults = run.counts, []
    if missing := int((counts.there != 1).sum()):
        faults.append(f"{missing} samples are not there")
    if twice := int((counts.drawn != 1 + counts.lost).sum()):
        faults.append(f"{twice} samples were drawn again though nothing was lost")
    seen, indices = Listing.of(run.folder), range(run.samples)
    records = [read_shard(run.folder, shard, indices) for shard in seen.records]
    made = Counter(i for record in records for block in record["made"] for i in block)
    if made != Counter(indices):
        faults.append("the records do not say of every sample once that it was made")
    record = read_record(run.folder, "run", 2)
    if record is None or record["status"] != "complete":
        faults.append("the run is not complete")
    left = [p.name for p in run.folder.rglob("*") if is_unfinished(p.name)]
    if left or seen.claims or seen.locks:
        faults.append(f"left over: {len(left) + len(seen.claims) + len(seen.locks)} files")
    if faults:
        raise DdimxError(f"{run.folder}: " + "; ".join(faults))


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
    """Return a row of costs, float64 [processes, 3], in the order of :class:`Cost`."""
    median, p95, most = (float(q) for q in np.quantile(costs[:, 0], [0.5, 0.95, 1.0]))
    return {
        "name": what,
        "processes": len(costs),
        "median_ms": 1e3 * median,
        "p95_ms": 1e3 * p95,
        "largest_ms": 1e3 * most,
        "syncing_ms": 1e3 * float(np.median(costs[:, 1])),
        "processor_ms": 1e3 * float(np.median(costs[:, 2])),
        "percent_of_work": 100 * p95 / WORK,
    }
