"""From planes of color, normal and depth to a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .camera import Camera
from .raster import Planes

Floats = npt.NDArray[np.float64]

KEY_LIGHT = (-0.45, -0.75, -0.5)  # from the left, above and the viewer's side: right, down, forward
SKY, FILL, KEY = 0.32, 0.30, 0.50  # shares of light from everywhere, from above, from the lamp
DARKEST = 0.45  # what occlusion may take
WHITE = 255


def shaded(
    planes: Planes, camera: Camera, ground: Floats, finer: int, lamp: float = 1.0
) -> npt.NDArray[np.uint8]:
    """Light the planes and average squares of ``finer`` pixels: uint8 [size / finer, ., 3].

    Args:
        planes: ``values`` are color and normal, [H, W, 6], the normal in the camera's frame.
        lamp: 0 shows the colors as they are, but for the occlusion; 1 lights them in full.
        ground: what shows where nothing covers it, [H, W], 1 is white.
    """
    normals = planes.values[..., 3:].astype(np.float64)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    up = camera.basis @ np.array([0.0, 1.0, 0.0])
    key = np.array(KEY_LIGHT) / np.linalg.norm(KEY_LIGHT)
    light = SKY + FILL * (0.5 + 0.5 * normals @ up) + KEY * np.clip(normals @ key, 0, 1)
    light = 1 + lamp * (light - 1)
    light *= 1 - occlusion(planes.depth, camera.size)
    cover = planes.cover[..., None].astype(np.float64)
    picture = planes.values[..., :3] * light[..., None] * cover + ground[..., None] * (1 - cover)
    size = len(picture) // finer
    picture = picture.reshape(size, finer, size, finer, 3).mean(axis=(1, 3))
    result: npt.NDArray[np.uint8] = np.clip(picture * WHITE + 0.5, 0, WHITE).astype(np.uint8)
    return result


def occlusion(depth: npt.NDArray[np.float32], size: int) -> Floats:
    """Return how much darker a pixel is for lying behind its surroundings, [H, W] in 0..DARKEST.

    Unsharp masking of the depth buffer (Luft, Colditz and Deussen 2006).
    """
    covered = np.isfinite(depth)
    if not covered.any():
        return np.zeros(depth.shape)
    near, far = depth[covered].min(), depth[covered].max()
    unit = np.where(covered, (depth - near) / max(float(far - near), 1e-9), 1.0)
    result = np.zeros(unit.shape)
    for share, weight in ((0.01, 0.9), (0.04, 0.6)):
        behind = unit - blurred(unit, max(1, round(share * size)))
        result += weight * np.maximum(behind, 0)
    return np.minimum(result, DARKEST)


def blurred(plane: Floats, radius: int) -> Floats:
    """Blur [H, W] by two box filters of width 2 radius + 1 in each direction, the edge repeated."""
    width = 2 * radius + 1
    for axis in (0, 1, 0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        sums = np.moveaxis(np.cumsum(np.pad(plane, pad, mode="edge"), axis=axis), axis, 0)
        plane = np.moveaxis(sums[width:] - sums[:-width], 0, axis) / width
    return plane


def enlarged(plane: Floats, factor: int, size: int) -> Floats:
    """Repeat every pixel of [H, W] ``factor`` times in both directions and cut to ``size``^2."""
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)[:size, :size]
