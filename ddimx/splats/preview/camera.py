"""A pinhole camera that looks at a shape, y up, and what Gaussians look like through it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..cloud import GaussianCloud, axes

Floats = npt.NDArray[np.float64]

FIELD_OF_VIEW = 24.0  # degrees: long enough a lens for parallel legs to look parallel
MARGIN = 0.06  # of the picture, on each side


@dataclass(frozen=True, eq=False)
class Camera:
    """Where the eye is and how the picture is cut.

    Attributes:
        eye: float64 [3].
        basis: float64 [3, 3], rows: right, down and forward; a proper rotation.
        focal: pixels per unit of tangent.
        center: pixel (x, y) that the forward axis meets.
        size: pixels, the picture's width and height.
    """

    eye: Floats
    basis: Floats
    focal: float
    center: tuple[float, float]
    size: int

    def view(self, points: npt.ArrayLike) -> Floats:
        """Return points in the camera's frame (right, down, forward), float64 [N, 3]."""
        views: Floats = (np.asarray(points, dtype=np.float64) - self.eye) @ self.basis.T
        return views

    def scaled(self, factor: float) -> Camera:
        """Return the same view on a picture of ``factor`` times the size, rounded up."""
        x, y = self.center
        size = math.ceil(self.size * factor)
        return Camera(self.eye, self.basis, self.focal * factor, (x * factor, y * factor), size)


def look_at(
    points: npt.ArrayLike,
    size: int,
    *,
    around: float = 0.0,
    azimuth: float = 35.0,
    elevation: float = 20.0,
    whole_turn: bool = False,
) -> Camera:
    """Return a camera whose picture the points, float [N, 3], just fill.

    Args:
        around: what extends so far around every point, in its units, is in the picture too.
        azimuth: degrees about y; 0 looks at the front (+z), 90 at the right side (+x).
        elevation: degrees above the horizon.
        whole_turn: leave room for every azimuth, so that a turntable does not breathe.
    """
    points = np.asarray(points, dtype=np.float64)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = max(float(np.linalg.norm(points - middle, axis=1).max()) + around, 1e-6)
    basis = _basis(math.radians(azimuth), math.radians(elevation))
    distance = reach / math.sin(math.radians(FIELD_OF_VIEW / 2))
    camera = Camera(middle - distance * basis[2], basis, 1.0, (0.0, 0.0), size)
    usable = size * (1 - 2 * MARGIN)
    if whole_turn:
        focal = usable / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
        return Camera(camera.eye, basis, focal, (size / 2, size / 2), size)
    views = camera.view(points)
    plane = views[:, :2] / views[:, 2:]
    rim = around / distance
    low, high = plane.min(axis=0) - rim, plane.max(axis=0) + rim
    focal = usable / max(float((high - low).max()), 1e-9)
    x, y = (size / 2 - focal * (low + high) / 2).tolist()
    return Camera(camera.eye, basis, focal, (x, y), size)


def _basis(azimuth: float, elevation: float) -> Floats:
    c, s = math.cos(elevation), math.sin(elevation)
    towards = np.array([math.sin(azimuth) * c, s, math.cos(azimuth) * c])
    right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    down = np.cross(right, towards)
    return np.stack([right, down, -towards])


@dataclass(frozen=True, eq=False)
class Footprints:
    """Gaussians as they fall onto the picture.

    Attributes:
        xy: float64 [N, 2], centers in pixels.
        conics: float64 [N, 3], (a, b, c) of the exponent -(a dx^2 + 2 b dx dy + c dy^2) / 2.
        depths: float64 [N], distances along the forward axis.
        thickness: float64 [N], standard deviations along it.
        radii: float64 [N], three standard deviations of the widest direction, in pixels.
    """

    xy: Floats
    conics: Floats
    depths: Floats
    thickness: Floats
    radii: Floats


BLUR = 0.3  # pixels^2, as 3DGS adds so that nothing falls between pixels


def project(cloud: GaussianCloud, camera: Camera) -> Footprints:
    """Return the footprints of Gaussians by the local affine approximation (EWA, Zwicker 2001)."""
    views = camera.view(cloud.positions)
    depths = np.maximum(views[:, 2], 1e-6)
    scaled = camera.basis @ axes(cloud.quaternions) * cloud.sigmas[:, None, :]
    covariance = scaled @ np.swapaxes(scaled, 1, 2)
    jacobian = np.zeros((len(views), 2, 3))
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = camera.focal / depths
    jacobian[:, :, 2] = -camera.focal * views[:, :2] / (depths**2)[:, None]
    flat = jacobian @ covariance @ np.swapaxes(jacobian, 1, 2)
    xx, xy, yy = flat[:, 0, 0] + BLUR, flat[:, 0, 1], flat[:, 1, 1] + BLUR
    determinant = xx * yy - xy * xy
    widest = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
    return Footprints(
        camera.focal * views[:, :2] / depths[:, None] + camera.center,
        np.stack([yy, -xy, xx], axis=1) / determinant[:, None],
        depths,
        np.sqrt(covariance[:, 2, 2]),
        3 * np.sqrt(widest),
    )
