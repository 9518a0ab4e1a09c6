"""Footprints to picture planes: what of every Gaussian falls onto which pixel.

Two passes over the fragments, both in any order. The first finds the front surface of every pixel;
the second blends what lies at most a Gaussian's thickness behind it, and multiplies what everything
lets through. For opaque shapes this looks like sorted compositing, without its popping and without
sorting fragments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .camera import Footprints

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

CUT = 3.0  # standard deviations, as viewers cut
CHUNK = 1 << 20  # fragments at once


@dataclass(frozen=True, eq=False)
class Planes:
    """A picture before shading, all [H, W] or [H, W, K].

    Attributes:
        cover: what part of the background is hidden, 0..1.
        depth: of the front surface, blended; infinite where there is nothing.
        values: the attributes given, blended over the front surface.
    """

    cover: Floats
    depth: Floats
    values: Floats


def rasterize(
    prints: Footprints,
    alphas: npt.NDArray[np.floating],
    values: npt.NDArray[np.floating],
    size: int,
) -> Planes:
    """Blend ``values``, float [N, K], over the front surface of every pixel."""
    front = np.full(size * size, np.inf, dtype=np.float32)
    for index, pixel, square in _fragments(prints, size):
        np.minimum.at(front, pixel, _depth(prints, index, square))
    through = np.zeros(size * size)
    weights = np.zeros(size * size)
    sums = np.zeros((values.shape[1] + 1, size * size))
    for index, pixel, square in _fragments(prints, size):
        alpha = np.minimum(alphas[index] * np.exp(-0.5 * square), 0.999)
        through += np.bincount(pixel, np.log1p(-alpha), size * size)
        depth = _depth(prints, index, square)
        behind = (depth - front[pixel]) / prints.thickness[index]
        visible = behind < CUT
        index, pixel, depth = index[visible], pixel[visible], depth[visible]
        weight = alpha[visible] * np.exp(-0.5 * behind[visible] ** 2)
        weights += np.bincount(pixel, weight, size * size)
        for k in range(values.shape[1]):
            sums[k] += np.bincount(pixel, weight * values[index, k], size * size)
        sums[-1] += np.bincount(pixel, weight * depth, size * size)
    empty = weights <= 0
    blended = sums / np.where(empty, 1, weights)
    depth_plane = np.where(empty, np.inf, blended[-1])
    return Planes(
        (1 - np.exp(through)).reshape(size, size).astype(np.float32),
        depth_plane.reshape(size, size).astype(np.float32),
        blended[:-1].T.reshape(size, size, -1).astype(np.float32),
    )


def _depth(prints: Footprints, index: Ints, square: Floats) -> Floats:
    """Return the depth of a fragment, bent back towards the rim as an ellipsoid's surface is."""
    bent = prints.depths[index] + 0.5 * prints.thickness[index] * square
    return bent.astype(np.float32)


def _fragments(prints: Footprints, size: int) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Yield (Gaussian, pixel, squared distance in standard deviations), in chunks.

    Gaussians of about the same size share one square of pixels, so that a chunk is one array.
    """
    reach = np.minimum(np.ceil(prints.radii * (CUT / 3)), size).astype(np.int64)
    reach = np.where(reach > 8, 2 ** np.ceil(np.log2(reach)).astype(np.int64), reach)
    for r in np.unique(reach):
        members = np.flatnonzero(reach == r)
        step = np.arange(-r, r + 1)
        dy, dx = (v.ravel() for v in np.meshgrid(step, step, indexing="ij"))
        per_chunk = max(1, CHUNK // len(dx))
        for start in range(0, len(members), per_chunk):
            yield from _of(prints, members[start : start + per_chunk], dx, dy, size)


def _of(
    prints: Footprints, index: Ints, dx: Ints, dy: Ints, size: int
) -> Iterator[tuple[Ints, Ints, Floats]]:
    center = np.floor(prints.xy[index]).astype(np.int64)
    rest = (prints.xy[index] - center - 0.5).astype(np.float32)
    u = dx.astype(np.float32) - rest[:, :1]
    v = dy.astype(np.float32) - rest[:, 1:]
    a, b, c = (prints.conics[index, k, None].astype(np.float32) for k in range(3))
    square = a * u * u + 2 * b * u * v + c * v * v
    x, y = center[:, :1] + dx, center[:, 1:] + dy
    visible = (square < CUT * CUT) & (x >= 0) & (x < size) & (y >= 0) & (y < size)
    which = np.nonzero(visible)[0]
    yield index[which], (y * size + x)[visible], square[visible]
