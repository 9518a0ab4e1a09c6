"""The processes of rectified flow and of EDM, whose noise levels are functions of a real time.

Both are brought to this package's form: a state of unit variance, times from -1 (clean) to T - 1,
alpha_bar at each. Then every solver, inpainting, inversion and the likelihood serve them as they
are; only the network is given another multiple of the state and another time
(:meth:`Schedule.input_scale`, :meth:`Schedule.network_time`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import DiffusionConfig, Prediction
from .parametrization import SIGMA_DATA, output_coefficients
from .schedule import CLEAN, Array, Schedule

if TYPE_CHECKING:
    from torch import Tensor

FLOW_TIME_SCALE = 1000.0  # as in diffusers' FlowMatchEulerDiscreteScheduler
EDM_P_MEAN, EDM_P_STD = -1.2, 1.2  # of ln(sigma) in training (arXiv 2206.00364, table 1)


@dataclass(frozen=True, eq=False)
class ContinuousSchedule(Schedule):
    """A process given by :meth:`alpha_bar` in closed form; ``betas`` are those of whole times.

    Attributes:
        p_mean, p_std: where they are given, ln(sigma / alpha) of a training example is normal
            with this mean and standard deviation; else training times are even.
    """

    p_mean: float | None = None
    p_std: float | None = None

    @cached_property
    def alpha_bars(self) -> Array:
        """alpha_bar at t = -1, 0, ..., T - 1: float64 [T + 1], the first entry 1."""
        return self.alpha_bar(np.arange(-1, self.num_timesteps))

    def _checked(self, t: npt.ArrayLike) -> Array:
        time = np.asarray(t, dtype=np.float64)
        if not ((time >= CLEAN) & (time <= self.num_timesteps - 1)).all():
            raise ValueError(f"t must lie in [-1, {self.num_timesteps - 1}], got {time.tolist()}")
        return time

    def training_times(self, drawn: npt.NDArray[np.int64]) -> Array:
        """Return the times to train at, float64 [B]: even, or at quantiles of a log-normal sigma.

        The T whole numbers that are drawn stand for the middles of T equal shares.
        """
        if self.p_mean is None or self.p_std is None:
            return drawn.astype(np.float64)
        law = NormalDist(self.p_mean, self.p_std)
        shares = ((drawn + 0.5) / self.num_timesteps).tolist()
        squares = np.exp([2 * law.inv_cdf(share) for share in shares])
        return np.array([self.time_of(1 / (1 + square)) for square in squares])


@dataclass(frozen=True, eq=False)
class FlowSchedule(ContinuousSchedule):
    """Rectified flow: z = (1 - tau) x0 + tau eps (arXiv 2209.03003; shifted: 2403.03206, eq. 23).

    Time t stands for u = (t + 1) / T and tau = shift u / (1 + (shift - 1) u), so that the last
    time is pure noise. The network is given z and ``time_scale`` times tau.

    Attributes:
        shift: above 1 visits more of the noisy times.
        toward_data: whether the network's own time runs from noise (0) to data (1), and its
            velocity is x0 - eps.
    """

    shift: float = 1.0
    toward_data: bool = False

    @classmethod
    def of(cls, steps: int, shift: float = 1.0, **fields: Any) -> FlowSchedule:
        """Return the flow of ``steps`` times; ``fields`` are the other attributes."""
        fields = {"time_scale": FLOW_TIME_SCALE, "shift": shift, **fields}
        return cls(_betas(_flow_alpha_bar(_tau(np.arange(-1.0, steps), steps, shift))), **fields)

    def alpha_bar(self, t: npt.ArrayLike) -> Array:
        """Return alpha_bar at real-valued times in [-1, T - 1], float64 of t's shape."""
        return _flow_alpha_bar(_tau(self._checked(t), self.num_timesteps, self.shift))

    def time_of(self, alpha_bar: float) -> float:
        """Return t in [0, T - 1] with that alpha_bar, the nearer end for one beyond."""
        signal, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        tau = sigma / (signal + sigma)
        u = tau / (self.shift - (self.shift - 1) * tau)
        return min(max(u * self.num_timesteps - 1, 0.0), self.num_timesteps - 1.0)

    def output_coefficients(self, alpha_bar: Array, prediction: Prediction) -> tuple[Array, ...]:
        """Return r, s, u, v of a network of this process, float64 [n]; alpha_bar float64 [n]."""
        return output_coefficients(alpha_bar, prediction, toward_data=self.toward_data)

    def network_target(
        self, prediction: Prediction, x0: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor
    ) -> Tensor:
        """Return the velocity, or what another prediction asks for, float32 [B, ...]."""
        if prediction != "flow":
            return super().network_target(prediction, x0, noise, signal, sigma)
        return x0 - noise if self.toward_data else noise - x0

    def network_time(self, t: Tensor) -> Tensor:
        """Return time_scale times tau, or times 1 - tau for a network that runs toward data."""
        tau = _tau(t, self.num_timesteps, self.shift)
        time: Tensor = (1 - tau if self.toward_data else tau) * self.time_scale
        return time

    def input_scale(self, t: Tensor) -> Tensor:
        """Return |(1 - tau, tau)|, the standard deviation of z for data of unit variance."""
        tau = _tau(t, self.num_timesteps, self.shift)
        scale: Tensor = ((1 - tau) ** 2 + tau**2) ** 0.5
        return scale


