"""Making octrees, one after the other or in several processes, where one bad mesh stops nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from ..errors import DdimxError, UsageError
from ..octree.errors import OctreeError
from ..octree.file import Shape, write_shape
from ..octree.fit import MARGIN
from ..octree.tree import Octree, from_leaves
from ..octree.visible import visible_cells
from .meshes import Surface

FORMAT = 1  # of a prepared folder; another one is not continued
FEW = 8  # shapes that are made before other processes would have started


@dataclass(frozen=True)
class Settings:
    """What every shape of a set has in common.

    Attributes:
        source: what the shapes are made from, as a person would say it.
        depth, margin: as ``ddimx.octree.fit`` has them.
        visible: whether cells that cannot be seen from outside are left out.
    """

    source: str
    depth: int
    margin: float = MARGIN
    visible: bool = False
    format: int = FORMAT


@dataclass(frozen=True)
class Job:
    """One shape that is to be made.

    Attributes:
        origin: what it is made from, for messages.
        stamp: another one says that the source has changed.
        read: returns its surface; goes to other processes, so it is a module's function or a
            ``functools.partial`` of one.
        about: what the manifest says of it besides.
    """

    category: str
    shape_id: str
    origin: str
    stamp: str
    read: Callable[[], Surface]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The octree's file within the set."""
        return f"shapes/{self.category}/{self.shape_id}.npz"


@dataclass(frozen=True)
class Made:
    """One job's outcome: its journal entry, or why there is none."""

    job: Job
    entry: dict[str, Any] | None
    reason: str = ""


def check_names(jobs: Sequence[Job]) -> None:
    """Refuse two shapes of one name; where case does not tell files apart, nor does it here."""
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.file.casefold(), job)
        if other is not job:
            raise UsageError(
                f"{other.origin} and {job.origin} are both shape '{job.shape_id}' of category "
                f"'{job.category}'; rename one of them"
            )


def make(job: Job, settings: Settings, folder: Path) -> Made:
    """Make one shape; runs in any process."""
    try:
        tree = _tree(job.read(), settings)
    except OctreeError as error:
        return Made(job, None, str(error if error.file else error.within(job.origin)))
    except UsageError:
        raise
    except DdimxError as error:
        return Made(job, None, str(error))
    except MemoryError:
        return Made(job, None, f"{job.origin}: too large for memory at depth {settings.depth}")
    path = folder / job.file
    write_shape(path, Shape(tree, job.category, job.shape_id))
    entry = {"file": job.file, "stamp": job.stamp, "bytes": path.stat().st_size}
    return Made(job, entry | {"nodes": sum(tree.counts[:-1]), "leaves": tree.counts[-1]})


def _tree(surface: Surface, settings: Settings) -> Octree:
    tree = surface.tree(settings.depth, settings.margin)
    if not settings.visible:
        return tree
    return from_leaves(visible_cells(tree.leaves, tree.depth), tree.depth, tree.lower, tree.edge)


def make_all(jobs: list[Job], settings: Settings, folder: Path, workers: int) -> Generator[Made]:
    """Yield the outcomes as they come, from several processes where there is enough to do.

    Raises:
        DdimxError: a process died.
        OSError: a shape cannot be written.
    """
    if workers == 1 or len(jobs) <= FEW:
        for job in jobs:
            yield make(job, settings, folder)
        return
    others = set(active_children())
    # Spawned, for a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_worker)
    coming = iter(jobs)
    waiting: set[Future[Made]] = set()
    try:
        for job in islice(coming, 4 * workers):
            waiting.add(pool.submit(make, job, settings, folder))
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            for job in islice(coming, len(done)):
                waiting.add(pool.submit(make, job, settings, folder))
    except BrokenProcessPool:
        raise DdimxError(
            "a process died, probably for want of memory; the same command with fewer --workers "
            "goes on where this one stopped"
        ) from None
    finally:
        for process in set(active_children()) - others if waiting else ():
            process.terminate()  # nobody waits for what an interrupted run has in its hands
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C, which all processes of a terminal get, to the first; end when that one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the process that started this one: if it was killed, nobody wants more shapes."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
