"""Items that several processes make in shards, by verbs that fill no run folder with samples.

``ddimx export`` and ``ddimx prepare`` go through it. The contract is that of :mod:`.shards`: blocks
of the items in their order, claims, locks, and records of finished shards. What all shards have in
common is said once, in ``shards/manifest.json``. An item that could not be made is told by the
record of its shard, which is finished all the same; the same shard once more tries it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from ..errors import DdimxError, UsageError
from ..files import sweep
from ..untrusted.names import inside
from .lock import held, is_held
from .part import Failures, Made, Part, Partial
from .record import NAME, Record, create_record, differences, read_record, write_record
from .shards import (
    GATHERING,
    LISTED,
    SHARDS,
    Listing,
    Shard,
    blocks_of,
    claim_shard,
    come_first,
    lock_shard,
    missing,
    overlapping,
    read_shard,
    remainder,
    remove_shards,
    tidy_shards,
    who,
    write_shard,
)

SCHEMA = 1
COMPLETE = "complete"
Result = TypeVar("Result")


@dataclass(frozen=True)
class SharedWork:
    """What all shards make together.

    Attributes:
        folder: in which ``shards`` is.
        items: what is made, for messages: "shapes".
        count: how many items.
        identity: all that determines what they become; values of JSON.
        key: of the lock under which one process alone works there.
    """

    folder: Path
    items: str
    count: int
    identity: Record
    key: str = ""

    def begin(
        self,
        alone: Callable[[], AbstractContextManager[None]],
        prepare: Callable[[], object],
        *,
        gather: bool = False,
    ) -> None:
        """Make what all shards share, unless it is there, and check that it is the same work.

        Args:
            alone: returns the lock under which one process works in the folder.
            prepare: does under this lock, once, what has to be done before the first item.
            gather: make nothing.

        Raises:
            UsageError: one process alone is at work there, or shards of another work were begun;
                with ``gather``, none was begun.
            DdimxError: this file system creates no file exclusively.
        """
        shards = self.folder / SHARDS
        inside(self.folder, SHARDS, self.folder)  # no link to another place
        identity = json.loads(json.dumps(self.identity | {self.items: self.count}))
        identity["ddimx"] = __version__
        if gather and not begun_in_shards(self.folder):
            raise UsageError(f"{self.folder}: no shard was begun here; omit --gather")
        with ExitStack() as stack:
            if come_first(stack, alone, lambda: begun_in_shards(self.folder)):
                prepare()
                shards.mkdir(parents=True, exist_ok=True)
                create_record(shards, {"schema": SCHEMA, "identity": identity})
        if changes := differences(self._record()["identity"], identity):
            raise UsageError(
                f"{self.folder}: its shards were begun with something else ({changes}); all of "
                "them take the same sources, options and version; choose another name, or remove "
                f"{shards} to begin again"
            )

    def run(
        self,
        shard: Shard,
        make: Callable[[Part], Made | None],
        conclude: Callable[[dict[Shard, Record], Failures], Result],
        *,
        gather: bool = False,
    ) -> Result | Partial | None:
        """Make what is missing of a shard; where all is there then, gather it.

        Args:
            shard: this process's.
            make: makes the pending items; returns None if it was stopped.
            conclude: brings what all shards have made into its final form. It gets their records
                and what has failed, and may run again.
            gather: make nothing; gather what is there.

        Returns:
            What ``conclude`` returns; None if ``make`` was stopped.

        Raises:
            UsageError: the shard, or one that overlaps with it, is being made.
            DdimxError: with ``gather``, items are missing; the message says which.
        """
        made = None
        if not gather:
            with self._claimed(shard) as part:
                if part.gaps or (not len(part.owned) and part.before is None):
                    made = make(part)
                    if made is None:
                        return None
                    self._finish(part, made)
        seen = Listing.of(self.folder)
        indices = range(self.count)
        gaps = remainder(indices, (finished.owns(indices) for finished in seen.records))
        if gaps and gather:
            raise DdimxError(self._missing(seen, gaps))
        if not gaps:
            with self._gathering() as ours:
                if ours:
                    result = conclude(*self._accounts(seen))
                    if begun_in_shards(self.folder):  # else it was there for the time being
                        write_record(self.folder / SHARDS, self._record() | {"status": COMPLETE})
                        tidy_shards(self.folder, self.key)
                    return result
        done = self.count - sum(map(len, gaps))
        return Partial(self.folder, self.items, shard, made, done, self.count)

    def lost(self, records: Mapping[Shard, Record], items: Sequence[int], why: str) -> DdimxError:
        """Return the error that says of which shards items are not as they were made."""
        blocks = blocks_of(sorted(items))
        at_fault = [
            shard
            for shard, record in records.items()
            if any(remainder(block, record["made"]) != [block] for block in blocks)
        ]
        files = ", ".join(f"{SHARDS}/{shard.name}.json" for shard in at_fault[:LISTED])
        return DdimxError(
            f"{self.folder}: {len(items):,} {self.items} that were made {why}, the first is number "
            f"{min(items)}; remove {files or SHARDS}, and start these shards again"
        )

    def _record(self) -> Record:
        record = read_record(self.folder / SHARDS, "work in shards", SCHEMA)
        if record is None:
            raise UsageError(
                f"{self.folder}: another process has removed {SHARDS}/{NAME} meanwhile; give the "
                "same command again"
            )
        return record

    @contextmanager
    def _claimed(self, shard: Shard) -> Iterator[Part]:
        """Yield a shard as its only process."""
        folder, indices = self.folder, range(self.count)
        with ExitStack() as stack:
            seen = lock_shard(stack, folder, shard, indices)
            self._record()  # which one process alone may have removed before we had the lock
            sweep(folder / SHARDS)
            records = {
                other: read_shard(folder, other, indices)
                for other in overlapping(shard, seen.records, indices)
            }
            owned = shard.owns(indices)
            gaps = remainder(owned, (b for record in records.values() for b in record["made"]))
            others = overlapping(shard, seen.records | seen.claims, indices)
            if gaps or shard not in seen.records:
                claim_shard(folder, shard)
            yield Part(shard, owned, gaps, others, records.get(shard))

    @contextmanager
    def _gathering(self) -> Iterator[bool]:
        """Yield whether this process is the only one that gathers."""
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self.folder / SHARDS / GATHERING, self.folder))
            except UsageError:
                yield False
                return
            yield True

    def _finish(self, part: Part, made: Made) -> None:
        """Record that a shard is finished, after its files."""
        before = part.before or {}
        blocks = [*before.get("made", ()), *blocks_of(sorted(made.items))]
        totals = {name: n + _number(before, name) for name, n in made.totals.items()}
        failed = [[index, *said] for index, said in sorted(made.failed.items())]
        write_shard(self.folder, part.shard, blocks, {**totals, "failed": failed})

    def _accounts(self, seen: Listing) -> tuple[dict[Shard, Record], Failures]:
        """Return the records of all shards, and what none of them could make.

        Raises:
            DdimxError: a record that cannot be read, or one was removed on which another relies.
        """
        indices = range(self.count)
        records = {s: read_shard(self.folder, s, indices) for s in sorted(seen.records)}
        gaps = remainder(indices, (b for record in records.values() for b in record["made"]))
        not_made = {i for gap in gaps for i in gap}
        failed: Failures = {}
        for shard, record in records.items():
            try:
                for index, source, reason in record["failed"]:
                    if index in not_made:
                        failed[index] = (str(source), str(reason))
            except (KeyError, TypeError, ValueError) as error:
                raise DdimxError(
                    f"{self.folder / SHARDS / shard.name}.json: not the record of a shard of this "
                    f"work ({error}); remove it, and start shard {shard} again"
                ) from None
        if lost := sorted(not_made - set(failed)):
            raise DdimxError(self._missing(seen, blocks_of(lost)))
        return records, failed

    def _missing(self, seen: Listing, gaps: Sequence[range]) -> str:
        alone = "the same command without --shard and --gather"
        return missing(seen, gaps, range(self.count), what=self.items, alone=alone)


def begun_in_shards(folder: Path) -> bool:
    """Return whether work in shards was begun in a folder."""
    return (folder / SHARDS / NAME).is_file()


def goes_on_in_shards(folder: Path) -> bool:
    """Return whether work in shards was begun in a folder and is not gathered yet."""
    if not begun_in_shards(folder):
        return False
    record = read_record(folder / SHARDS, "work in shards", SCHEMA)
    return record is not None and record.get("status") != COMPLETE


def check_idle(folder: Path) -> None:
    """Refuse to touch what shards have made while one is being made, or all are gathered.

    Raises:
        UsageError: with the shard, and who makes it.
    """
    if is_held(folder / SHARDS / GATHERING):
        raise UsageError(f"another process is gathering the shards of {folder}; wait for its end")
    for shard in Listing.of(folder).living():
        raise UsageError(
            f"{folder}: shard {shard} is being made by {who(folder, shard)}; wait for its end"
        )


def remove_shared(folder: Path, *others: str) -> None:
    """Remove what shards have written about themselves, for one process alone to begin.

    Args:
        folder: in which ``shards`` is.
        others: patterns of further files in it.

    Raises:
        UsageError: a shard is being made, or what they made is being gathered.
    """
    shards = folder / SHARDS
    if not begun_in_shards(folder):
        return
    inside(folder, SHARDS, folder)
    check_idle(folder)
    remove_shards(folder)
    sweep(shards)
    for path in [path for pattern in others for path in shards.glob(pattern)]:
        path.unlink(missing_ok=True)
    (shards / NAME).unlink(missing_ok=True)  # last: until then the rest is known to be ours
    with suppress(OSError):  # something else is in it
        shards.rmdir()


def _number(record: Record, name: str) -> float:
    value: Any = record.get(name, 0)
    return value if isinstance(value, (int, float)) else 0
