"""An octree of occupied cells, as one array of child masks per level.

Level 0 is the root. The mask of a cell has bit ``c`` set where its child ``c = (x << 2) | (y << 1)
| z`` is occupied; no cell's mask is 0. A tree of depth d has masks on levels 0..d-1 and leaves,
which are nothing but their keys, on level d: cells of edge 2^-d of the cube.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..kernels.morton import PART, POPCOUNT, Masks, axes_of, children, parts
from .errors import OctreeError
from .keys import MAX_DEPTH, Keys

__all__ = ["CUBE", "LEAF", "PART", "POPCOUNT", "Octree", "children", "from_leaves", "from_tokens"]

Tokens = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Corner = tuple[float, float, float]

CUBE: Corner = (-0.5, -0.5, -0.5)  # the minimum corner where nothing else is said; the edge is 1
LEAF = 1  # the token of a leaf


@dataclass(frozen=True, eq=False)
class Octree:
    """Occupied cells of a cube, subdivided ``depth`` times.

    Attributes:
        masks: uint8 [n_0], ..., [n_{depth-1}], the child masks of each level in Morton order.
        lower, edge: the cube's minimum corner, three floats, and its edge, in the units of the
            mesh or points it was made from.
    """

    masks: tuple[Masks, ...]
    lower: Corner = CUBE
    edge: float = 1.0

    @property
    def depth(self) -> int:
        """Number of subdivisions; leaves are cells of a grid of 2^depth."""
        return len(self.masks)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of cells on levels 0..depth."""
        return (*(len(m) for m in self.masks), int(POPCOUNT[self.masks[-1]].sum()))

    @cached_property
    def keys(self) -> tuple[Keys, ...]:
        """The cells' keys on levels 0..depth, each int64, ascending."""
        levels = [np.zeros(1, dtype=np.int64)]
        for masks in self.masks:
            levels.append(children(levels[-1], masks))
        return tuple(levels)

    @property
    def leaves(self) -> Keys:
        """Keys of the leaves, int64 [n_depth], ascending."""
        return self.keys[-1]

    def centers(self, level: int | None = None) -> Points:
        """Return the centers of a level's cells (default: the leaves), float64 [n, 3].

        They are in the units of ``lower`` and ``edge``.
        """
        level = self.depth if level is None else level
        keys, size = self.keys[level], self.edge * 0.5**level
        centers: Points = np.empty((len(keys), 3), dtype=np.float64)
        for part in parts(len(keys)):
            for axis, coordinate in enumerate(axes_of(keys[part])):
                centers[part, axis] = (coordinate + 0.5) * size + self.lower[axis]
        return centers

    def centres(self, level: int | None = None) -> Points:
        """Return :meth:`centers`; deprecated, the spelling of version 0.1."""
        warnings.warn("Octree.centres is now Octree.centers", DeprecationWarning, stacklevel=2)
        return self.centers(level)

    def tokens(self) -> Tokens:
        """Return the token stream, uint8 [sum(counts)]: masks level by level, then 1 per leaf."""
        leaves = np.full(self.counts[-1], LEAF, dtype=np.uint8)
        return np.concatenate([*self.masks, leaves])

    def coarser(self, depth: int) -> Octree:
        """Return the tree cut at a smaller depth."""
        if not 1 <= depth <= self.depth:
            raise OctreeError(f"depth {depth} is not within 1..{self.depth}")
        return Octree(self.masks[:depth], self.lower, self.edge)


