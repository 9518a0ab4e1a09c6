"""Variants of a piece of furniture: its mesh mirrored, turned, stretched, tapered and leaned.

Every change keeps straight lines straight and planes flat (taper is a perspective map), so that
faces that touch go on touching, and what is in one piece stays so. The floor stays flat and level.
The numbers of a variant are a function of the seed, the piece's name and the variant's number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ...data.shapes.jobs import Change, Source
from ...data.shapes.meshes import Surface
from ...octree.fit import MARGIN
from ...octree.tree import Octree

Floats = npt.NDArray[np.float64]

# The margin of a variant, so that its surfaces fall elsewhere within the cells: up to a third of a
# cell at depth 5 on each side, and the outermost cells of depth 6 are still touched.
LEAST_MARGIN, MOST_MARGIN = 0.002, 0.0125


@dataclass(frozen=True)
class Limits:
    """How far the variants of a category go from the piece itself.

    Attributes:
        stretch: of each axis, a share of its length; only the proportions are seen.
        taper: of the width and depth at the top against those at the floor, a share.
        lean: of the top, forwards or backwards and to the sides, shares of the height.
        turns: whether there is no front, so that quarter turns are as good.
    """

    stretch: float = 0.2
    taper: float = 0.0
    lean: tuple[float, float] = (0.0, 0.0)
    turns: bool = False


# Boxes neither taper nor lean: their sides would have a step of one cell somewhere. Only what is
# not symmetric by itself leans to the sides.
LIMITS = {
    "chair": Limits(taper=0.12, lean=(0.06, 0.0)),
    "table": Limits(taper=0.1),
    "sofa": Limits(taper=0.05, lean=(0.05, 0.0)),
    "bed": Limits(stretch=0.15),
    "bench": Limits(taper=0.08, lean=(0.06, 0.0)),
    "cabinet": Limits(stretch=0.22),
    "lamp": Limits(taper=0.2, turns=True),
    "bath": Limits(stretch=0.17, taper=0.08),
    "appliance": Limits(stretch=0.15),
    "plant": Limits(taper=0.2, lean=(0.1, 0.1), turns=True),
    "vessel": Limits(taper=0.2, turns=True),
    "vehicle": Limits(stretch=0.12),
    "person": Limits(stretch=0.1, taper=0.06, lean=(0.04, 0.04)),
}


@dataclass(frozen=True)
class Variant:
    """A changed surface, with a margin of its own in the cube."""

    surface: Surface
    margin: float

    def tree(self, depth: int, margin: float = MARGIN) -> Octree:
        """Return its octree; the variant's margin counts. Raises as ``Surface.tree``."""
        return self.surface.tree(depth, self.margin)


@dataclass(frozen=True)
class Numbers:
    """What makes one variant.

    Attributes:
        mirror: whether left and right change places.
        quarters: turns about the upright axis, as ``ddimx.octree.geometry.turned`` has them.
        scale: factors of x, y, z.
        taper: the width at the floor is ``1 + taper`` times that at the top, of equal ones.
        lean: how far the top moves along z and x, in heights.
        margin: as ``ddimx.octree.fit`` has it.
    """

    mirror: bool = False
    quarters: int = 0
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    taper: float = 0.0
    lean: tuple[float, float] = (0.0, 0.0)
    margin: float = MARGIN


def numbers_of(name: str, variant: int, limits: Limits, seed: int = 0) -> Numbers:
    """Return the numbers of a variant from 1 on, the same on every machine and in any order.

    Half of the variants taper and half lean, where the limits let them.

    Args:
        name: the piece's, ``Item.shape_id``.
    """
    digest = hashlib.sha512(f"{seed}/{name}/{variant}".encode()).digest()
    draws = [int(word) / 2**32 for word in np.frombuffer(digest, dtype=">u4")]  # [0, 1), 16 of them

    def around(draw: float, most: float) -> float:
        return most * (2 * draw - 1)

    x, y, z = (1 + around(draw, limits.stretch) for draw in draws[:3])
    tapers, leans = draws[3] < 0.5, draws[4] < 0.5
    forward, sideways = (around(draws[5 + i], limits.lean[i]) for i in range(2))
    return Numbers(
        mirror=draws[7] < 0.5,
        quarters=int(4 * draws[8]) if limits.turns else 0,
        scale=(x, y, z),
        taper=around(draws[9], limits.taper) if tapers else 0.0,
        lean=(forward, sideways) if leans else (0.0, 0.0),
        margin=LEAST_MARGIN + draws[10] * (MOST_MARGIN - LEAST_MARGIN),
    )


def changes_of(name: str, category: str, variants: int, seed: int = 0) -> tuple[Change, ...]:
    """Return what makes the variants of a piece besides itself: ``variants - 1`` functions."""
    limits = LIMITS[category]
    return tuple(
        partial(changed, numbers=numbers_of(name, variant, limits, seed))
        for variant in range(1, variants)
    )


def changed(source: Source, numbers: Numbers) -> Variant:
    """Return a variant of a mesh.

    Sums and products of single coordinates alone, so that no machine rounds them otherwise.
    """
    assert isinstance(source, Surface)
    low, high = source.vertices.min(axis=0), source.vertices.max(axis=0)
    middle = (low + high) / 2
    x, y, z = (source.vertices[:, axis] - middle[axis] for axis in range(3))
    if numbers.mirror:
        x = -x
    for _ in range(numbers.quarters):
        x, z = z, -x
    x, y, z = (values * scale for values, scale in zip((x, y, z), numbers.scale, strict=True))
    height = float(high[1] - low[1]) * numbers.scale[1]
    if height > 0 and (numbers.taper or any(numbers.lean)):
        up = y / height + 0.5  # 0 at the floor, 1 at the top
        narrower = 1 + numbers.taper * up
        x, z, up = x / narrower, z / narrower, up / narrower * (1 + numbers.taper)
        forward, sideways = numbers.lean
        x, y, z = x + sideways * height * up, height * up, z + forward * height * up
    vertices: Floats = np.stack([x, y, z], axis=1)
    return Variant(Surface(vertices, source.faces), numbers.margin)
