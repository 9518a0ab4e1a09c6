"""A packed set that several processes make: each decodes its images into pieces, one joins them.

What is decoded lies in ``<name>.unfinished/shards/`` until the last shard, or ``--gather``, joins
it in the images' order. It does so as one process packs what it decodes, chunk by chunk, and ends
with the same bytes. Pieces that were joined are removed meanwhile, so that the disk holds the
pixels once.
"""

from __future__ import annotations

from importlib.metadata import version

from ...errors import DdimxError
from ...progress import Progress
from ...runs.lock import lock_folder
from ...runs.part import Failures, Made, Part, Partial
from ...runs.record import Record
from ...runs.run import reporting
from ...runs.shards import ALL, Shard, remainder
from ...runs.shared import SharedWork
from .pack import PackedSet, Packing
from .pack_pieces import Pieces


class ShardPacking(Packing):
    """One data set on its way into one file by several processes."""

    def run_shard(
        self, shard: Shard, progress: Progress, *, gather: bool = False
    ) -> PackedSet | Partial:
        """Decode a shard's images; where all are there then, make the set.

        Args:
            shard: this process's.
            progress: is told how far it is.
            gather: decode nothing.

        Raises:
            UsageError: the set, or its unfinished folder, exists and is of something else; the
                shard is being made.
            DdimxError: nothing could be decoded, or nothing can be written; with ``gather``, images
                are missing.
        """
        if not self._total:
            raise DdimxError("there are no images to pack")
        pieces = Pieces(self._folder, self._image_bytes)
        work = SharedWork(self._folder, "images", self._total, self._origin | _versions())
        start = 0

        def make(part: Part) -> Made:
            there = [range(self._state().done), *(piece.positions for piece in pieces.listed())]
            blocks = [block for gap in part.gaps for block in remainder(gap, there)]
            count, own = sum(map(len, blocks)), sum(map(len, part.gaps))
            self._check_space(count)
            title = "packing" if part.shard == ALL else f"packing, shard {part.shard}"
            progress.start(title, own, own - count)
            failed: Failures = {}
            for block in blocks:
                for first in range(block.start, block.stop, self._chunk):
                    positions = range(first, min(first + self._chunk, block.stop))
                    decoded = self._decoded(positions)
                    pieces.write(positions, decoded)
                    failed |= {p: (self._place(p), reason) for p, reason in decoded.bad}
                    progress.advance(len(positions), f"{len(failed)} bad" if failed else "")
            progress.stop()
            nonlocal start
            start = self._total - count
            return Made(part.pending, failed)

        def conclude(records: dict[Shard, Record], _: Failures) -> PackedSet:
            if self._path.exists():
                return self._existing()
            state = self._state()
            there = [range(state.done), *(piece.positions for piece in pieces.listed())]
            if gaps := remainder(range(self._total), there):
                lost = [position for gap in gaps for position in gap]
                raise work.lost(records, lost, "are not there")
            self._sweep()
            self._check_space(min(self._chunk, self._total - state.done))
            self._cut(state)
            self._fill(state, pieces.read, progress)
            return self._finish(state, start)

        if not self._path.exists():
            self._check_beside(overwrite=False)
            self._check_folder()
            with reporting(self._path):
                work.begin(lambda: lock_folder(self._folder), self._prepared, gather=gather)
                try:
                    if not self._path.exists():
                        result = work.run(shard, make, conclude, gather=gather)
                        assert result is not None  # nothing stops it
                        return result
                except FileNotFoundError:
                    if not self._path.exists():  # else another shard has just ended it all
                        raise
        return self._existing()

    def _place(self, position: int) -> str:
        """Return where an image is kept."""
        cut = len(self._parts[0])
        return (
            self._parts[0].place(position)
            if position < cut
            else self._parts[1].place(position - cut)
        )

    def _prepared(self) -> None:
        """Look, before the first shard begins, at what one process alone may have left."""
        self._sweep()
        self._state()


def _versions() -> dict[str, str]:
    """Return what all shards must have alike, lest they decode otherwise."""
    return {name: version(name) for name in ("numpy", "pillow")}
