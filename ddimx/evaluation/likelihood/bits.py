"""Images as numbers whose likelihood is asked for: levels, bins, bits, and the keyed draws.

An 8-bit level is an interval of the network's range. The discrete likelihood is that of the
interval; a continuous density is measured on a point drawn uniformly from it, which gives an upper
bound of the discrete bits (Theis et al., arXiv 1511.01844, section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...config import DataConfig
from ...errors import UsageError
from ...noise import Noise, Stream

Array = npt.NDArray[np.float64]

# Rows of Stream.EVALUATE: below 2^31 the noise of the bound's timestep t, from there on these.
DEQUANTIZE_ROW, STRATUM_ROW, PROBE_ROW = 2**31, 2**31 + 1, 2**31 + 2
LEVELS = 256


@dataclass(frozen=True, eq=False)
class Levels:
    """A batch of 8-bit images in the network's range.

    Attributes:
        center: float64 [B, C, H, W], the middle of each pixel's bin.
        half: half the width of a bin.
        lowest, highest: bool [B, C, H, W], pixels of level 0 and 255, whose bins have no end.
    """

    center: Tensor
    half: float
    lowest: Tensor
    highest: Tensor

    @property
    def bits_of_bin(self) -> float:
        """log2 of a bin's width: what a density's bits differ by from the interval's."""
        return math.log2(2 * self.half)


def levels(pixels: Tensor, data: DataConfig) -> Levels:
    """Place uint8 pixels [B, H, W, C] in the network's range.

    Raises:
        UsageError: a range that is not a linear map of the levels.
    """
    if data.logit_transform:
        raise UsageError("the likelihood of data.logit_transform is not measured")
    level = pixels.permute(0, 3, 1, 2)
    # As pixels.to_network, but in float64, so that neighboring bins share their edge.
    count, shift = (LEVELS, 0.5) if data.uniform_dequantization else (LEVELS - 1, 0.0)
    unit = (level.to(torch.float64) + shift) / count
    center, half = (2 * unit - 1, 1 / count) if data.rescaled else (unit, 0.5 / count)
    return Levels(center, half, level == 0, level == LEVELS - 1)


def dequantized(batch: Levels, noise: Noise, images: Tensor) -> Tensor:
    """Return a point of every pixel's bin, float64 [B, C, H, W], a function of seed and image."""
    shape = tuple(batch.center.shape[1:])
    u = noise.uniform(images, shape, row=DEQUANTIZE_ROW, stream=Stream.EVALUATE)
    return batch.center + (2.0 * u.to(torch.float64) - 1.0) * batch.half


def rademacher(noise: Noise, images: Tensor, shape: tuple[int, ...], probe: int) -> Tensor:
    """Return signs, float32 [B, *shape], of the ``probe``-th estimate of a trace."""
    row = PROBE_ROW + probe
    bits = noise.integers(images, shape, 2, row=row, stream=Stream.EVALUATE)
    return 2.0 * bits.to(torch.float32) - 1.0


@dataclass(frozen=True)
class MeanWithError:
    """A mean over images and the standard error of it (NaN-free: 0 for a single image)."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Array) -> MeanWithError:
        """Return the figure of float64 [N], N at least 1."""
        n = len(values)
        error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
        return cls(float(values.mean()), error)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.standard_error:.3f}"
