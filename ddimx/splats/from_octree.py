"""From an octree to Gaussians: one for every leaf, at its center."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..octree.errors import OctreeError
from ..octree.tree import Octree
from . import colors
from .cloud import UPRIGHT, GaussianCloud
from .neighbors import Neighborhood, facing, neighborhood

Floats = npt.NDArray[np.float64]

THINNEST = 0.25  # of its width: what a Gaussian of a flat surface is flattened to
LIGHT = (-0.4, 0.8, 0.45)  # from the left, above and in front
DIMMEST, CROWDED = 0.6, 0.5  # light on what is edge-on; what a full window takes
ROUNDING = 1 / 16  # by how much of a cell float32 may move its center


@dataclass(frozen=True)
class Look:
    """How leaves become Gaussians.

    Attributes:
        color: ``#rrggbb``, a CSS name, or one of :data:`ddimx.splats.colors.RULES`.
        opacity: in (0, 1].
        scale: standard deviation in cells; 0.5 is half a cell's edge.
        surfel: flatten each Gaussian along the surface's normal.
        light: bake light into the colors; None leaves it to the color's rule.

    Raises:
        UsageError: a value out of range, or an unknown color.
    """

    color: str = "height"
    opacity: float = 0.95
    scale: float = 0.5
    surfel: bool = False
    light: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "color", colors.parse(self.color))
        if not 0 < self.opacity <= 1:
            raise UsageError(f"opacity {self.opacity}: give a number above 0 and at most 1")
        if not 0 < self.scale < 100:
            raise UsageError(f"scale {self.scale}: give a number of cells, above 0 and below 100")

    @property
    def lit(self) -> bool:
        """Whether light is baked in."""
        return colors.rule(self.color).lit if self.light is None else self.light

    @property
    def needs_normals(self) -> bool:
        """Whether the surface's normals are looked for."""
        return self.surfel or colors.rule(self.color).needs_normals


def from_octree(
    tree: Octree,
    look: Look | None = None,
    *,
    category: str = "",
    around: Neighborhood | None = None,
) -> GaussianCloud:
    """Return one Gaussian per leaf, in the order of the leaves and in the units of the tree's cube.

    Args:
        category: the shape's, for a color that depends on it.
        around: the tree's :func:`~ddimx.splats.neighbors.neighborhood`, if it is known already.

    Raises:
        UsageError: colors by category for a shape that has none.
        OctreeError: coordinates so large that float32, which clouds and all files are of, cannot
            tell neighboring cells apart.
    """
    look = look or Look()
    reach, cell = max(abs(v) for low in tree.lower for v in (low, low + tree.edge)), tree.edge
    cell *= 0.5**tree.depth
    with np.errstate(over="ignore", invalid="ignore"):
        step = float(np.spacing(np.float32(reach)))
    if not step / 2 <= ROUNDING * cell:
        raise OctreeError(
            f"its cells are {cell:.2g} wide, and coordinates up to {reach:.3g} are {step:.2g} "
            "apart in float32, which all formats hold; --center puts the shape at the origin"
        )
    if around is None and (look.lit or look.needs_normals):
        around = neighborhood(tree)
    points = tree.centers()
    normals, flatness = None, None
    if look.needs_normals:
        assert around is not None
        normals, flatness = surface(points, around)
    count, sigma = len(points), look.scale * tree.edge * 0.5**tree.depth
    sigmas = np.full((count, 3), sigma)
    quaternions: npt.NDArray[np.floating] = np.tile(UPRIGHT, (count, 1))
    if look.surfel and normals is not None and flatness is not None:
        sigmas[:, 2] *= flatness
        quaternions = tilted(normals)
    leaves = colors.Leaves(points, normals, category)
    point_colors = np.broadcast_to(colors.rule(look.color).color(leaves), points.shape)
    if look.lit:
        assert around is not None
        point_colors = lit(point_colors, around)
    return GaussianCloud(
        points.astype(np.float32),
        sigmas.astype(np.float32),
        quaternions.astype(np.float32),
        point_colors.astype(np.float32),
        np.full(count, look.opacity, dtype=np.float32),
    )


def surface(points: Floats, around: Neighborhood) -> tuple[Floats, Floats]:
    """Return every leaf's normal, unit [N, 3], and how thick it is, THINNEST..1, [N].

    The normal is the direction in which the occupied cells around are spread least. It points away
    from the middle of the shape's bounding box, or, at right angles to that, from where the cells
    around are; if even that is undecided, its largest part is positive. Where two directions are
    narrow, as along a rod, there is no surface to flatten to, and the thickness goes to 1.
    """
    values, vectors = np.linalg.eigh(around.spreads)
    normals = vectors[:, :, 0]
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    outwards = points - middle
    reach = float(np.abs(outwards).max()) or 1.0
    largest = np.take_along_axis(normals, np.abs(normals).argmax(axis=1)[:, None], axis=1)[:, 0]
    votes = [np.einsum("nk,nk->n", normals, outwards / reach)]
    votes += [-np.einsum("nk,nk->n", normals, around.means), largest]
    sign = np.zeros(len(points))
    for vote in votes:
        undecided = sign == 0
        sign[undecided] = np.sign(np.where(np.abs(vote) > 1e-9, vote, 0))[undecided]
    narrow, middling = np.maximum(values[:, 0], 0), values[:, 1]
    ratio = np.where(middling > 0.25, narrow / np.maximum(middling, 0.25), 1.0)
    return normals * sign[:, None], np.clip(2 * np.sqrt(ratio), THINNEST, 1)


def lit(colors: npt.ArrayLike, around: Neighborhood) -> Floats:
    """Return colors [N, 3] (or one [3]) with light baked in, [N, 3].

    Both sides of a surface are lit alike, since one Gaussian is seen from both.
    """
    towards = np.asarray(LIGHT) / np.linalg.norm(LIGHT)
    normals = facing(around.spreads, np.tile(towards, (len(around.counts), 1)))
    plane, full = around.width**2, around.width**3
    crowded = np.clip((around.counts - plane) / (full - plane), 0, 1)
    light = (DIMMEST + (1 - DIMMEST) * normals @ towards) * (1 - CROWDED * crowded)
    shaded: Floats = np.asarray(colors, dtype=np.float64) * light[:, None]
    return shaded


def tilted(normals: Floats) -> Floats:
    """Return the shortest turns that take the z axis onto each normal or its opposite, [N, 4].

    A flattened Gaussian has no front, so the half with z >= 0 is taken and nothing is divided by
    what may vanish.
    """
    n = np.where(normals[:, 2:] < 0, -normals, normals)
    turned = np.stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(len(n))], axis=1)
    unit: Floats = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return unit
