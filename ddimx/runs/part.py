"""A shard of work on items: what it has to make, what it has made, how far the others are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .record import Record
from .shards import Shard, indices_of

Failures = dict[int, tuple[str, str]]  # by item: what it is made from, and why it is not there


@dataclass(frozen=True)
class Part:
    """A shard that this process alone makes now.

    Attributes:
        shard: which one.
        owned: its items.
        gaps: those of them that no finished shard has made.
        others: the shards, finished or begun, that own some of its items; itself among them.
        before: the shard's own record, of an earlier process.
    """

    shard: Shard
    owned: range
    gaps: list[range]
    others: list[Shard]
    before: Record | None

    @property
    def pending(self) -> Sequence[int]:
        """The items that no finished shard has made."""
        return indices_of(self.gaps)


@dataclass(frozen=True)
class Made:
    """What a process has made of its shard.

    Attributes:
        items: those that are there now.
        failed: those of which nothing could be made.
        totals: numbers about the items that were made.
    """

    items: Sequence[int]
    failed: Failures = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Partial:
    """What a shard has come to where others are not finished.

    Attributes:
        folder: of the work.
        items: what it is made of: "shapes".
        shard: which one this was.
        made: what this process has made, None where nothing was left to do.
        done: how many of all ``count`` items finished shards account for.
    """

    folder: Path
    items: str
    shard: Shard
    made: Made | None
    done: int
    count: int

    @property
    def text(self) -> str:
        """What the person at the terminal reads."""
        if self.done == self.count:
            return f"{self.folder}: all {self.items} are there; another process is gathering them"
        mine = (
            f"nothing is left to do for shard {self.shard}"
            if self.made is None
            else f"shard {self.shard} has made {len(self.made.items):,} {self.items}"
        )
        return (
            f"{self.folder}: {mine}; {self.done:,} of {self.count:,} {self.items} are there. The "
            "last shard ends it; the same command with --gather says what is missing"
        )

    def as_json(self) -> Record:
        """What ``--json`` prints."""
        made = self.made or Made(())
        return {
            "status": "partial",
            "shard": str(self.shard),
            "made": len(made.items),
            "done": self.done,
            "count": self.count,
            "failed": [{"source": s, "reason": r} for _, (s, r) in sorted(made.failed.items())],
        }
