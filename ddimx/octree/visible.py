"""Which occupied cells can be seen from outside; the others are filling that nobody sees."""

from __future__ import annotations

from itertools import product
from types import ModuleType

import numpy as np

from ..errors import optional_module
from .errors import OctreeError
from .keys import Keys, cells_of

MAX_VISIBLE_DEPTH = 9  # the grid is held whole: 2^27 cells, of which each takes 6 bytes


def visible_cells(keys: Keys, depth: int) -> Keys:
    """Return the keys of the cells that border, by face, edge or corner, on the space outside.

    Outside is every empty cell that a path through faces of empty cells joins to the border of the
    grid. A closed box around another loses the inner one; a box with a hole of one cell keeps it.

    Args:
        keys: int64 [n], ascending, of the leaves of a tree of this depth.
        depth: 1..9.

    Raises:
        OctreeError: a depth at which the grid does not fit in memory.
        MissingPackage: SciPy is not installed.
    """
    if not 1 <= depth <= MAX_VISIBLE_DEPTH:
        raise OctreeError(f"what is visible is found at depths 1..{MAX_VISIBLE_DEPTH}, not {depth}")
    cells = cells_of(keys) + 1  # a rim of empty cells around the grid
    empty = np.ones((2**depth + 2,) * 3, dtype=np.bool_)
    empty[tuple(cells.T)] = False
    parts, _ = labeling().label(empty)
    outside = parts == parts[0, 0, 0]
    seen = np.zeros(len(keys), dtype=np.bool_)
    for step in product((-1, 0, 1), repeat=3):
        seen |= outside[tuple((cells + step).T)]
    return keys[seen]


def labeling() -> ModuleType:
    """Return SciPy's module that labels connected cells.

    Raises:
        MissingPackage: SciPy is not installed.
    """
    return optional_module("scipy.ndimage", "visible cells", "3d")
