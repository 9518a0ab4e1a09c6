"""Octree streams to leaves on the host, level by level in NumPy: several times the reference.

The reference's prefix sums pay on a device, where every level would be a launch and a wait. A CPU
has neither, and here every cell is touched once, in pieces that stay in its cache.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..morton import POPCOUNT, Keys, Masks, axes_of, children, parts
from .reference import LEAF
from .types import Decoded


def decode(
    tokens: Tensor,
    offsets: Tensor,
    depth: int,
    leaves: int,
    lower: Tensor | None = None,
    edge: Tensor | None = None,
) -> Decoded | None:
    """Decode as :func:`.reference.decode`, to the last bit; None if a stream is not an octree.

    The reference then says what is wrong. The arguments are on the CPU, and ``offsets`` ascend.
    """
    stream, ends = tokens.numpy(), offsets[1:].numpy()
    starts = offsets[:-1].numpy().copy()  # of the level at hand in every tree
    counts = np.ones_like(starts)
    keys: Keys = np.zeros(len(starts), dtype=np.int64)
    for _ in range(depth):
        masks = _level(stream, starts, counts, ends)
        if masks is None or not masks.all():
            return None
        keys = children(keys, masks)
        starts += counts
        # Every tree has a cell on every level, as no mask is 0.
        counts = np.add.reduceat(POPCOUNT[masks], counts.cumsum() - counts)
    last = _level(stream, starts, counts, ends)
    is_whole = last is not None and bool((last == LEAF).all())
    if not is_whole or (starts + counts != ends).any() or len(keys) != leaves:
        return None

    tree = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    size, half = np.float32(0.5**depth), np.float32(0.5 ** (depth + 1))
    low = None if lower is None else lower.detach().numpy()
    edges = None if edge is None else edge.detach().numpy()
    centers = np.empty((len(keys), 3), dtype=np.float32)
    for part in parts(len(keys)):
        for axis, coordinate in enumerate(axes_of(keys[part])):
            unit = (coordinate.astype(np.float32) + np.float32(0.5)) * size
            if low is None or edges is None:
                centers[part, axis] = unit - np.float32(0.5)
            else:
                centers[part, axis] = low[tree[part], axis] + edges[tree[part]] * unit
    halves = np.full(len(counts), half) if edges is None else half * edges
    return Decoded(
        torch.from_numpy(keys),
        torch.from_numpy(tree),
        torch.from_numpy(centers),
        torch.from_numpy(halves),
        torch.ones(len(counts), dtype=torch.bool),
    )


def _level(stream: Masks, starts: Keys, counts: Keys, ends: Keys) -> Masks | None:
    """Return the tokens of one level of all trees, uint8 [N], or None if a stream ends before."""
    if (starts + counts > ends).any():
        return None
    if len(starts) == 1:
        level: Masks = stream[starts[0] : starts[0] + counts[0]]
    else:
        first = np.repeat(starts - (counts.cumsum() - counts), counts)
        level = stream[first + np.arange(len(first))]
    return level
