"""Pictures of clouds: good enough to judge a shape by, on any machine, with NumPy alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...octree.tree import Octree
from ..cloud import UPRIGHT, GaussianCloud, balls, every_nth
from ..neighbors import facing, neighborhood
from .camera import Camera, look_at, project
from .raster import rasterize
from .shading import blurred, enlarged, shaded

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

THUMBNAIL_COLOR = (0.86, 0.66, 0.45)
THUMBNAIL_SIGMA = 0.42  # cells: a little crisper than the exported 0.5
FINER = 2  # pixels are drawn as squares of so many, and averaged,
FINE_ENOUGH = 0.6  # unless Gaussians are smaller than so many pixels: then there are very many
# The shadow's darkness; its softness as a share of the shape's size; how fast it fades with height.
SHADOW_SAMPLES = 4000  # Gaussians that cast it, in the stead of all
SHADOW, SHADOW_SIGMA, SHADOW_FADE = 0.3, 0.025, 3.0


def render(
    cloud: GaussianCloud,
    camera: Camera,
    spreads: Floats | None = None,
    *,
    lamp: float = 1.0,
    shadow: bool = True,
) -> Picture:
    """Draw a cloud on white, uint8 [H, W, 3].

    Args:
        spreads: float [N, 3, 3], how the Gaussians around each one are spread
            (:class:`~ddimx.splats.neighbors.Neighborhood`); None shades without normals.
        lamp: how strong the light is, 0..1; colors that have light baked in want less.
        shadow: darken the ground under the shape, which shows where it stands.
    """
    distance = float(np.median(camera.view(cloud.positions)[:, 2]))
    pixels = camera.focal * float(np.median(cloud.sigmas)) / max(distance, 1e-9)
    finer = FINER if pixels > FINE_ENOUGH else 1
    fine = camera.scaled(finer)
    to_eye = camera.eye - cloud.positions
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    if spreads is not None:
        to_eye = facing(spreads, to_eye)
    normals: Floats = to_eye @ camera.basis.T
    values = np.concatenate([cloud.colors, normals], axis=1)
    planes = rasterize(project(cloud, fine), cloud.alphas, values, fine.size)
    ground = _shadow(cloud, camera) if shadow else np.ones((camera.size, camera.size))
    return shaded(planes, fine, enlarged(ground, finer, fine.size), finer, lamp)


def render_thumbnail(
    tree: Octree, size: int = 192, *, azimuth: float = 35.0, elevation: float = 20.0
) -> Picture:
    """Draw an octree for a contact sheet, uint8 [size, size, 3]."""
    points = Octree(tree.masks).centers()  # whatever its cube: float32 holds the unit's
    sigma = THUMBNAIL_SIGMA / 2**tree.depth
    cloud = balls(points, sigma, THUMBNAIL_COLOR, 0.95)
    camera = look_at(points, size, around=sigma, azimuth=azimuth, elevation=elevation)
    return render(cloud, camera, neighborhood(tree).spreads)


def _shadow(cloud: GaussianCloud, camera: Camera) -> Floats:
    """Return what light reaches the ground, float64 [size, size]: every Gaussian laid flat on it.

    What is higher casts a wider and weaker shadow. It is soft, so a quarter of the size will do.
    """
    coarse = camera.scaled(0.25)
    low, high = cloud.positions.min(axis=0), cloud.positions.max(axis=0)
    reach = float((high - low).max()) or 1.0
    every = math.ceil(len(cloud) / SHADOW_SAMPLES)
    cloud = every_nth(cloud, every)
    height = (cloud.positions[:, 1] - low[1]) / reach
    positions = cloud.positions.copy()
    positions[:, 1] = low[1] - cloud.sigmas.max(axis=1)
    softness = SHADOW_SIGMA * reach * (1 + height)
    flat = np.stack([softness, np.full_like(softness, 1e-4 * reach), softness], axis=1)
    widening = (cloud.sigmas[:, 0] / softness) ** 2  # as much darkness, over more ground
    strength = every * cloud.alphas * widening * np.exp(-SHADOW_FADE * height)
    laid = replace(
        cloud,
        positions=positions,
        sigmas=flat,
        quaternions=np.tile(UPRIGHT, (len(cloud), 1)),
        alphas=np.clip(strength, 1e-6, 1),
    )
    cover = rasterize(project(laid, coarse), laid.alphas, np.zeros((len(cloud), 0)), coarse.size)
    light = 1 - SHADOW * cover.cover.astype(np.float64)
    return blurred(enlarged(light, 4, camera.size), 3)