def from_leaves(
    keys: npt.NDArray[np.integer],
    depth: int,
    lower: Corner = CUBE,
    edge: float = 1.0,
) -> Octree:
    """Build the tree whose leaves are these cells (any order, repetitions allowed).

    Raises:
        OctreeError: no cells, a depth outside 1..20, or a key outside the grid.
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise OctreeError(f"depth {depth} is not within 1..{MAX_DEPTH}")
    level = np.asarray(keys, dtype=np.int64).reshape(-1)
    if not (level[1:] >= level[:-1]).all():
        level = np.sort(level)
    if not len(level):
        raise OctreeError("an octree needs at least one occupied cell")
    if level[0] < 0 or level[-1] >= 8**depth:
        raise OctreeError(f"a cell lies outside the grid of {2**depth}^3")
    masks: list[Masks] = []
    for _ in range(depth):
        bits = (1 << (level & 7)).astype(np.uint8)
        parents = level >> 3
        new = np.ones(len(parents), dtype=np.bool_)
        np.not_equal(parents[1:], parents[:-1], out=new[1:])
        first = np.flatnonzero(new)
        masks.insert(0, np.bitwise_or.reduceat(bits, first))
        level = parents[first]
    return Octree(tuple(masks), lower, edge)


def from_tokens(
    tokens: npt.NDArray[np.integer],
    depth: int | None = None,
    lower: Corner = CUBE,
    edge: float = 1.0,
) -> Octree:
    """Read a whole, unpadded token stream.

    Levels are walked from the root: each one's length is known from the level above before it is
    looked at, so that no more is ever held than the stream itself.

    Args:
        tokens: any integer dtype, [L].
        depth: what the depth must be; None takes it from the stream, which determines it.

    Raises:
        OctreeError: a token outside 1..255, a stream that ends early or goes on, a leaf that is
            not 1, another depth than was said, or one outside 1..20.
    """
    stream = np.asarray(tokens)
    if stream.ndim != 1 or stream.dtype.kind not in "iu":
        raise OctreeError(f"tokens are {stream.dtype} {stream.shape}, expected integers [L]")
    if depth is not None and not 1 <= depth <= MAX_DEPTH:
        raise OctreeError(f"depth {depth} is not within 1..{MAX_DEPTH}")
    if not len(stream):
        raise OctreeError("there are no tokens", level=0, index=0)
    masks: list[Masks] = []
    start, count = 0, 1
    while start + count < len(stream):
        masks.append(_level(stream, start, count, len(masks)))
        start, count = start + count, int(POPCOUNT[masks[-1]].sum())
        if len(masks) > MAX_DEPTH:
            raise OctreeError(f"the tree is deeper than {MAX_DEPTH} levels", index=start)
    _check_leaves(stream, start, count, len(masks))
    if depth is not None and len(masks) != depth:
        raise OctreeError(f"the stream is of depth {len(masks)}, not {depth}", level=len(masks))
    return Octree(tuple(masks), lower, edge)


def _level(stream: npt.NDArray[np.integer], start: int, count: int, level: int) -> Masks:
    """Return the tokens of one level as masks, checked before they are narrowed to 8 bits."""
    part = stream[start : start + count]
    bad = np.flatnonzero((part < 1) | (part > 255))
    if not len(bad):
        return part.astype(np.uint8)
    index, token = start + int(bad[0]), int(part[bad[0]])
    if token == 0:
        raise OctreeError("token 0 is a cell without children", level=level, index=index)
    raise OctreeError(f"token {token} is outside 1..255", level=level, index=index)


def _check_leaves(stream: npt.NDArray[np.integer], start: int, count: int, level: int) -> None:
    """Raise OctreeError unless the rest of the stream is ``count`` leaves."""
    remaining = len(stream) - start
    if count > remaining:
        # A bad token there says more than that there are too few.
        _level(stream, start, remaining, level)
        raise OctreeError(
            f"the stream ends early: the level above says {count} cells, "
            f"{remaining} tokens are left",
            level=level,
            index=len(stream),
        )
    strange = np.flatnonzero(stream[start:] != LEAF)
    if len(strange):
        index = start + int(strange[0])
        token = int(stream[index])
        raise OctreeError(f"leaf token {token} is not {LEAF}", level=level, index=index)
    if level == 0:
        raise OctreeError("the stream holds nothing but a root", level=0, index=0)
