"""Octree streams to leaves in plain PyTorch: the ground truth for every faster implementation.

In a tree's breadth-first stream the children of all cells stand in the order of the cells, behind
the root. So with the number of children of every earlier cell summed up, the first child of a cell
stands at 1 + that sum, and no level has to be known before the next. A leaf's token is 1, one
child by its bits; as the masks of a tree of n tokens name n - 1 children, a tree has as many leaves
as its tokens' bits exceed n - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .types import Decoded

LEAF = 1


def decode(
    tokens: Tensor,
    offsets: Tensor,
    depth: int,
    leaves: int,
    lower: Tensor | None = None,
    edge: Tensor | None = None,
) -> Decoded:
    """Decode checked arguments, as :func:`ddimx.kernels.octree_decode.octree_decode`.

    ``tokens``: uint8 [L]; ``offsets``: int64 [B + 1]; ``lower`` float32 [B, 3] and ``edge``
    float32 [B], or neither.

    It never waits for the device, and reads no place outside its arguments whatever they hold.
    """
    trees, length = len(offsets) - 1, len(tokens)
    if not trees or not length:
        return _no_leaves(tokens, trees, leaves)
    lengths = offsets.diff()
    tree = torch.searchsorted(offsets[1:], torch.arange(length, device=tokens.device), right=True)
    tree = tree.clamp(max=trees - 1)
    children = bits_set(tokens)
    ends = children.cumsum(0)  # int64 [L], inclusive
    sums = torch.cat([ends.new_zeros(1), ends])[offsets]  # [B + 1], children before each tree
    count = sums.diff() - lengths + 1  # [B], leaves
    until = torch.cat([count.new_zeros(1), count.cumsum(0)])  # [B + 1], leaves before each tree
    # Where the first child of each cell stands, [L].
    first = (offsets[:-1] - sums[:-1] + 1).index_select(0, tree) + ends - children
    up = _parents(tokens, first, offsets, tree, count)

    leaf = torch.arange(leaves, device=tokens.device)
    owner = torch.searchsorted(until[1:], leaf, right=True).clamp(max=trees - 1)
    root = offsets[:-1].clamp(0, length - 1).index_select(0, owner)
    place = (offsets - until)[1:].index_select(0, owner) + leaf
    place = place.clamp(0, length - 1)
    wrong = tokens.index_select(0, place) != LEAF
    keys = torch.zeros_like(place)
    for level in range(depth):  # from the leaves up to the root
        wrong |= place == root
        step = up.index_select(0, place)
        keys |= (step & 7) << 3 * level
        place = step >> 3
    wrong |= place != root

    # The flag behind the last is not read: it takes the writes of what is right.
    right = torch.ones(trees + 1, dtype=torch.bool, device=tokens.device)
    right.scatter_(0, torch.where(tokens == 0, tree, trees), False)
    right.scatter_(0, torch.where(wrong, owner, trees), False)
    valid = right[:-1] & (count > 0) & (count < lengths) & (until[-1] == leaves)
    return Decoded(keys, owner.int(), *_cells(keys, owner, depth, trees, lower, edge), valid)


def bits_set(tokens: Tensor) -> Tensor:
    """Return the number of bits set in each token, uint8 [L] -> uint8 [L]."""
    v = tokens - (tokens >> 1 & 0x55)
    v = (v & 0x33) + (v >> 2 & 0x33)
    return v + (v >> 4) & 0x0F


def _parents(tokens: Tensor, first: Tensor, offsets: Tensor, tree: Tensor, count: Tensor) -> Tensor:
    """Return 8 times the position of each cell's parent, plus its octant there, int64 [L].

    ``first``: int64 [L], the position of each cell's first child; ``tree``: int64 [L], each cell's
    tree; ``count``: int64 [B], leaves.
    """
    length = len(tokens)
    place = torch.arange(length, device=tokens.device)
    inner = place < (offsets[1:] - count).index_select(0, tree)
    # A mark where each inner cell's children begin: the marks up to a cell count the inner cells up
    # to its parent, and a tree's inner cells stand together at its beginning.
    marks = torch.zeros(length + 1, dtype=torch.uint8, device=tokens.device)
    marks.scatter_(0, torch.where(inner, first, length).clamp(0, length), 1)
    leaves_before = count.cumsum(0) - count
    parent = marks[:-1].cumsum(0) + (leaves_before - 1).index_select(0, tree)
    parent = parent.clamp(0, length - 1)
    rank = (place - first.index_select(0, parent)).clamp(0, 7)
    masks = tokens.index_select(0, parent)
    octants = _children(tokens.device).flatten().index_select(0, masks.long() * 8 + rank)
    return parent << 3 | octants


def _children(device: torch.device) -> Tensor:
    """Return the octants of every mask's children in ascending order, int64 [256, 8], 0 after."""
    masks = torch.arange(256, device=device)[:, None]
    octants = torch.arange(8, device=device).expand(256, 8)
    occupied = (masks >> octants & 1).bool()
    return torch.where(occupied, octants, 8).sort(dim=1).values % 8


def _cells(
    keys: Tensor,
    owner: Tensor,
    depth: int,
    trees: int,
    lower: Tensor | None,
    edge: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the leaves' centers, float32 [M, 3], and each tree's half-extent, float32 [B]."""
    centers = torch.empty(len(keys), 3, device=keys.device)
    for axis in range(3):
        unit = (_third_bits(keys >> 2 - axis, depth).float() + 0.5) * 0.5**depth
        if lower is None or edge is None:
            centers[:, axis] = unit - 0.5
        else:
            centers[:, axis] = lower[owner, axis] + edge[owner] * unit
    half = torch.full((trees,), 0.5 ** (depth + 1), device=keys.device)
    return centers, half if edge is None else half * edge


# Which bits of every third remain together after moves by 2, 4, 8, 16 and 32.
TOGETHER = (0x10C30C30C30C30C3, 0x100F00F00F00F00F, 0x1F0000FF0000FF, 0x1F00000000FFFF, 0x1FFFFF)


def _third_bits(keys: Tensor, depth: int) -> Tensor:
    """Return bits 0, 3, 6, ... of the keys, int64 [M], as bits 0, 1, 2, ..."""
    v = keys & 0x1249249249249249
    for i in range((depth - 1).bit_length()):
        v = (v ^ v >> (2 << i)) & TOGETHER[i]
    return v


def _no_leaves(tokens: Tensor, trees: int, leaves: int) -> Decoded:
    """Return the result where there are no tokens: zeros, and no stream is valid."""
    device = tokens.device
    keys = torch.zeros(leaves, dtype=torch.int64, device=device)
    owner = torch.zeros(leaves, dtype=torch.int32, device=device)
    centers, half = torch.zeros(leaves, 3, device=device), torch.zeros(trees, device=device)
    return Decoded(keys, owner, centers, half, torch.zeros(trees, dtype=torch.bool, device=device))
