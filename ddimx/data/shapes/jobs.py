"""Making octrees in processes of their own, where one bad mesh stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ...errors import DdimxError, UsageError
from ...octree.errors import OctreeError
from ...octree.file import Shape, write_shape
from ...octree.fit import MARGIN
from ...octree.geometry import components
from ...octree.tree import Octree, from_leaves
from ...octree.visible import visible_cells
from ...runs.processes import Allowance, run_all
from ...untrusted import limits
from .meshes import warm_up

FORMAT = 1  # of a prepared folder; another one is not continued
# What making a shape may take, at least four times of what 450 pieces of furniture took at most:
# 0.35 s for each MB of the file and 120 MB at depth 6, 9 s and 290 MB at depth 9; finding what is
# visible takes 23 s at depth 9, even of a box. A surface has some 4^depth cells, the grid 8^depth.
# --limit-memory raises the time in proportion to the memory.
SECONDS, SECONDS_PER_MB, SECONDS_PER_CELL, SECONDS_PER_VISIBLE = 3.0, 1.5, 200e-6, 4e-6
BYTES_PER_BYTE, BYTES_PER_CELL, BYTES_PER_VISIBLE = 40, 1000, 24


@dataclass(frozen=True)
class PrepareSettings:
    """What every shape of a set has in common.

    Attributes:
        source: what the shapes are made from, as a person would say it.
        depth, margin: as ``ddimx.octree.fit`` has them.
        visible: whether cells that cannot be seen from outside are left out.
        crumbs: the share of the cells that pieces apart from the largest may hold together in order
            to be left out. Above 0, a variant that is in pieces all the same is left out too, where
            the shape itself is in one piece.
    """

    source: str
    depth: int
    margin: float = MARGIN
    visible: bool = False
    format: int = FORMAT
    crumbs: float = 0.0


class Source(Protocol):
    """What octrees are made of: a surface, points, or a deeper octree."""

    def tree(self, depth: int, margin: float = MARGIN) -> Octree:
        """Return its octree; raises OctreeError where there is none."""


Change = Callable[[Source], Source]


@dataclass(frozen=True)
class Job:
    """One shape that is to be made.

    Attributes:
        origin: what it is made from, for messages.
        stamp: another one says that the source has changed.
        read: returns what its octree is made of; goes to other processes, so it is a module's
            function or a ``functools.partial`` of one.
        about: what the manifest says of it besides.
        size: bytes of its source, after which its allowance goes.
        changes: make the variants of the shape out of what was read; as ``read``, they go to other
            processes.
    """

    category: str
    shape_id: str
    origin: str
    stamp: str
    read: Callable[[], Source]
    about: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    changes: tuple[Change, ...] = ()

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


def make(job: Job, settings: PrepareSettings, folder: Path) -> Made:
    """Make one shape; runs in any process.

    Raises:
        OSError: the shape cannot be written.
        MemoryError: it needs more than there is, or than it is allowed.
    """
    try:
        source = job.read()
        tree, whole = _tree(source, settings)
        changed = [_tree(change(source), settings) for change in job.changes]
    except OctreeError as error:
        return Made(job, None, str(error if error.file else error.within(job.origin)))
    except UsageError:
        raise
    except DdimxError as error:
        return Made(job, None, str(error))
    path = folder / job.file
    others = tuple(other for other, one_piece in changed if one_piece or not whole)
    write_shape(path, Shape(tree, job.category, job.shape_id, others))
    entry = {"file": job.file, "stamp": job.stamp, "bytes": path.stat().st_size}
    entry |= {"nodes": sum(tree.counts[:-1]), "leaves": tree.counts[-1]}
    return Made(job, entry | ({"variants": 1 + len(others)} if job.changes else {}))


def _tree(source: Source, settings: PrepareSettings) -> tuple[Octree, bool]:
    """Return an octree and whether it is in one piece: cells that share a corner are.

    That is looked at only where crumbs are left out; otherwise it is True.
    """
    tree = source.tree(settings.depth, settings.margin)
    leaves, whole = tree.leaves, True
    if settings.visible:
        leaves = visible_cells(leaves, tree.depth)
        tree = from_leaves(leaves, tree.depth, tree.lower, tree.edge)
    if settings.crumbs:
        labels, sizes = components(tree)
        whole = sizes[1:].sum() <= settings.crumbs * sizes.sum()
        if whole and len(sizes) > 1:
            tree = from_leaves(leaves[labels == 0], tree.depth, tree.lower, tree.edge)
    return tree, bool(whole)


def make_all(
    jobs: list[Job], settings: PrepareSettings, folder: Path, workers: int
) -> Generator[Made]:
    """Yield the outcomes as they come, from up to ``workers`` processes.

    Raises:
        DdimxError: a process was killed.
        OSError: a shape cannot be written.
    """
    coming = run_all(
        partial(make, settings=settings, folder=folder),
        jobs,
        allowance=partial(allowance, settings),
        processes=workers,
        warm_up=warm_up,
    )
    for outcome in coming:
        if outcome.result is not None:
            yield outcome.result
        else:
            at = f"at depth {settings.depth}"
            more = (
                "; --limit-memory allows it more" if outcome.error and outcome.error.limit else ""
            )
            yield Made(outcome.item, None, f"{outcome.item.origin}: {outcome.error} {at}{more}")


def allowance(settings: PrepareSettings, job: Job) -> Allowance:
    """Return what making a shape may take; see the constants above."""
    cells, times = 4**settings.depth, max(1.0, limits.memory() / limits.MEMORY)
    seconds = SECONDS_PER_MB * job.size / 1e6 + SECONDS_PER_CELL * cells
    memory = limits.memory() + BYTES_PER_BYTE * job.size + BYTES_PER_CELL * cells
    if settings.visible:
        memory += BYTES_PER_VISIBLE * 8**settings.depth
        seconds += SECONDS_PER_VISIBLE * 8**settings.depth
    return Allowance(memory, times * (SECONDS + seconds * (1 + len(job.changes))))
