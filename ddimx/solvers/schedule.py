"""Noise schedules: beta_t, alpha_bar(t) for real-valued t, and what a network is given of them.

Notation of DDIM (arXiv 2010.02502), written as DDPM's alpha_bar: ``alpha_bar(t) = prod_{i<=t}
(1 - beta_i)`` with 0-based t, and ``alpha_bar(-1) = 1`` is clean data. Everything is float64 NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import DiffusionConfig, Prediction
from ..errors import UsageError, unknown
from .parametrization import output_coefficients

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]

CLEAN = -1.0  # the time of clean data


def _cosine(start: float, end: float, steps: int) -> Array:
    """Improved DDPM's cosine schedule (arXiv 2102.09672, equation 17), betas at most 0.999."""
    t = np.arange(steps + 1, dtype=np.float64) / steps
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: Array = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return betas


def _sigmoid(start: float, end: float, steps: int) -> Array:
    return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))


def _quad(start: float, end: float, steps: int) -> Array:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


_BETAS: dict[str, Any] = {
    "linear": np.linspace,
    "quad": _quad,
    "scaled-linear": _quad,  # latent diffusion's name for the same curve
    "const": lambda start, end, steps: np.full(steps, end, dtype=np.float64),
    "jsd": lambda start, end, steps: 1.0 / np.linspace(steps, 1, steps),
    "sigmoid": _sigmoid,
    "cosine": _cosine,
}


def betas(name: str, start: float, end: float, steps: int) -> Array:
    """Return beta_0 .. beta_{steps-1}, float64 [steps].

    ``linear quad const jsd sigmoid`` are ermongroup/ddim's; ``cosine`` ignores start and end, as
    ``jsd`` does. ``scaled-linear`` is another name for ``quad``.

    Raises:
        UsageError: an unknown schedule.
    """
    key = name.replace("_", "-")
    if key not in _BETAS:
        raise unknown("beta schedule", name, _BETAS)
    table: Array = np.asarray(_BETAS[key](start, end, steps), dtype=np.float64)
    return table


def zero_terminal_snr(betas: Array) -> Array:
    """Return the betas changed so that alpha_bar ends at 0, float64 [T]: arXiv 2305.08891, alg. 1.

    sqrt(alpha_bar) is shifted and scaled so that its first value stays and its last one is 0.
    The last beta becomes 1.
    """
    signal = np.sqrt(np.cumprod(1.0 - betas))
    signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    alpha_bar = np.concatenate([[1.0], signal**2])
    new_betas: Array = 1.0 - alpha_bar[1:] / alpha_bar[:-1]
    return new_betas


@dataclass(frozen=True, eq=False)
class Schedule:
    """A forward process with ``T`` discrete steps, and what its network is given.

    Attributes:
        betas: float64 [T], each in (0, 1].
        time_scale: the network's time is this multiple of the process's own.
    """

    betas: Array
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.betas.ndim != 1 or not len(self.betas):
            raise ValueError("betas must be a non-empty vector")
        if not ((self.betas > 0) & (self.betas <= 1)).all():
            raise UsageError("a noise schedule whose betas leave (0, 1]: change diffusion.beta_*")

    @classmethod
    def from_config(cls, config: DiffusionConfig) -> Schedule:
        """Build the schedule of the betas that a configuration describes.

        :func:`ddimx.solvers.continuous.schedule_of` also knows those that have no such betas.
        """
        table: Array
        if config.trained_betas is None:
            steps = config.num_diffusion_timesteps
            table = betas(config.beta_schedule, config.beta_start, config.beta_end, steps)
        else:
            table = np.asarray(config.trained_betas, dtype=np.float64)
        if config.zero_terminal_snr:
            table = zero_terminal_snr(table)
        return cls(table, 1.0 if config.time_scale is None else config.time_scale)

    @property
    def num_timesteps(self) -> int:
        """T, the number of discrete steps; times run from -1 (clean) to T - 1."""
        return len(self.betas)

    @cached_property
    def alpha_bars(self) -> Array:
        """alpha_bar at t = -1, 0, ..., T - 1: float64 [T + 1], the first entry 1."""
        return np.concatenate([[1.0], np.cumprod(1.0 - self.betas)])

    def alpha_bar(self, t: npt.ArrayLike) -> Array:
        """Return alpha_bar at real-valued times in [-1, T - 1], float64 of t's shape.

        Between integers log alpha_bar is linear: beta is constant within a step, which is the
        continuous-time process that the discrete one samples. A last step with beta = 1 (zero
        terminal SNR) has no logarithm; there alpha_bar itself is linear.

        Raises:
            ValueError: a time outside [-1, T - 1].
        """
        time = np.asarray(t, dtype=np.float64)
        if not ((time >= CLEAN) & (time <= self.num_timesteps - 1)).all():
            raise ValueError(f"t must lie in [-1, {self.num_timesteps - 1}], got {time.tolist()}")
        table = self.alpha_bars
        low = np.minimum(np.floor(time).astype(np.int64), self.num_timesteps - 2) + 1
        share = time + 1 - low
        start, end = table[low], table[low + 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            geometric = start ** (1 - share) * end**share
        value = np.where(end > 0, geometric, start * (1 - share))
        # At integer times the table itself, free of the rounding of powers.
        exact: Array = np.where(share == 0, start, np.where(share == 1, end, value))
        return exact

    def time_of(self, alpha_bar: float) -> float:
        """Return t in [0, T - 1] with that alpha_bar, the nearest end for one beyond the table."""
        table = self.alpha_bars[1:]
        ab = float(np.clip(alpha_bar, table[-1], table[0]))
        low = int(np.clip(np.searchsorted(-table, -ab, side="right") - 1, 0, len(table) - 2))
        start, end = float(table[low]), float(table[low + 1])
        share = math.log(start / ab) / math.log(start / end) if end > 0 else 1 - ab / start
        return float(np.clip(low + share, 0, len(table) - 1))

    def training_times(self, drawn: npt.NDArray[np.int64]) -> Array:
        """Return the times to train at, float64 [B], for whole numbers drawn evenly in 0..T-1."""
        return drawn.astype(np.float64)

    def output_coefficients(self, alpha_bar: Array, prediction: Prediction) -> tuple[Array, ...]:
        """Return r, s, u, v of a network of this process, float64 [n]; alpha_bar float64 [n].

        Raises:
            UsageError: as :func:`ddimx.solvers.parametrization.output_coefficients`.
        """
        return output_coefficients(alpha_bar, prediction)

    def network_target(
        self, prediction: Prediction, x0: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor
    ) -> Tensor:
        """Return what a network is to say of x0 and the noise on it, float32 [B, ...].

        ``signal`` and ``sigma``, [B, 1, ...], are the weights of x0 and the noise in the state.
        """
        targets = {"epsilon": noise, "x0": x0, "v": signal * noise - sigma * x0}
        return targets[prediction]

    def network_time(self, t: Tensor) -> Tensor:
        """Return what the network is given as its time, float32 [B], at times t [B]."""
        return t if self.time_scale == 1.0 else t * self.time_scale

    def input_scale(self, t: Tensor) -> Tensor | None:
        """Return by what the network's input is larger than the state, float32 [B]; None: by 1."""
        return None
