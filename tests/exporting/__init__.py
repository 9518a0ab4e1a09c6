"""Shapes that the tests of exporting share."""

import numpy as np

from ddimx.octree.file import Shape, write_shape
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import from_leaves


def stool(depth=4, legs=4):
    """A seat on legs, 16 cells wide at depth 4."""
    cells = [(x, 9, z) for x in range(4, 12) for z in range(4, 12)]
    feet = [(4, 4), (11, 11), (4, 11), (11, 4)][:legs]
    cells += [(x, y, z) for x, z in feet for y in range(9)]
    scale = 2 ** (depth - 4)
    return from_leaves(keys_of(np.array(cells) * scale), depth)


def write(path, legs=4, category="stool", depth=4):
    write_shape(path, Shape(stool(depth, legs), category, path.stem))
    return path
