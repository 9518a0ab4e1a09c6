"""UniPC as a plan: every evaluation corrects the state it was predicted for, then predicts on."""

from __future__ import annotations

import math

import numpy as np

from ..config import Prediction
from .plan import Array, Plan
from .rows import Rows, check_distinct, check_order, half_log_snr
from .schedule import CLEAN, Schedule
from .timesteps import Times

MOST = 3


def unipc(
    schedule: Schedule, times: Times, *, order: int = 2, prediction: Prediction = "epsilon"
) -> Plan:
    """Return the plan of UniPC (arXiv 2302.04867), x0 prediction with B(h) = "bh2", to clean data.

    ``times``: ascending float64 [n] in [0, T - 1], one row each.

    Row i asks the network at the predicted y for time t_i, corrects the state, which so goes from
    t_{i-1} to t_i, and predicts the next y from it. The first row has nothing to correct. The
    last one jumps to clean data, where x' = m_0 is the limit of the first order; a correction
    would not enter it. Orders rise at the start and fall at the end as in diffusers.

    Raises:
        UsageError: an order outside 1..3, or repeated times.
    """
    label, n = f"unipc:{order}", len(times)
    check_order("unipc", order, MOST)
    check_distinct(label, times)
    t = times[::-1].copy()
    t_from, t_to = np.append(t[0], t[:-1]), np.append(t[:-1], CLEAN)
    rows = Rows(schedule, t, t_from, t_to, prediction)
    alpha_bar = schedule.alpha_bar(t)
    grid = _Grid(half_log_snr(alpha_bar), np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))
    a, p = np.ones(n), np.ones(n)
    b, q = np.zeros((n, order + 1)), np.zeros((n, order + 1))
    for i in range(n - 1):
        row_order = grid.order(i, n, order)
        if i:
            a[i], b[i] = grid.corrector(i, grid.order(i - 1, n, order), order + 1)
        p[i], q[i] = grid.predictor(i, row_order, order + 1)
    a[-1], b[-1, 0] = 0.0, 1.0
    return rows.plan(a=a, b=b, p=p, q=q, history="x0", label=label)


class _Grid:
    """The solver's times in lambda, alpha and sigma, each float64 [n], in falling noise."""

    def __init__(self, lam: Array, alpha: Array, sigma: Array) -> None:
        self._lam, self._alpha, self._sigma = lam, alpha, sigma

    def order(self, i: int, n: int, order: int) -> int:
        """Return the order of the prediction from time i; a time at lambda = -inf is not a node."""
        earlier_nodes = i if np.isfinite(self._lam[0]) else max(i - 1, 0)
        return min(order, earlier_nodes + 1, n - i)

    def predictor(self, i: int, order: int, depth: int) -> tuple[float, Array]:
        """Return the weight of x, and those of m_0.. [depth], in the step from i to i + 1."""
        h = self._lam[i + 1] - self._lam[i]
        nodes = [(self._lam[i - k] - self._lam[i]) / h for k in range(1, order)]
        weights = np.zeros(depth)
        weights[0] = 1.0
        for k, rho in enumerate(_coefficients(nodes, h), start=1):
            weights[[0, k]] += np.array([-1, 1]) * rho / nodes[k - 1]
        return self._scaled(i, i + 1, h, weights)

    def corrector(self, i: int, order: int, depth: int) -> tuple[float, Array]:
        """Return the same weights for the step from i - 1 to i; m_0 [depth] is at its end."""
        h = self._lam[i] - self._lam[i - 1]
        nodes = [(self._lam[i - 1 - k] - self._lam[i - 1]) / h for k in range(1, order)]
        *older, newest = _coefficients([*nodes, 1.0], h)
        weights = np.zeros(depth)
        weights[[0, 1]] = newest, 1.0 - newest
        for k, rho in enumerate(older, start=2):
            weights[[1, k]] += np.array([-1, 1]) * rho / nodes[k - 2]
        return self._scaled(i - 1, i, h, weights)

    def _scaled(self, i: int, j: int, h: float, weights: Array) -> tuple[float, Array]:
        scale = self._alpha[j] * -math.expm1(-h)
        return float(self._sigma[j] / self._sigma[i]), scale * weights


def _coefficients(nodes: list[float], h: float) -> Array:
    """Solve equation 8 of the paper, R rho = g / B(h), for the weights of the differences.

    A single unknown is 1/2, as the paper and its code have it: it has the same order.
    """
    if len(nodes) < 2:
        return np.full(len(nodes), 0.5)
    phi, factorial, right = math.expm1(-h) / -h - 1, 1, []
    for k in range(1, len(nodes) + 1):
        factorial *= k
        right.append(phi * factorial / math.expm1(-h))
        phi = phi / -h - 1 / (factorial * (k + 1))
    return np.linalg.solve(np.vander(nodes, increasing=True).T, np.array(right))
