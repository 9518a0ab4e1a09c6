"""The likelihood of the probability flow (Song et al., arXiv 2011.13456, appendix D).

With alpha = cos(theta) and sigma = sin(theta) the flow is dx / dtheta = v(x, theta), and the log
density falls along it by the divergence of v. The model's density is that of x_t / alpha_t at the
lowest trained time t = 0, where the standard normal of t = T - 1 is carried to; in
u = log tan(theta / 2) both ends are resolved: small noise logarithmically, large noise evenly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers.schedule import Schedule
from .bits import Array

Velocity = Callable[[Tensor, float], Tensor]
"""v at states [B, ...] and an angle theta; float64, differentiable in the state."""


@dataclass(frozen=True)
class Angles:
    """Angles of the noise level, and the real-valued time of an angle."""

    schedule: Schedule

    @property
    def lowest(self) -> float:
        """The angle at t = 0."""
        return self._of(float(self.schedule.alpha_bars[1]))

    @property
    def highest(self) -> float:
        """The angle at t = T - 1."""
        return self._of(float(self.schedule.alpha_bars[-1]))

    def time(self, theta: float) -> float:
        """Return t in [0, T - 1] with alpha_bar(t) = cos(theta)^2, the schedule's own curve."""
        return float(self.schedule.time_of(math.cos(theta) ** 2))

    def _of(self, alpha_bar: float) -> float:
        return math.atan2(math.sqrt(1 - alpha_bar), math.sqrt(alpha_bar))


class Hutchinson:
    """The trace's estimate e' (dv/dx) e, averaged over probes e of unit variance."""

    def __init__(self, probes: list[Tensor]) -> None:
        """Keep ``probes``, each [B, ...]; the same ones serve the whole path."""
        self._probes = probes

    def __call__(self, v: Tensor, x: Tensor) -> Tensor:
        """Return the estimate for v(x), float64 [B]."""
        total = torch.zeros(len(x), dtype=torch.float64)
        for i, probe in enumerate(self._probes):
            e = probe.to(v.dtype)
            more = i + 1 < len(self._probes)
            (pulled,) = torch.autograd.grad(v, x, e, retain_graph=more)
            total += (pulled * e).flatten(1).sum(dim=1)
        return total / len(self._probes)


Divergence = Callable[[Tensor, Tensor], Tensor]


def flow_log_density(
    velocity: Velocity,
    divergence: Divergence,
    data: Tensor,
    angles: Angles,
    steps: int,
    after_call: Callable[[int], None] | None = None,
) -> Array:
    """Return log p(data) in nats, float64 [B], for data float64 [B, ...].

    Integrated upwards by ``steps`` steps of the classical Runge-Kutta method: four network calls
    each, with an error of fourth order.
    """
    start, end = math.log(math.tan(angles.lowest / 2)), math.log(math.tan(angles.highest / 2))
    size = data[0].numel()
    signal = math.cos(angles.lowest)
    x, change = signal * data, torch.zeros(len(data), dtype=torch.float64)

    def rate(x: Tensor, u: float) -> tuple[Tensor, Tensor]:
        theta = min(max(2 * math.atan(math.exp(u)), angles.lowest), angles.highest)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            v = velocity(point, theta)
            trace = divergence(v, point)
        if after_call is not None:
            after_call(len(x))
        sigma = math.sin(theta)  # dtheta = sin(theta) du
        return sigma * v.detach(), sigma * trace.detach()

    h = (end - start) / steps
    for i in range(steps):
        u = start + i * h
        k1, d1 = rate(x, u)
        k2, d2 = rate(x + h / 2 * k1, u + h / 2)
        k3, d3 = rate(x + h / 2 * k2, u + h / 2)
        k4, d4 = rate(x + h * k3, u + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        change = change + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    normal = -0.5 * (x.square().flatten(1).sum(dim=1) + size * math.log(2 * math.pi))
    result: Array = (normal + change + size * math.log(signal)).numpy()
    return result