@dataclass(frozen=True, eq=False)
class EdmSchedule(ContinuousSchedule):
    """EDM's process z = x0 + sigma eps (arXiv 2206.00364) over its own noise levels.

    Time t in [0, T - 1] stands for sigma = (low + t / (T - 1) (high - low))^rho, with low and high
    the rho-th roots of sigma_min and sigma_max (equation 5, upwards); below 0 sigma falls linearly
    to 0. The network is given c_in z and ``time_scale`` times ln(sigma) / 4.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = SIGMA_DATA

    @classmethod
    def of(
        cls,
        steps: int,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        **fields: Any,
    ) -> EdmSchedule:
        """Return the process of ``steps`` noise levels; ``fields`` are the other attributes.

        Raises:
            ValueError: fewer than two levels, or a sigma_max that is not above sigma_min.
        """
        if steps < 2 or not sigma_min < sigma_max:
            raise ValueError(f"{steps} levels of sigma from {sigma_min:g} to {sigma_max:g}")
        fields = {"p_mean": EDM_P_MEAN, "p_std": EDM_P_STD, **fields}
        whole = np.arange(-1.0, steps)
        table = _betas(1 / (1 + _sigma(whole, steps, sigma_min, sigma_max, rho) ** 2))
        return cls(table, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, **fields)

    def sigma(self, t: Any) -> Any:
        """Return sigma at times in [-1, T - 1], an array or tensor of t's shape."""
        return _sigma(t, self.num_timesteps, self.sigma_min, self.sigma_max, self.rho)

    def alpha_bar(self, t: npt.ArrayLike) -> Array:
        """Return alpha_bar = 1 / (1 + sigma^2) at real-valued times in [-1, T - 1], float64."""
        value: Array = 1 / (1 + self.sigma(self._checked(t)) ** 2)
        return value

    def time_of(self, alpha_bar: float) -> float:
        """Return t in [0, T - 1] with that alpha_bar, the nearer end for one beyond."""
        sigma = math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar > 0 else math.inf
        sigma = min(max(sigma, self.sigma_min), self.sigma_max)
        low, high, root = np.array([self.sigma_min, self.sigma_max, sigma]) ** (1 / self.rho)
        return float(np.clip((root - low) / (high - low), 0, 1) * (self.num_timesteps - 1))

    def output_coefficients(self, alpha_bar: Array, prediction: Prediction) -> tuple[Array, ...]:
        """Return r, s, u, v of a network of this process, float64 [n]; alpha_bar float64 [n]."""
        return output_coefficients(alpha_bar, prediction, sigma_data=self.sigma_data)

    def network_target(
        self, prediction: Prediction, x0: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor
    ) -> Tensor:
        """Return (x0 - c_skip z) / c_out, or what another prediction asks for, float32 [B, ...]."""
        if prediction != "edm":
            return super().network_target(prediction, x0, noise, signal, sigma)
        data = self.sigma_data * signal
        target: Tensor = (sigma / self.sigma_data * x0 - data * noise) / (sigma**2 + data**2) ** 0.5
        return target

    def network_time(self, t: Tensor) -> Tensor:
        """Return time_scale times c_noise = ln(sigma) / 4."""
        time: Tensor = self.sigma(t).log() * (self.time_scale / 4)
        return time

    def input_scale(self, t: Tensor) -> Tensor:
        """Return c_in sqrt(1 + sigma^2), float32 [B]: the network's input has unit variance."""
        square = self.sigma(t) ** 2
        scale: Tensor = ((1 + square) / (square + self.sigma_data**2)) ** 0.5
        return scale


def schedule_of(config: DiffusionConfig) -> Schedule:
    """Return the process of a configuration: by its betas, or by its prediction flow or edm."""
    if config.prediction not in ("flow", "edm"):
        return Schedule.from_config(config)
    steps = config.num_diffusion_timesteps
    names = ("time_scale", "p_mean", "p_std")
    values = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.prediction == "flow":
        toward_data = config.velocity == "to_data"
        return FlowSchedule.of(steps, config.shift, toward_data=toward_data, **values)
    levels = (config.sigma_min, config.sigma_max, config.rho)
    return EdmSchedule.of(steps, *levels, sigma_data=config.sigma_data, **values)


def _tau(t: Any, steps: int, shift: float) -> Any:
    """Return the flow's own time of t, an array or tensor: 0 is data, 1 is noise."""
    u = (t + 1) / steps
    return shift * u / (1 + (shift - 1) * u)


def _flow_alpha_bar(tau: Array) -> Array:
    value: Array = (1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2)
    return value


def _sigma(t: Any, steps: int, sigma_min: float, sigma_max: float, rho: float) -> Any:
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    share = t.clip(0) / (steps - 1)
    return (low + share * (high - low)) ** rho * (t + 1).clip(0, 1)


def _betas(alpha_bars: Array) -> Array:
    return 1 - alpha_bars[1:] / alpha_bars[:-1]
