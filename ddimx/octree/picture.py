"""A shape in block characters: seen from the front, from its side and from above."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .keys import cells_of
from .tree import Octree

WIDTH, HEIGHT = 24, 12  # characters of one view; a character is about twice as high as wide
GAP = "   "  # so that three views take 78 columns
TITLES = ("front", "side", "top")
BLOCKS = " ░▒▓█"  # nothing, far ... near
PLAIN = " .:+#"  # for terminals that cannot show blocks
FINEST = 8  # no terminal shows more

Image = npt.NDArray[np.int64]


def picture(tree: Octree, blocks: str = BLOCKS) -> list[str]:
    """Return three views side by side, y up, as lines of at most 78 characters.

    The front looks from +z towards -z with x to the right, the side from +x with z to the left,
    the top from +y with z downwards. All have one scale, and the shape fills the largest.

    Args:
        blocks: five characters, from nothing over far to near.
    """
    cells = cells_of(tree.coarser(min(tree.depth, FINEST)).leaves)
    cells -= cells.min(axis=0)
    sizes = cells.max(axis=0) + 1
    extent = int(sizes.max())
    x, y, z = (cells + (extent - sizes) // 2).T
    last = extent - 1
    # Of each view: to the right, downwards, away from the eye.
    views = [(x, last - y, last - z), (last - z, last - y, last - x), (x, z, last - y)]
    columns = [_drawn(*view, extent, blocks) for view in views]
    title = GAP.join(name.center(WIDTH) for name in TITLES)
    return [line.rstrip() for line in (title, *map(GAP.join, zip(*columns, strict=True)))]


def _drawn(right: Image, down: Image, depth: Image, extent: int, blocks: str) -> list[str]:
    """Return one view's lines."""
    nearest = np.full((extent, extent), extent)
    np.minimum.at(nearest, (down, right), depth)
    rows, columns = _spans(extent, HEIGHT), _spans(extent, WIDTH)
    nearest_cells = np.array([[nearest[row, column].min() for column in columns] for row in rows])
    near, far = int(depth.min()), int(nearest_cells[nearest_cells < extent].max())
    # Four equal ranges of depth between the nearest and the farthest that is seen.
    shade = 4 - (nearest_cells - near) * 4 // (far - near + 1)
    return ["".join(blocks[k] for k in line) for line in np.where(nearest_cells < extent, shade, 0)]


def _spans(cells: int, characters: int) -> list[slice]:
    """Return which cells each character covers: several, or a part of one."""
    starts = [i * cells // characters for i in range(characters + 1)]
    return [slice(a, max(b, a + 1)) for a, b in pairwise(starts)]
