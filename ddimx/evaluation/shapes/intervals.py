"""Figures with 95% intervals: how far they would move with other shapes of the same kind.

Shares are given Wilson's score interval, which has width also where all shapes agree (16 valid of
16 is not "100% for certain"); a bootstrap of such shares has none. The formula stands here because
SciPy's (``binomtest``) takes whole counts alone, and 1-NNA needs fractional ones. Means of overlaps
and of component shares, whose distribution is not known, are bootstrapped over shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...noise import Noise, Stream

Z = 1.959963984540054  # of the normal distribution, 2.5% lie above
RESAMPLES = 2000


@dataclass(frozen=True)
class Figure:
    """A measured value and the bounds of its 95% interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(share: float, count: float) -> Figure:
    """Return a share of ``count`` independent observations with Wilson's score interval.

    ``count`` may be fractional where observations are worth less than one.
    """
    if not 0.0 <= share <= 1.0 or count <= 0:
        raise ValueError(f"a share of {share} among {count}")
    center = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    spread = math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    half = Z / (1 + Z * Z / count) * spread
    return Figure(share, max(0.0, min(center - half, share)), min(1.0, max(center + half, share)))


def share_of(flags: npt.ArrayLike) -> Figure:
    """Return the share of true values with Wilson's interval; needs at least one."""
    values = np.asarray(flags, dtype=np.float64)
    return wilson(float(values.mean()), len(values))


def bootstrap(values: npt.ArrayLike, seed: int = 0) -> Figure:
    """Return a mean with the 2.5% and 97.5% percentiles of the means of resampled values.

    The draw is keyed by ``seed``. Sorted first, so that the order of shapes does not enter.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    choices = Noise(seed).integers(
        range(RESAMPLES), (len(ordered),), len(ordered), stream=Stream.BOOTSTRAP
    )
    means = ordered[choices.numpy()].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Figure(float(ordered.mean()), float(low), float(high))


def mean_of(figures: list[Figure]) -> Figure:
    """Return the mean of figures of several point seeds: value by value, bound by bound."""
    rows = np.array([(f.value, f.low, f.high) for f in figures])
    value, low, high = rows.mean(axis=0).tolist()
    return Figure(value, low, high)
