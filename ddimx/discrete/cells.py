"""A batch of octrees, level by level: ragged lists of cells and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DdimxError
from ..kernels.discrete_update import MASK
from ..octree.geometry import OFFSETS_26, pieces
from ..octree.tree import Octree


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one level of B samples, in one flat list.

    Attributes:
        level: 0 is the root.
        keys: int64 [N], Morton keys, ascending within each sample.
        sample: int64 [N], for each cell the position of its sample in the batch, ascending.
        offsets: int64 [B + 1]; sample b has the cells ``offsets[b]:offsets[b + 1]``.
        sizes: the counts of the B samples, if the host knows them already.
    """

    level: int
    keys: Tensor
    sample: Tensor
    offsets: Tensor
    sizes: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def counts(self) -> Tensor:
        """Number of cells of each sample, int64 [B]."""
        return self.offsets.diff()

    def host_counts(self) -> tuple[int, ...]:
        """Return each sample's number of cells; without ``sizes`` this waits for the device."""
        return tuple(self.counts.tolist()) if self.sizes is None else self.sizes


class Level(NamedTuple):
    """A finished level: its cells, and their tokens uint8 [N] in 1..255."""

    cells: Cells
    ids: Tensor


def root(batch: int, device: torch.device | str | None = None) -> Cells:
    """Return level 0 of ``batch`` samples: one cell with the key 0 each."""
    sample = torch.arange(batch, device=device)
    offsets = torch.arange(batch + 1, device=device)
    return Cells(0, torch.zeros_like(sample), sample, offsets, (1,) * batch)


def children(level: Level) -> Cells:
    """Return the cells that a finished level says are occupied.

    The host waits for the device once, for their numbers.

    Raises:
        DdimxError: a token that is [MASK], because the network's logits had no softmax.
    """
    cells, ids = level
    index = ids.to(torch.int64)
    nth, count = _bits(ids.device)
    counts = count[index]
    per_sample = torch.zeros(len(cells.offsets) - 1, dtype=torch.int64, device=ids.device)
    per_sample.index_add_(0, cells.sample, counts)
    *sizes, broken = torch.cat([per_sample, (ids == MASK).sum()[None]]).tolist()
    _refuse(level, broken)
    total = sum(sizes)
    first = counts.cumsum(0) - counts
    parent = torch.repeat_interleave(
        torch.arange(len(ids), device=ids.device), counts, output_size=total
    )
    rank = torch.arange(total, device=ids.device) - first[parent]
    offsets = torch.cat([per_sample.new_zeros(1), per_sample.cumsum(0)])
    keys = (cells.keys[parent] << 3) | nth[index[parent], rank]
    return Cells(cells.level + 1, keys, cells.sample[parent], offsets, tuple(sizes))


def part(cells: Cells, places: Tensor) -> tuple[Cells, Tensor]:
    """Return the cells of some samples, and which of all cells these are, bool [N].

    Args:
        places: int64 [b], ascending, on the host: the samples' positions in the batch, which
            become 0..b - 1.
    """
    sizes = tuple(cells.host_counts()[place] for place in places.tolist())
    moved = torch.full((len(cells.offsets) - 1,), -1)
    moved[places] = torch.arange(len(places))
    sample = moved.to(cells.sample.device)[cells.sample]
    mask = sample >= 0
    offsets = torch.tensor([0, *sizes], device=sample.device).cumsum(0)
    return Cells(cells.level, cells.keys[mask], sample[mask], offsets, sizes), mask


def piece_counts(cells: Cells) -> list[int]:
    """Return in how many pieces, joined at least by corners, each sample's cells lie.

    The host waits for the device.
    """
    keys, sample = cells.keys.cpu().numpy(), cells.sample.cpu().numpy()
    half = OFFSETS_26[:13]  # the others are their opposites
    labels = pieces(keys, cells.level, half, sample)
    first = labels == np.arange(len(labels))  # of each piece one cell is its label
    counts: list[int] = np.bincount(sample[first], minlength=len(cells.offsets) - 1).tolist()
    return counts


def check_drawn(level: Level) -> None:
    """Raise DdimxError if a token of a finished level is [MASK]; this waits for the device."""
    _refuse(level, int((level.ids == MASK).sum()))


def octrees(levels: Sequence[Level]) -> list[Octree]:
    """Return the batch's trees from all its finished levels, in the order of the batch.

    Raises:
        ValueError: no levels, or not levels 0, 1, ... in this order.
    """
    if not levels or [level.cells.level for level in levels] != list(range(len(levels))):
        raise ValueError("octrees need the levels 0, 1, ... of a batch, in this order")
    masks = [level.ids.cpu().numpy() for level in levels]
    offsets = [level.cells.offsets.tolist() for level in levels]
    return [
        Octree(tuple(m[o[b] : o[b + 1]].copy() for m, o in zip(masks, offsets, strict=True)))
        for b in range(len(offsets[0]) - 1)
    ]


def levels_of(trees: Sequence[Octree], device: torch.device | str | None = None) -> list[Level]:
    """Return trees of one depth as a batch's finished levels; the inverse of :func:`octrees`.

    Raises:
        ValueError: no trees, or several depths.
    """
    if len({tree.depth for tree in trees}) != 1:
        raise ValueError("a batch needs trees of one depth")
    levels = []
    for d in range(trees[0].depth):
        keys = torch.cat([torch.from_numpy(tree.keys[d]) for tree in trees])
        ids = torch.cat([torch.from_numpy(tree.masks[d]) for tree in trees])
        counts = torch.tensor([tree.counts[d] for tree in trees])
        sample = torch.repeat_interleave(torch.arange(len(trees)), counts)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        sizes = tuple(counts.tolist())
        cells = Cells(d, keys.to(device), sample.to(device), offsets.to(device), sizes)
        levels.append(Level(cells, ids.to(device)))
    return levels


def _refuse(level: Level, broken: int) -> None:
    """Raise DdimxError if ``broken``, the number of tokens that are [MASK], is not 0."""
    if broken:
        raise DdimxError(
            f"level {level.cells.level}: the network gave {broken} of {len(level.ids)} tokens no "
            "id; its logits are NaN or infinite there. Try --dtype fp32, or another checkpoint"
        )


@lru_cache(maxsize=8)
def _bits(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return of every mask the position of its n-th set bit, [256, 8], and their number, [256]."""
    bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    # A stable sort of "is not set" puts the set bits first, in their order.
    return (1 - bits).argsort(dim=1, stable=True), bits.sum(dim=1)
