"""Data whose posterior mean is known in closed form, and the update formulas of every solver.

Everything here is written from the papers in NumPy and takes nothing from the package but its
types, so that a test which compares the two compares independent programs.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ddimx.solvers.ddim import ddim
from ddimx.solvers.ddpm import ddpm
from ddimx.solvers.executor import Raw
from ddimx.solvers.schedule import Schedule

BETAS = np.linspace(1e-4, 0.02, 1000)
SCHEDULE = Schedule(BETAS)
ALPHA_BARS = np.append(1.0, np.cumprod(1 - BETAS))  # at t = -1, 0, ..., 999


def alpha_bar(t):
    """Return alpha_bar at a time in [-1, 999]: the product, log-linear between whole times."""
    if t == int(t):
        return ALPHA_BARS[int(t) + 1]
    return float(np.exp(np.interp(t, np.arange(-1, 1000), np.log(ALPHA_BARS))))


@dataclass(frozen=True)
class Solver:
    """A solver of the package and, beside it, its formulas as the papers give them."""

    name: str
    value: float | str

    def plan(self, times, prediction="epsilon"):
        times = np.asarray(times, dtype=np.float64)
        if self.name == "ddim":
            return ddim(SCHEDULE, times, prediction=prediction, eta=self.value)
        return ddpm(SCHEDULE, times, prediction=prediction, variance=self.value).with_clip(None)

    def step(self, ab, ab_to):
        """Return the weights of x, x0, eps and z in one step; ab_to = 1 is the last one."""
        ratio = ab / ab_to
        if self.name == "ddim":
            c1 = self.value * np.sqrt((1 - ratio) * (1 - ab_to) / (1 - ab))
            return 0.0, np.sqrt(ab_to), np.sqrt(1 - ab_to - c1**2), c1
        beta = 1 - ratio
        variance = beta if self.value == "large" else beta * (1 - ab_to) / (1 - ab)
        on_x = np.sqrt(1 - beta) * (1 - ab_to) / (1 - ab)
        on_x0 = np.sqrt(ab_to) * beta / (1 - ab)
        return on_x, on_x0, 0.0, 0.0 if ab_to == 1 else np.sqrt(variance)

    def __str__(self):
        return f"{self.name}-{self.value}"


SOLVERS = [
    Solver("ddim", 0.0),
    Solver("ddim", 0.5),
    Solver("ddim", 1.0),
    Solver("ddpm", "large"),
    Solver("ddpm", "small"),
]


def pairs(times):
    """Return the (t_from, t_to) of a run down the ascending times, ending at clean data."""
    down = list(times[::-1])
    return list(zip(down, [*down[1:], -1.0], strict=True))


def mix_output(ab, x0, eps, prediction):
    """Return what a network of this kind says where x0 and eps are the right answers."""
    v = np.sqrt(ab) * eps - np.sqrt(1 - ab) * x0
    return {"epsilon": eps, "x0": x0, "v": v}[prediction]


def network(law, times, prediction):
    """Return the exact network of a law: both posterior means at (y, t), as one raw output.

    The executor hands t over in float32; the level is that of the nearest time of the plan.
    """
    times = np.asarray(times, dtype=np.float64)

    def evaluate(y, t):
        time = float(t[0])
        ab = alpha_bar(times[np.abs(times - time).argmin()])
        x0, eps = law.posterior(y.numpy(), ab)
        return Raw(torch.from_numpy(mix_output(ab, x0, eps, prediction)), None)

    return evaluate


@dataclass(frozen=True)
class Gaussian:
    """Data ~ N(mean, cov); a state of the batch is a row vector."""

    mean: np.ndarray
    cov: np.ndarray

    def marginal(self, ab):
        """Return mean and covariance of x_t."""
        return np.sqrt(ab) * self.mean, ab * self.cov + (1 - ab) * np.eye(len(self.mean))

    def affine(self, ab):
        """Return (M, m) of E[x0 | x] = M x + m, and the same of E[eps | x]."""
        centre, cov = self.marginal(ab)
        precision = np.linalg.inv(cov)
        to_x0 = np.sqrt(ab) * self.cov @ precision
        to_eps = np.sqrt(1 - ab) * precision
        return (to_x0, self.mean - to_x0 @ centre), (to_eps, -to_eps @ centre)

    def posterior(self, y, ab):
        (to_x0, x0), (to_eps, eps) = self.affine(ab)
        return y @ to_x0.T + x0, y @ to_eps.T + eps


@dataclass(frozen=True)
class Mixture:
    """Data of one number each, from a mixture of normals; elements of a state are independent."""

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def posterior(self, y, ab):
        y = y[..., None]
        centre, variance = np.sqrt(ab) * self.means, ab * self.deviations**2 + 1 - ab
        log = np.log(self.weights) - 0.5 * (y - centre) ** 2 / variance - 0.5 * np.log(variance)
        share = np.exp(log - log.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        pull = (y - centre) / variance
        x0 = self.means + np.sqrt(ab) * self.deviations**2 * pull
        return (share * x0).sum(-1), np.sqrt(1 - ab) * (share * pull).sum(-1)

    def moments(self):
        """Return the expectations of x, x^2, x^3 and x^4."""
        m, v = self.means, self.deviations**2
        powers = [m, m**2 + v, m**3 + 3 * m * v, m**4 + 6 * m**2 * v + 3 * v**2]
        return np.array(powers) @ self.weights
