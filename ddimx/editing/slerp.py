"""Spherical interpolation between states, without a case in which it divides by zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNED = 1e-7  # below this share of its length a vector's other part has no direction


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return the point at ``weight`` in [0, 1] on the way from a to b, of their shape and dtype.

    The direction turns evenly from a's to b's in their plane, and the length goes evenly from
    a's to b's, so that between two draws of noise every point is as long as noise is. Opposite
    ends span no plane; the way then leads through a direction that is chosen from ``a`` alone.
    The ends are returned as they are. Computed in float64.

    Raises:
        ValueError: shapes that differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"cannot interpolate between shapes {tuple(a.shape)}, {tuple(b.shape)}")
    if weight in (0, 1):
        return (a if weight == 0 else b).clone()
    x, y = a.flatten().double(), b.flatten().double()
    length_x, length_y = x.norm(), y.norm()
    if length_x == 0 or length_y == 0:
        return _like(a, (1 - weight) * x + weight * y)
    u, v = x / length_x, y / length_y
    across = v - (u @ v) * u
    across = across / across.norm() if across.norm() > ALIGNED else _perpendicular(u)
    # As Kahan has it: exact near 0 and near pi, where an arc cosine is not.
    angle = weight * 2 * torch.atan2((u - v).norm(), (u + v).norm())
    direction = torch.cos(angle) * u + torch.sin(angle) * across
    length = (1 - weight) * length_x + weight * length_y
    return _like(a, length * direction)


def _like(state: Tensor, flat: Tensor) -> Tensor:
    return flat.to(state.dtype).view(state.shape)


def _perpendicular(u: Tensor) -> Tensor:
    """Return a unit vector at right angles to the unit vector ``u`` [n], for n > 1."""
    axis = torch.zeros_like(u)
    axis[u.abs().argmin()] = 1
    across = axis - (u @ axis) * u
    unit: Tensor = across / across.norm()
    return unit


def row(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """Return ``frames`` >= 2 states from a to b, [frames, ...]."""
    return torch.stack([slerp(a, b, i / (frames - 1)) for i in range(frames)])


def square(corners: Sequence[Tensor], frames: int) -> Tensor:
    """Return frames x frames states between four corners, row by row, [frames^2, ...].

    The corners are upper left, upper right, lower left and lower right.
    """
    left, right = row(corners[0], corners[2], frames), row(corners[1], corners[3], frames)
    return torch.cat([row(left[i], right[i], frames) for i in range(frames)])
