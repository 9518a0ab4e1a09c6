"""Octree token streams to the keys, centers and extents of their leaves, many trees at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import Impl, preferred, recorded
from .check import check
from .op import octree_decode_op, options, run
from .reference import bits_set
from .types import Decoded

__all__ = ["Decoded", "count_leaves", "octree_decode", "preference"]


def octree_decode(
    tokens: Tensor,
    offsets: Tensor,
    depth: int,
    *,
    leaves: int | None = None,
    lower: Tensor | None = None,
    edge: Tensor | None = None,
    impl: Impl = "auto",
) -> Decoded:
    """Decode the leaves of one tree or thousands, all of one depth.

    On an accelerator nothing waits for the device if ``leaves`` is given, so that the call can be
    captured in a graph; whether the streams were octrees is then in ``valid``, which the caller
    looks at when it waits anyway.

    Args:
        tokens: uint8 [L], at most 2^28 - 1: unpadded breadth-first streams, one after the other.
            A cell's token says which children it has (bit ``(x << 2) | (y << 1) | z``), a leaf's
            is 1.
        offsets: int64 [B + 1], where each tree's stream begins, and L.
        depth: the level of all leaves, 1..20.
        leaves: their number in all (:func:`count_leaves`); None counts them, and waits.
        lower, edge: float32 [B, 3] and [B], the trees' cubes; by default [-0.5, 0.5]^3.
        impl: "auto", "triton", "numpy" (what "auto" takes on a CPU) or "reference". The last two
            give the same bits.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; on the CPU also a stream that is no
            octree of this depth, or another number of leaves.
        RuntimeError: the requested implementation cannot run.
    """
    if leaves is None:
        leaves = count_leaves(tokens, offsets)
    check(tokens, offsets, depth, leaves, lower, edge)
    inputs = [tensor for tensor in (tokens, offsets, lower, edge) if tensor is not None]
    decode = octree_decode_op if recorded(*inputs) else run
    return Decoded(*decode(tokens, offsets, lower, edge, depth, leaves, impl))


def count_leaves(tokens: Tensor, offsets: Tensor) -> int:
    """Return how many leaves the streams have in all; this waits for an accelerator.

    ``tokens``: uint8 [L]; ``offsets``: int64 [B + 1].
    The masks of a tree of n tokens name n - 1 children, and each leaf's token has one bit more.
    Of broken streams the number is kept within 0..L, and the decoding reports them.
    """
    children = int(bits_set(tokens).sum()) if len(tokens) else 0
    return min(max(children - len(tokens) + len(offsets) - 1, 0), len(tokens))


def preference(device: torch.device) -> tuple[Impl, str]:
    """Return what ``impl="auto"`` runs on a device, and why."""
    return preferred(options(device))
