"""The variational bound of a discrete Gaussian diffusion (Ho et al., arXiv 2006.11239, eq. 5).

    L = KL(q(x_T | x_0) || N(0, 1)) + sum_t KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) + L_0

With a fixed variance sigma_t^2 of p, a middle term is
``(log(s/q) + q/s - 1) / 2`` per dimension, with s = sigma_t^2 and q the posterior's variance, plus
``(x0's weight)^2 ||x0 - prediction||^2 / (2 s)``. L_0 is the Gaussian's mass on the pixel's bin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...noise import Noise, Stream
from ...solvers.ddpm import Variance
from ...solvers.schedule import Schedule
from .bits import STRATUM_ROW, Array, Levels

PredictX0 = Callable[[Tensor, Tensor], Tensor]
"""From states [B, ...] at times [B] to x0; all float64, on the CPU."""


@dataclass(frozen=True, eq=False)
class Weights:
    """The coefficients of the middle terms, float64 [T] by time t; t = 0 is the decoder's.

    Attributes:
        error: of ||x0 - prediction||^2.
        constant: per dimension, what the two variances differ by.
        decoder_variance: of p(x_0 | x_1), the posterior's at t = 1 as in DDPM's code.
    """

    error: Array
    constant: Array
    decoder_variance: float


def weights(schedule: Schedule, variance: Variance) -> Weights:
    """Return the coefficients for sigma_t^2 = beta_t (large) or the posterior's (small)."""
    now, previous, beta = schedule.alpha_bars[1:], schedule.alpha_bars[:-1], schedule.betas
    posterior = beta * (1 - previous) / (1 - now)
    posterior[0] = 1.0  # t = 0 has no middle term; 1 keeps its logarithm finite
    variances = beta if variance == "large" else posterior
    error = previous * (beta / (1 - now)) ** 2 / (2 * variances)
    constant = 0.5 * (np.log(variances / posterior) + posterior / variances - 1)
    error[0] = constant[0] = 0.0
    decoder = float(posterior[1]) if len(beta) > 1 else float(beta[0])
    return Weights(error, constant, decoder)


def strata(num_timesteps: int, terms: int) -> Array:
    """Return edges [K + 1] that part the middle times 1..T-1 into K strata, K <= ``terms``.

    Stratum k holds the times edges[k] .. edges[k+1]-1. They widen quadratically, for the terms at
    small t are large and vary most; as many strata as times means that each has one.
    """
    last = num_timesteps
    if terms >= last - 1:
        return np.arange(1, last + 1, dtype=np.float64)
    edges = np.floor(1 + (last - 1) * (np.arange(terms + 1) / terms) ** 2)
    for k in range(1, terms + 1):  # no stratum is empty
        edges[k] = max(edges[k], edges[k - 1] + 1)
    return edges


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound's parts in nats per image, float64 [B]: prior + middle + decoder."""

    prior: Array
    middle: Array
    decoder: Array

    @property
    def total(self) -> Array:
        """The bound in nats, float64 [B]."""
        return self.prior + self.middle + self.decoder


def variational_bound(
    predict: PredictX0,
    schedule: Schedule,
    batch: Levels,
    noise: Noise,
    images: Tensor,
    *,
    variance: Variance = "large",
    terms: int = 10**9,
    clip: float | None = None,
    after_term: Callable[[int], None] | None = None,
) -> Bound:
    """Return the bound for a batch; ``images`` int64 [B] name them, for their noise.

    With fewer ``terms`` than T - 1, one time is drawn from each stratum and weighted by the
    stratum's size: an unbiased estimate. The prior's and the decoder's terms are always there.
    ``after_term`` is called with the batch's size after each network call.
    """
    terms_weights, count = weights(schedule, variance), len(batch.center)

    def at(t: Tensor) -> Tensor:
        x0 = predict(noisy_state(schedule, batch.center, noise, images, t), t.to(torch.float64))
        if after_term is not None:
            after_term(count)
        return x0 if clip is None else x0.clamp(-clip, clip)

    middle = np.zeros(count)
    edges = strata(schedule.num_timesteps, terms).astype(np.int64)
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        t = _drawn(noise, images, k, int(low), int(high))
        middle += (high - low) * middle_term(terms_weights, batch.center, at(t), t.numpy())
    decoder = -discretized_log_likelihood(
        batch, at(torch.zeros(count, dtype=torch.int64)), terms_weights.decoder_variance
    )
    return Bound(prior_term(schedule, batch.center), middle, decoder)


def noisy_state(schedule: Schedule, x0: Tensor, noise: Noise, images: Tensor, t: Tensor) -> Tensor:
    """Draw x_t of each image at its own time int64 [B]: float64 [B, ...]."""
    z = noise.normal(images, tuple(x0.shape[1:]), row=t, stream=Stream.EVALUATE)
    ab = torch.from_numpy(schedule.alpha_bars[1:])[t].view(-1, *(1 for _ in x0.shape[1:]))
    return ab.sqrt() * x0 + (1 - ab).sqrt() * z.to(torch.float64)


def middle_term(of: Weights, x0: Tensor, predicted: Tensor, t: np.ndarray) -> Array:
    """Return KL(q(x_{t-1} | x_t, x_0) || p) in nats, float64 [B], for times 1..T-1."""
    squared = (x0 - predicted).square().flatten(1).sum(dim=1).numpy()
    result: Array = of.error[t] * squared + of.constant[t] * x0[0].numel()
    return result


def prior_term(schedule: Schedule, x0: Tensor) -> Array:
    """Return KL(q(x_T | x_0) || N(0, 1)) in nats, float64 [B]."""
    ab = float(schedule.alpha_bars[-1])
    squared = x0.square().flatten(1).sum(dim=1).numpy()
    result: Array = 0.5 * (ab * squared - x0[0].numel() * (ab + math.log1p(-ab)))
    return result


def discretized_log_likelihood(batch: Levels, mean: Tensor, variance: float) -> Array:
    """Return the log of a Gaussian's mass on the bins, nats, float64 [B] (DDPM, equation 13).

    The bins of level 0 and 255 reach to infinity. The mass is a difference of two values of the
    normal distribution function, taken in the tail where both are small, so that no floor is
    needed.
    """
    deviation = math.sqrt(variance)
    low = (batch.center - batch.half - mean) / deviation
    high = (batch.center + batch.half - mean) / deviation
    low = torch.where(batch.lowest, -math.inf, low)
    high = torch.where(batch.highest, math.inf, high)
    is_above = low > 0  # mirrored into the lower tail
    low, high = torch.where(is_above, -high, low), torch.where(is_above, -low, high)
    upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    mass = upper + torch.log(-torch.expm1(lower - upper))
    total: Array = mass.flatten(1).sum(dim=1).numpy()
    return total


def _drawn(noise: Noise, images: Tensor, stratum: int, low: int, high: int) -> Tensor:
    """Draw each image's time from a stratum, int64 [B]."""
    if high - low == 1:
        return torch.full((len(images),), low, dtype=torch.int64)
    # One draw of many elements: an element of its own for every stratum.
    steps = noise.integers(
        images, (stratum + 1,), high - low, row=STRATUM_ROW, stream=Stream.EVALUATE
    )
    return low + steps[:, stratum]
