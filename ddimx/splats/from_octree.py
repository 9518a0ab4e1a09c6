"""From an octree to Gaussians: one for every leaf, at its centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..octree.tree import Octree
from . import colors
from .cloud import UPRIGHT, GaussianCloud
from .neighbors import Neighbourhood, neighbourhood

Floats = npt.NDArray[np.float64]

THINNEST = 0.25  # of its width: what a Gaussian of a flat surface is flattened to


@dataclass(frozen=True)
class Look:
    """How leaves become Gaussians.

    Attributes:
        colour: ``#rrggbb``, or "height", "normal" or "category".
        opacity: in (0, 1].
        scale: standard deviation in cells; 0.5 is half a cell's edge.
        surfel: flatten each Gaussian along the surface's normal.
        light: bake light into the colours; None does so for "height" and "category".

    Raises:
        UsageError: a value out of range, or an unknown colour.
    """

    colour: str = "height"
    opacity: float = 0.95
    scale: float = 0.5
    surfel: bool = False
    light: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "colour", colors.parse(self.colour))
        if not 0 < self.opacity <= 1:
            raise UsageError(f"opacity {self.opacity}: give a number above 0 and at most 1")
        if not 0 < self.scale < 100:
            raise UsageError(f"scale {self.scale}: give a number of cells, above 0 and below 100")

    @property
    def lit(self) -> bool:
        """Whether light is baked in."""
        return self.colour in ("height", "category") if self.light is None else self.light

    @property
    def needs_normals(self) -> bool:
        """Whether the surface's normals are looked for."""
        return self.surfel or self.colour == "normal"


def from_octree(
    tree: Octree,
    look: Look | None = None,
    *,
    category: str = "",
    around: Neighbourhood | None = None,
) -> GaussianCloud:
    """Return one Gaussian per leaf, in the order of the leaves and in the units of the tree's cube.

    Args:
        category: the shape's category, for ``look.colour == "category"``.
        around: the tree's :func:`~ddimx.splats.neighbors.neighbourhood`, if it is known already.

    Raises:
        UsageError: colours by category for a shape that has none.
    """
    look = look or Look()
    if around is None and (look.lit or look.needs_normals):
        around = neighbourhood(tree)
    points = tree.centres()
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
    return GaussianCloud(
        points.astype(np.float32),
        sigmas.astype(np.float32),
        quaternions.astype(np.float32),
        _colours(look, points, category, normals, around).astype(np.float32),
        np.full(count, look.opacity, dtype=np.float32),
    )


def _colours(
    look: Look,
    points: Floats,
    category: str,
    normals: Floats | None,
    around: Neighbourhood | None,
) -> Floats:
    if look.colour == "height":
        chosen = colors.by_height(points[:, 1])
    elif look.colour == "normal":
        assert normals is not None
        chosen = colors.by_normal(normals)
    elif look.colour == "category":
        if not category:
            raise UsageError("colour 'category': the shape has no category; choose another colour")
        chosen = colors.by_category(category)
    else:
        chosen = colors.rgb(look.colour)
    chosen = np.broadcast_to(chosen, points.shape)
    if not look.lit:
        return chosen
    assert around is not None
    return colors.lit(chosen, around)


def surface(points: Floats, around: Neighbourhood) -> tuple[Floats, Floats]:
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


def tilted(normals: Floats) -> Floats:
    """Return the shortest turns that take the z axis onto each normal or its opposite, [N, 4].

    A flattened Gaussian has no front, so the half with z >= 0 is taken and nothing is divided by
    what may vanish.
    """
    n = np.where(normals[:, 2:] < 0, -normals, normals)
    turned = np.stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(len(n))], axis=1)
    unit: Floats = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return unit
