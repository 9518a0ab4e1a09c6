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

    It never waits for the device, and reads no place outside its arguments whatever they hold.
    """
    trees, length = len(offsets) - 1, len(tokens)
    lengths = offsets.diff()
    if not trees or not length:
        return _nothing(tokens, trees, leaves)
    tree = torch.searchsorted(offsets[1:], torch.arange(length, device=tokens.device), right=True)
    children = bits_set(tokens)
    ends = children.cumsum(0)  # [L], inclusive
    sums = torch.cat([ends.new_zeros(1), ends])[offsets]  # [B + 1], children before each tree
    count = sums.diff() - lengths + 1  # [B], leaves
    until = torch.cat([count.new_zeros(1), count.cumsum(0)])  # [B + 1], leaves before each tree
    first = offsets[tree] + 1 + ends - children - sums[tree]  # [L], where the first child stands
    parent, octant = _parents(tokens, first, offsets, tree, count)

    leaf = torch.arange(leaves, device=tokens.device)
    owner = torch.searchsorted(until[1:].contiguous(), leaf, right=True).clamp(max=trees - 1)
    root = offsets[owner].clamp(max=length - 1)
    place = (offsets[owner + 1] - until[owner + 1] + leaf).clamp(0, length - 1)
    wrong = tokens[place] != LEAF
    keys = torch.zeros_like(place)
    for level in range(depth):  # from the leaves up to the root
        wrong |= place == root
        keys |= octant[place] << 3 * level
        place = parent[place]
    wrong |= place != root

    bad = torch.zeros_like(count)
    bad.index_add_(0, tree.clamp(max=trees - 1), (tokens == 0).long())
    bad.index_add_(0, owner, wrong.long())
    valid = (bad == 0) & (count > 0) & (count < lengths) & (until[-1] == leaves)
    return Decoded(keys, owner.int(), *_cells(keys, owner, depth, trees, lower, edge), valid)


def bits_set(tokens: Tensor) -> Tensor:
    """Return the number of bits set in each token, uint8 [L] -> int64 [L]."""
    v = tokens.long()
    v = v - (v >> 1 & 0x55)
    v = (v & 0x33) + (v >> 2 & 0x33)
    return v + (v >> 4) & 0x0F


def _parents(
    tokens: Tensor, first: Tensor, offsets: Tensor, tree: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """Return every cell's parent's place, and which of its children the cell is, int64 [L] each."""
    length = len(tokens)
    tree = tree.clamp(max=len(count) - 1)
    place = torch.arange(length, device=tokens.device)
    inner = place < (offsets[1:] - count)[tree]
    # A mark where each inner cell's children begin: the marks up to a cell count the inner cells up
    # to its parent, and a tree's inner cells stand together at its beginning.
    marks = torch.zeros(length + 1, dtype=torch.int64, device=tokens.device)
    marks.index_add_(0, torch.where(inner, first, length).clamp(0, length), inner.long())
    inner_before = offsets[:-1] - (count.cumsum(0) - count)
    parent = offsets[tree] + marks[:-1].cumsum(0) - 1 - inner_before[tree]
    parent = parent.clamp(0, length - 1)
    rank = (place - first[parent]).clamp(0, 7)
    octants = _children(tokens.device)[tokens[parent].long(), rank]
    return parent, octants


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
    """Return the leaves' centres, float32 [M, 3], and each tree's half-extent, float32 [B]."""
    axes = torch.zeros(len(keys), 3, dtype=torch.int64, device=keys.device)
    for axis in range(3):
        for level in range(depth):
            axes[:, axis] |= (keys >> 3 * level + 2 - axis & 1) << level
    centres = (axes.float() + 0.5) * 0.5**depth
    half = torch.full((trees,), 0.5 ** (depth + 1), device=keys.device)
    if lower is None or edge is None:
        return centres - 0.5, half
    return lower[owner] + edge[owner, None] * centres, half * edge


def _nothing(tokens: Tensor, trees: int, leaves: int) -> Decoded:
    device = tokens.device
    keys = torch.zeros(leaves, dtype=torch.int64, device=device)
    owner = torch.zeros(leaves, dtype=torch.int32, device=device)
    centres, half = torch.zeros(leaves, 3, device=device), torch.zeros(trees, device=device)
    return Decoded(keys, owner, centres, half, torch.zeros(trees, dtype=torch.bool, device=device))
