"""Decoding and encoding as others do it: eager PyTorch by level, and ocnn.

Queues over cells, as the seed project has them, are in :mod:`benchmarks.seed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddimx.octree.tree import Octree


def torch_decode(tokens: Tensor, depth: int) -> Tensor:
    """Decode one stream level by level in PyTorch; each level's size is read by the host."""
    octants = torch.arange(8, device=tokens.device)
    keys = torch.zeros(1, dtype=torch.int64, device=tokens.device)
    start = 0
    for _ in range(depth):
        masks = tokens[start : start + len(keys)]
        start += len(keys)
        parent, child = (masks[:, None] >> octants & 1).nonzero(as_tuple=True)
        keys = keys[parent] << 3 | child
    bits = keys[:, None] >> 3 * torch.arange(depth, device=tokens.device) & 7  # [M, depth]
    weights = 1 << torch.arange(depth, device=tokens.device)
    axes = [((bits >> 2 - axis & 1) * weights).sum(dim=1) for axis in range(3)]
    centers: Tensor = (torch.stack(axes, dim=1).float() + 0.5) * 0.5**depth - 0.5
    return centers


def torch_encode(cells: Tensor, depth: int) -> Tensor:
    """Encode one shape's cells, int64 [N, 3], level by level in PyTorch."""
    levels = torch.arange(depth, device=cells.device)
    octants = sum((cells[:, None, axis] >> levels & 1) << 2 - axis for axis in range(3))
    keys = torch.unique((octants << 3 * levels).sum(dim=1))
    parts = [torch.ones(len(keys), dtype=torch.uint8, device=cells.device)]
    for _ in range(depth):
        parents, place = torch.unique_consecutive(keys >> 3, return_inverse=True)
        masks = torch.zeros(len(parents), dtype=torch.int64, device=cells.device)
        # The children of one parent have different bits, so that their sum is their union.
        masks.index_add_(0, place, 1 << (keys & 7))
        parts.insert(0, masks.to(torch.uint8))
        keys = parents
    return torch.cat(parts)


class Ocnn:
    """The same by ocnn (octree-nn/ocnn-pytorch), whose keys have the same order as ours.

    Its levels hold all eight children of a split cell; empty ones are dropped at the end.
    """

    def __init__(self, device: torch.device) -> None:
        """Import ocnn.

        Raises:
            ImportError: it is not installed, or a package that it needs is not.
        """
        from ocnn import octree  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self.octree: Any = octree
        self.device = device

    def decode(self, masks: Sequence[Tensor]) -> Tensor:
        """Grow an octree by its masks, uint8 of levels 0..depth-1, and return the centers."""
        depth = len(masks)
        tree = self.octree.Octree(depth, full_depth=0, device=self.device)
        tree.octree_grow_full(0, update_neigh=False)
        octants = torch.arange(8, device=self.device)
        for level, mask in enumerate(masks, start=1):
            tree.octree_grow(level, update_neigh=False)
            tree.octree_split((mask[:, None] >> octants & 1).flatten().int(), level)
        x, y, z, _ = tree.xyzb(depth, nempty=True)
        centers: Tensor = (torch.stack([x, y, z], dim=1).float() + 0.5) * 0.5**depth - 0.5
        return centers

    def encode(self, cells: Tensor, depth: int) -> Tensor:
        """Build an octree from the cells' centers and return its token stream."""
        points = self.octree.Points((cells.float() + 0.5) * 0.5 ** (depth - 1) - 1)
        tree = self.octree.Octree(depth, full_depth=0, device=self.device)
        tree.build_octree(points)
        bits = 1 << torch.arange(8, device=self.device)
        parts = [
            (tree.nempty_mask(level).view(-1, 8) * bits).sum(dim=1).to(torch.uint8)
            for level in range(1, depth + 1)
        ]
        leaves = int(tree.nnum_nempty[depth])
        return torch.cat([*parts, torch.ones(leaves, dtype=torch.uint8, device=self.device)])


def masks_of(tree: Octree, device: torch.device) -> list[Tensor]:
    """Return a tree's levels of masks on a device."""
    return [torch.from_numpy(masks).to(device) for masks in tree.masks]
