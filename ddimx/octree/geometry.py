"""Geometry of occupied cells: neighbors, connected parts, overlap, and a cube's symmetries.

Everything works on the sorted keys of a level: a neighbor is found by binary search, and a mirror
image is an XOR.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from ..errors import optional_module
from .errors import OctreeError
from .keys import Keys, cells_of, keys_of
from .tree import Octree, from_leaves

Index = npt.NDArray[np.int64]

# Steps to the cells that share a corner, an edge or a face, in the order of (x, y, z); and to those
# that share a face. The second half of each is the first half's opposites.
OFFSETS_26: Index = np.array(
    [step for step in product((-1, 0, 1), repeat=3) if any(step)], dtype=np.int64
)
OFFSETS_6: Index = OFFSETS_26[np.abs(OFFSETS_26).sum(axis=1) == 1]


def neighbors(
    keys: Keys, depth: int, offsets: Index = OFFSETS_26, owner: Index | None = None
) -> Index:
    """Return the position of each cell's neighbors among the cells.

    Args:
        keys: int64 [N], ascending, of one level.
        depth: that level; the grid has 2^depth cells along each axis and does not wrap round.
        offsets: integers [K, 3], steps in x, y, z.
        owner: int64 [N], ascending, whose cells these are where they are those of several trees of
            at most 10 levels: keys then ascend within each, and only an owner's own are neighbors.

    Returns:
        int64 [N, K], indices into ``keys``, -1 where no occupied cell lies.
    """
    cells = cells_of(keys)
    above = np.zeros(1, dtype=np.int64) if owner is None else owner << (3 * depth)
    present = keys + above
    positions = np.empty((len(keys), len(offsets)), dtype=np.int64)
    for column, offset in enumerate(np.asarray(offsets, dtype=np.int64)):
        targets = cells + offset
        inside = ((targets >= 0) & (targets < 2**depth)).all(axis=1)
        target_keys = keys_of(np.where(inside[:, None], targets, 0))
        positions[:, column] = np.where(inside, indices(present, target_keys + above), -1)
    return positions


def indices(keys: Keys, targets: Keys) -> Index:
    """Return the position of each target, int64 [M], among ascending keys [N]; -1 if absent."""
    if not len(keys):
        return np.full(len(targets), -1, dtype=np.int64)
    position = np.minimum(np.searchsorted(keys, targets), len(keys) - 1)
    return np.where(keys[position] == targets, position, -1)


def components(tree: Octree, connectivity: int = 26) -> tuple[Index, Index]:
    """Return the connected parts of a tree's leaves.

    Args:
        connectivity: 26 joins cells that share at least a corner, 6 those that share a face.

    Returns:
        labels: int64 [n], a leaf's part; part 0 is the largest (of equals, the one met first).
        sizes: int64 [parts], leaves of each part, descending.

    Raises:
        ValueError: another connectivity.
        MissingPackage: SciPy is not installed.
    """
    if connectivity not in (6, 26):
        raise ValueError(f"connectivity is {connectivity}, expected 6 or 26")
    offsets = OFFSETS_26 if connectivity == 26 else OFFSETS_6
    sparse = optional_module("scipy.sparse", "connected parts", "3d")
    csgraph = optional_module("scipy.sparse.csgraph", "connected parts", "3d")
    # One direction of each pair: the other half of the offsets gives the same edges again.
    positions = neighbors(tree.leaves, tree.depth, offsets[: len(offsets) // 2])
    start, column = np.nonzero(positions >= 0)
    # Not a dense grid, which scipy.ndimage would label: here trees may be 20 levels deep.
    count = len(tree.leaves)
    ones = np.ones(len(start), dtype=np.bool_)
    # SciPy 1.11 fails on 64-bit indices: it prints a message and returns a wrong result.
    ends = (start.astype(np.int32), positions[start, column].astype(np.int32))
    edges = sparse.coo_array((ones, ends), shape=(count, count))
    _, part = csgraph.connected_components(edges, directed=False)
    _, first, labels, sizes = np.unique(
        part, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -sizes))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[labels], sizes[order]


def pieces(
    keys: Keys, depth: int, offsets: Index = OFFSETS_26, owner: Index | None = None
) -> Index:
    """Return which cells of a level hang together: int64 [N], the least index in each one's piece.

    It is :func:`components` without SciPy, which sampling does without: labels of neighbors are
    joined at their roots, and roots are looked up until nothing changes.

    Args:
        keys: int64 [N], ascending, of one level.
        depth: that level.
        offsets: integers [K, 3], steps that join; of two opposite ones one may be omitted.
        owner: as of :func:`neighbors`.
    """
    positions = neighbors(keys, depth, offsets, owner)
    start, column = np.nonzero(positions >= 0)
    end = positions[start, column]
    labels = np.arange(len(keys))
    while True:
        low = np.minimum(labels[start], labels[end])
        joined = labels.copy()
        for side in (start, end):
            np.minimum.at(joined, labels[side], low)
        while (joined[joined] != joined).any():
            joined = joined[joined]
        if (joined == labels).all():
            return labels
        labels = joined


def largest_share(tree: Octree, connectivity: int = 26) -> float:
    """Return the share of a tree's leaves that lie in its largest connected part, in (0, 1].

    Raises:
        MissingPackage: SciPy is not installed.
    """
    _, sizes = components(tree, connectivity)
    return float(sizes[0] / sizes.sum())


def iou(a: Octree, b: Octree) -> float:
    """Return intersection over union of two trees' leaves, both on the unit grid, in [0, 1].

    Raises:
        OctreeError: trees of different depths.
    """
    if a.depth != b.depth:
        raise OctreeError(f"trees of depth {a.depth} and {b.depth} have no common grid")
    common = int((indices(a.leaves, b.leaves) >= 0).sum())
    return common / (len(a.leaves) + len(b.leaves) - common)


def mirrored(tree: Octree, axis: int) -> Octree:
    """Return the tree mirrored at the middle of its cube along an axis (0, 1, 2 = x, y, z)."""
    # Cell v becomes 2^depth - 1 - v: every bit of that coordinate is inverted.
    bits = sum(1 << (3 * level + 2 - axis) for level in range(tree.depth))
    return from_leaves(tree.leaves ^ bits, tree.depth, tree.lower, tree.edge)


def turned(tree: Octree, quarters: int) -> Octree:
    """Return the tree turned about the y axis through its cube's middle by quarter turns.

    One turn is right-handed: what lay towards +z lies towards +x, what lay towards +x towards -z.
    """
    cells = cells_of(tree.leaves)
    x, y, z = cells[:, 0], cells[:, 1], cells[:, 2]
    for _ in range(quarters % 4):
        x, z = z, 2**tree.depth - 1 - x
    return from_leaves(keys_of(np.stack([x, y, z], axis=1)), tree.depth, tree.lower, tree.edge)
