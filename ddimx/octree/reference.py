"""The token format in plain Python, word for word: a queue of cells, one token for each.

This is for reading, for tests and as the slow side of benchmarks; the package itself uses
:mod:`ddimx.octree.tree`, which does a level at a time. Start at the root. Take the cell that waits
longest and read (write) its token: for a cell above the last level, eight bits that say which of
its children are occupied, child ``(x << 2) | (y << 1) | z`` at bit ``child``; for a cell of the
last level, the number 1. The occupied children join the queue in the order of their numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from .errors import OctreeError

Cell = tuple[int, int, int]


def decode(tokens: Sequence[int], depth: int) -> list[Cell]:
    """Return the leaves' coordinates, each in 0..2^depth-1, in the order of the stream.

    Raises:
        OctreeError: a token that cannot stand where it stands, a stream too short or too long.
    """
    leaves: list[Cell] = []
    queue = deque([(0, 0, 0, 0)])
    index = 0
    while queue:
        level, x, y, z = queue.popleft()
        if index == len(tokens):
            raise OctreeError("the stream ends early", level=level, index=index)
        token = int(tokens[index])
        if not 1 <= token <= (255 if level < depth else 1):
            raise OctreeError(f"token {token} is not allowed here", level=level, index=index)
        index += 1
        if level == depth:
            leaves.append((x, y, z))
            continue
        for child in range(8):
            if token >> child & 1:
                right, up, front = child >> 2 & 1, child >> 1 & 1, child & 1
                queue.append((level + 1, 2 * x + right, 2 * y + up, 2 * z + front))
    if index < len(tokens):
        raise OctreeError("the stream goes on after its last leaf", level=depth, index=index)
    return leaves


def encode(cells: Iterable[Cell], depth: int) -> list[int]:
    """Return the token stream of the tree with these leaves (any order, repetitions allowed)."""
    occupied = [set[Cell]() for _ in range(depth)] + [set(cells)]
    for level in range(depth, 0, -1):
        occupied[level - 1] = {(x >> 1, y >> 1, z >> 1) for x, y, z in occupied[level]}
    tokens: list[int] = []
    queue = deque([(0, 0, 0, 0)])
    while queue:
        level, x, y, z = queue.popleft()
        if level == depth:
            tokens.append(1)
            continue
        token = 0
        for child in range(8):
            child_cell = (2 * x + (child >> 2 & 1), 2 * y + (child >> 1 & 1), 2 * z + (child & 1))
            if child_cell in occupied[level + 1]:
                token |= 1 << child
                queue.append((level + 1, *child_cell))
        tokens.append(token)
    return tokens
