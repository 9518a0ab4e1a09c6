"""Ragged batches of octree tokens: no padding, every token bound to its cell.

A batch of B shapes is flat, sorted by (shape, level, Morton key). How many tokens each shape has on
each level is known on the host, for it decides which tokens see which.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...kernels.discrete_update import IDS, MASK

__all__ = ["IDS", "MASK", "Cache", "Condition", "Counts", "Layout", "Tokens"]

Counts = npt.NDArray[np.int64]
Made = TypeVar("Made")

AXIS = torch.tensor([-1, 0, 1])
NEIGHBORHOOD = torch.cartesian_prod(AXIS, AXIS, AXIS)  # [27, 3], the cell itself in the middle


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a batch are.

    Attributes:
        keys: int64 [N], Morton keys at the tokens' own levels.
        level, shape: int64 [N], each token's level, and its shape's place in the batch.
        counts: int64 [B, L] on the host, tokens of every shape on levels first..first + L - 1.
        first: the coarsest level that is here.
    """

    keys: Tensor
    level: Tensor
    shape: Tensor
    counts: Counts
    first: int = 0

    @classmethod
    def of(cls, keys: Tensor, counts: Counts, first: int = 0) -> Layout:
        """Build a layout from sorted keys and the counts that say whose they are."""
        shapes, levels = counts.shape
        repeats = torch.from_numpy(counts.reshape(-1)).to(keys.device, non_blocking=True)
        row = torch.arange(shapes * levels, device=keys.device).repeat_interleave(
            repeats, output_size=len(keys)
        )
        return cls(keys, row % levels + first, row // levels, counts, first)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def batch(self) -> int:
        """Number of shapes."""
        return len(self.counts)

    @property
    def levels(self) -> range:
        """The levels that are here."""
        return range(self.first, self.first + self.counts.shape[1])

    @cached_property
    def row(self) -> Tensor:
        """Index of each token's (shape, level) in row-major order, int64 [N]."""
        row: Tensor = self.shape * self.counts.shape[1] + (self.level - self.first)
        return row

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what ``make`` makes of this layout alone; it is called once for each ``key``.

        Every row of a level asks for the same segments, waves and rotary tables.
        """
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    @cached_property
    def cells(self) -> Tensor:
        """Coordinates of each token's cell on its own level's grid, int64 [N, 3]."""
        return torch.stack([_gather(self.keys >> s) for s in (2, 1, 0)], dim=-1)

    @cached_property
    def neighbors(self) -> Tensor:
        """Index of the token at each of 27 neighboring cells, int64 [N, 27]; N where none is."""
        side = (1 << self.level)[:, None, None]
        steps = NEIGHBORHOOD.to(self.keys.device, non_blocking=True)
        around = self.cells[:, None, :] + steps  # [N, 27, 3]
        inside = ((around >= 0) & (around < side)).all(-1)
        x, y, z = (_spread(around[..., axis].clamp_min(0)) for axis in range(3))
        keys = (self.row << 32)[:, None] + ((x << 2) | (y << 1) | z)
        present = (self.row << 32) + self.keys
        place = torch.searchsorted(present, keys).clamp_max(len(self) - 1)
        exists = inside & (present[place] == keys)
        return torch.where(exists, place, len(self))


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids in their cells: uint8 [N] in the order of ``layout``.

    ``t`` is float32 [B, L], the time of every (shape, level), for tokens that are being denoised;
    None for clean ones.
    """

    layout: Layout
    ids: Tensor
    t: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Condition:
    """What a shape is to be.

    Attributes:
        label: int64 [B], the class, the number of classes meaning none; None for a model without.
        transition: int64 [B], 0 where tokens are masked, 1 where they are replaced at random.
    """

    label: Tensor | None
    transition: Tensor


@dataclass(frozen=True, eq=False)
class Cache:
    """Keys and values of clean levels 0..L-1, in every layer: what finer levels attend to.

    Attributes:
        layers: one pair (k, v) for each layer, each [N, H, D], sorted by (shape, level, key).
        counts: int64 [B, L] on the host.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    counts: Counts

    def joined(self, other: Cache) -> Cache:
        """Return the cache with finer levels appended to every shape's."""
        order = torch.from_numpy(_interleaved(self.counts, other.counts))
        order = order.to(other.layers[0][0].device, non_blocking=True)
        layers = [
            (torch.cat([k, more_k])[order], torch.cat([v, more_v])[order])
            for (k, v), (more_k, more_v) in zip(self.layers, other.layers, strict=True)
        ]
        return Cache(tuple(layers), np.concatenate([self.counts, other.counts], axis=1))


def _interleaved(first: Counts, second: Counts) -> Counts:
    """Return the order that puts each shape's second run after its first one."""
    a, b = first.sum(axis=1), second.sum(axis=1)
    starts_a, starts_b = a.cumsum() - a, a.sum() + b.cumsum() - b
    runs: Sequence[Counts] = [
        np.arange(start, start + n)
        for pair in zip(starts_a, a, starts_b, b, strict=True)
        for start, n in (pair[:2], pair[2:])
    ]
    return np.concatenate(runs).astype(np.int64)


def _spread(v: Tensor) -> Tensor:
    """Put bit i of v (10 bits) at bit 3 i; see :mod:`ddimx.octree.keys`."""
    v = (v | v << 16) & 0x30000FF
    v = (v | v << 8) & 0x300F00F
    v = (v | v << 4) & 0x30C30C3
    return (v | v << 2) & 0x9249249


def _gather(v: Tensor) -> Tensor:
    v = v & 0x9249249
    v = (v ^ v >> 2) & 0x30C30C3
    v = (v ^ v >> 4) & 0x300F00F
    v = (v ^ v >> 8) & 0x30000FF
    return (v ^ v >> 16) & 0x3FF
