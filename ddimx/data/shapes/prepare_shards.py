"""A set of octrees that several processes make: each its block of the shapes, one the manifests.

    DST/shards/00003-of-00008.jsonl  the journal of a shard, as DST/journal.jsonl is of the set

Beside it are the claim, the lock and the record that every shard has (:mod:`ddimx.runs.shards`).
The last shard, or ``--gather``, writes of all journals what one process writes at its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ...progress import Progress
from ...runs.lock import lock_folder
from ...runs.part import Failures, Part, Partial
from ...runs.part import Made as MadePart
from ...runs.record import Record
from ...runs.run import reporting
from ...runs.shards import SHARDS, Shard
from ...runs.shared import SharedWork
from .jobs import Job, Made
from .prepare import JOURNALS, Outcome, ShapeFolder


def run_shard(
    shapes: ShapeFolder,
    jobs: Sequence[Job],
    shard: Shard,
    *,
    workers: int,
    progress: Progress,
    finish: Callable[[Outcome], None],
    about: dict[str, Any],
    gather: bool = False,
) -> Outcome | Partial:
    """Make what is missing of a shard; where all shapes are accounted for then, finish the set.

    Args:
        shapes: the folder.
        jobs: of all shapes, in their order.
        shard: this process's.
        workers: processes that it may have.
        progress: is told how far it is.
        finish: writes the manifests (:meth:`ShapeFolder.finish`).
        about: what else determines the set, values of JSON.
        gather: make nothing.

    Raises:
        UsageError: the folder holds something else, or the shard is being made.
        DdimxError: none could be made, or nothing can be written; with ``gather``, shapes are
            missing.
    """
    folder = shapes.folder
    names = hashlib.sha256("".join(f"{job.file}\n" for job in jobs).encode())
    identity = asdict(shapes.settings) | about | {"names_sha256": names.hexdigest()}
    work = SharedWork(folder, "shapes", len(jobs), identity | {"numpy": version("numpy")})
    shapes.check_folder()
    before = len(jobs)

    def make(part: Part) -> MadePart:
        nonlocal before
        own = folder / SHARDS / f"{part.shard.name}.jsonl"
        of_others = [folder / SHARDS / f"{other.name}.jsonl" for other in part.others]
        wanted = {jobs[i].file: i for i in part.pending}
        known = [path for path in shapes.journals() if path.parent == folder or path in of_others]
        existing, pending = shapes.existing([jobs[i] for i in part.pending], known)
        progress.start(f"octrees, shard {part.shard}", len(wanted), len(existing))
        results = shapes.make(pending, workers, progress, own)
        made = [wanted[r.job.file] for r in [*existing, *results] if r.entry is not None]
        before = len(jobs) - sum(result.entry is not None for result in results)
        bad = {wanted[r.job.file]: (r.job.origin, r.reason) for r in results if r.entry is None}
        return MadePart(sorted(made), bad)

    def conclude(records: dict[Shard, Record], failed: Failures) -> Outcome:
        shapes.sweep()
        existing, others = shapes.existing(jobs, shapes.journals())
        numbers = {job.file: i for i, job in enumerate(jobs)}
        lost = [numbers[job.file] for job in others if numbers[job.file] not in failed]
        if lost:
            raise work.lost(records, lost, "are not there, or their sources have changed since")
        bad = [Made(job, None, failed[numbers[job.file]][1]) for job in others]
        new = len(jobs) - before
        outcome = shapes.outcome(jobs, [*existing, *bad], max(0, len(existing) - new))
        finish(outcome)
        for path in (folder / SHARDS).glob(JOURNALS):  # the journal of the set has it all now
            path.unlink(missing_ok=True)
        return outcome

    with reporting(folder):
        work.begin(lambda: lock_folder(folder), lambda: shapes.prepare(jobs), gather=gather)
        shapes.check_places(jobs)
        result = work.run(shard, make, conclude, gather=gather)
        assert result is not None  # nothing stops it
        return result
