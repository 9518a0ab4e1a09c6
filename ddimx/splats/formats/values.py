"""How formats store what a cloud holds: the conversions that several of them share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

C0 = 0.28209479177387814  # the spherical harmonic of degree 0, 1 / (2 sqrt(pi))
CLAMP = 1e-6  # alphas are kept so far from 0 and 1 that their logits stay within 13.9


def harmonic0(colors: npt.ArrayLike) -> Floats:
    """Return the coefficients of degree 0 of colors [N, 3] in [0, 1]: (c - 0.5) / C0."""
    return (np.asarray(colors, dtype=np.float64) - 0.5) / C0


def logit(alphas: npt.ArrayLike) -> Floats:
    """Return ln(a / (1 - a)) of alphas [N], clamped so that it is finite."""
    a = np.clip(np.asarray(alphas, dtype=np.float64), CLAMP, 1 - CLAMP)
    return np.log(a) - np.log1p(-a)


def byte(values: npt.ArrayLike) -> Bytes:
    """Round values [...] to the nearest of 0..255, uint8; halves go up."""
    whole = np.floor(np.asarray(values, dtype=np.float64) + 0.5)
    return np.clip(whole, 0, 255).astype(np.uint8)


def linear(srgb: npt.ArrayLike) -> Floats:
    """Return linear light of sRGB values in [0, 1] (IEC 61966-2-1)."""
    c = np.asarray(srgb, dtype=np.float64)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
