"""Cleaning drawn shapes: crumbs are removed, holes of one cell in a flat sheet are filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import OFFSETS_26, Index, indices, neighbors, pieces
from .keys import Keys, cells_of, keys_of
from .tree import Octree, from_leaves

# The largest share of a shape's cells that is a crumb. A lamp in two halves is none.
CRUMB = 0.05


@dataclass(frozen=True, eq=False)
class CleanedOctree(Octree):
    """An octree that was cleaned; ``removed`` and ``added`` say how many leaves that changed."""

    removed: int = 0
    added: int = 0


def cleaned(tree: Octree) -> CleanedOctree:
    """Return a tree without crumbs and without holes of one cell.

    A crumb is a piece, joined by faces, edges or corners, that does not touch the largest one and
    has at most 5% of all cells. What :func:`holes` returns is then filled.
    """
    labels = pieces(tree.leaves, tree.depth, OFFSETS_26[:13])
    sizes = np.bincount(labels, minlength=len(labels))  # a piece's label is its first cell
    stays = sizes[labels] > CRUMB * len(labels)
    stays |= labels == sizes.argmax()
    keys = tree.leaves[stays]
    filling = holes(keys, tree.depth)
    whole = from_leaves(np.concatenate([keys, filling]), tree.depth, tree.lower, tree.edge)
    removed = len(labels) - len(keys)
    return CleanedOctree(whole.masks, tree.lower, tree.edge, removed, len(filling))


def holes(keys: Keys, depth: int) -> Keys:
    """Return the empty cells that are holes in a flat sheet: int64 [n], ascending.

    All eight cells around such a one in a plane are occupied, and the cells before and behind it
    are empty and no such ones: a groove, a dent, a cavity and a tube are none. Two holes within two
    cells of one another in their plane are a pattern, a grille or a cane seat, and stay open.

    Args:
        keys: int64 [N], ascending, of one level.
        depth: that level; beyond the grid all is empty.
    """
    cells = cells_of(keys)
    result = [np.zeros(0, dtype=np.int64)]
    for axis in range(3):
        ring = OFFSETS_26[OFFSETS_26[:, axis] == 0]
        around = (cells[:, None] + ring).reshape(-1, 3)
        inside = ((around >= 0) & (around < 2**depth)).all(axis=1)
        places, counts = np.unique(keys_of(around[inside]), return_counts=True)
        places = places[counts == len(ring)]
        places = places[indices(keys, places) < 0]
        if not len(places):
            continue
        normal = np.eye(3, dtype=np.int64)[[axis]]
        near = np.concatenate([normal, -normal])
        around_hole = (cells_of(places)[:, None] + near).reshape(-1, 3)
        inside = ((around_hole >= 0) & (around_hole < 2**depth)).all(axis=1)
        occupied = inside & (indices(keys, keys_of(np.where(inside[:, None], around_hole, 0))) >= 0)
        passage = (neighbors(places, depth, near) >= 0).any(axis=1)
        places = places[~passage & ~occupied.reshape(-1, 2).any(axis=1)]
        steps: Index = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3)
        steps = steps[(steps[:, axis] == 0) & steps.any(axis=1)]
        alone = (neighbors(places, depth, steps) < 0).all(axis=1)
        result.append(places[alone])
    return np.unique(np.concatenate(result))
