"""Point clouds of octrees: points drawn uniformly inside the occupied cells.

A shape's draw is keyed by (seed, what the shape is, its side, its turn among identical shapes): so
it depends neither on the order of files nor on what else is in the set, and two identical shapes
get different points, as two scans of one chair would.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from ...noise import Noise, Stream
from ...octree.keys import cells_of
from ...octree.tree import Octree

Cloud = npt.NDArray[np.float64]

SIDES, REPEATS = 4, 1024  # places that side and point seed have in a row of noise


class Side(IntEnum):
    """Whose points are drawn; every side has draws of its own, also of the same shapes."""

    SAMPLES = 0
    REFERENCE = 1
    AGAIN = 2  # the reference once more, for the floor
    TRAIN = 3


def clouds(
    trees: Sequence[Octree], points: int, seed: int, side: Side, repeat: int = 0
) -> list[Cloud]:
    """Draw points uniformly inside each tree's leaves, in the octree's unit cube.

    Args:
        points: how many for every shape.
        repeat: which point seed, 0..1023.

    Returns:
        One float64 [points, 3] in [0, 1)^3 for every tree; each point lies in the half-open cell
        that it was drawn for. Points are independent, so the first m of them are a smaller cloud.
    """
    noise = Noise(seed)
    return [
        cloud(tree, points, noise, content, (turn * REPEATS + repeat) * SIDES + side)
        for tree, (content, turn) in zip(trees, identities(trees), strict=True)
    ]


def cloud(tree: Octree, points: int, noise: Noise, sample: int, place: int) -> Cloud:
    """Draw one tree's points, float64 [points, 3]: a cell each, then a place inside the cell."""
    cells = cells_of(tree.leaves)
    stream = Stream.POINTS
    which = noise.integers([sample], (points,), len(cells), row=2 * place, stream=stream)[0]
    # 1 - u lies in [0, 1): a point on a cell's upper face would belong to the next cell.
    inside = (
        1.0 - noise.uniform([sample], (points, 3), row=2 * place + 1, stream=stream)[0].double()
    )
    positions: Cloud = (cells[which.numpy()] + inside.numpy()) * 0.5**tree.depth
    return positions


def subset(trees: Sequence[Octree], count: int, seed: int, side: Side) -> list[int]:
    """Return the indices, ascending, of ``count`` trees: a keyed draw without replacement.

    The order of ``trees`` does not enter, except among identical shapes.
    """
    if count >= len(trees):
        return list(range(len(trees)))
    noise = Noise(seed)
    names = identities(trees)
    draws = noise.integers(
        [content for content, _ in names],
        (1,),
        2**32,
        row=torch.tensor([turn * SIDES + side for _, turn in names]),
        stream=Stream.SUBSET,
    )[:, 0].tolist()
    order = sorted(range(len(trees)), key=lambda i: (draws[i], *names[i]))
    return sorted(order[:count])


def identities(trees: Sequence[Octree]) -> list[tuple[int, int]]:
    """Return for each tree the CRC-32 of its tokens and how many equal ones stand before it."""
    counts: Counter[int] = Counter()
    names = []
    for tree in trees:
        content = zlib.crc32(tree.tokens().tobytes())
        names.append((content, counts[content]))
        counts[content] += 1
    return names
