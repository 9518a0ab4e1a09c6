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
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import DdimxError, UsageError
from ..files import write_json
from ..launch import parse_shard
from ..untrusted.names import inside
from ..untrusted.text import read_object, shortened, shown
from .lock import held, is_held, lock_name
from .record import Record

SHARDS = "shards"
SCHEMA = 1
WAIT = 10.0  # seconds for which a shard waits for another one that is making the folder
PATIENCE = 0.2  # seconds: whoever looks whether a shard is alive holds its lock for a moment
_NAME = re.compile(r"\.?([0-9]{5,9})-of-([0-9]{5,9})\.(json|claim|lock)")
GATHERING = ".gather.lock"
LISTED = 8  # shards or ranges in a message


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
        if not (folder / SHARDS).is_dir():
            return cls(folder, frozenset(), frozenset(), frozenset())
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


def blocks_of(indices: Sequence[int]) -> list[range]:
    """Return ascending numbers as blocks without gaps."""
    blocks: list[range] = []
    for index in indices:
        if blocks and index == blocks[-1].stop:
            blocks[-1] = range(blocks[-1].start, index + 1)
        else:
            blocks.append(range(index, index + 1))
    return blocks


def indices_of(blocks: Sequence[range]) -> Sequence[int]:
    """Return the numbers of blocks; of a single one no list is made."""
    return blocks[0] if len(blocks) == 1 else [i for block in blocks for i in block]


def come_first(
    stack: ExitStack,
    alone: Callable[[], AbstractContextManager[None]],
    is_begun: Callable[[], bool],
) -> bool:
    """Return whether this process is to begin what all shards share; its lock is then the stack's.

    Args:
        stack: ends when that is begun.
        alone: returns the lock under which one process works in the folder.
        is_begun: whether somebody has.

    Raises:
        UsageError: another process holds the lock for longer than a shard takes to begin.
    """
    deadline = time.monotonic() + WAIT
    while not is_begun():
        try:
            stack.enter_context(alone())
        except UsageError:
            # Another shard is at it for some milliseconds, or one process fills the folder.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        return not is_begun()  # somebody may have, between our look and our lock
    return False


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
    others = overlapping(shard, seen.locks - {shard}, indices, unit)
    for other in others:
        if is_held(_path(folder, other, "lock")):
            raise UsageError(
                f"{folder}: shard {shard} overlaps with {other}, which is being made by "
                f"{who(folder, other)}; wait for its end, or take a shard of {other.of}"
            )
    return Listing.of(folder) if others else seen  # they may have ended since we looked


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
    named = ", ".join(str(s) for s in due[:LISTED])
    more = f" and {len(due) - LISTED} more" if len(due) > LISTED else ""
    again = f"to be started again: --shard {named}{more}; or " if due else ""
    if due or not living:
        lines.append(f"  {again}one process makes all that is missing: {alone}")
    return "\n".join(lines)


def tidy_shards(folder: Path, key: str = "") -> None:
    """Remove what gathered shards no longer need: claims, and locks that killed ones have left.

    Args:
        folder: of the run.
        key: of the folder's own lock (:func:`ddimx.runs.lock.lock_name`).
    """
    seen = Listing.of(folder)
    for shard in seen.claims:
        _path(folder, shard, "claim").unlink(missing_ok=True)
    left = [_path(folder, shard, "lock") for shard in seen.locks]
    for lock in (*left, folder / lock_name(key), folder / SHARDS / GATHERING):
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
    if not is_held(folder / SHARDS / GATHERING):
        (folder / SHARDS / GATHERING).unlink(missing_ok=True)
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
