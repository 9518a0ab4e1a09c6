"""iPNDM as a plan: DDIM steps whose epsilon is extrapolated by Adams-Bashforth."""

from __future__ import annotations

import numpy as np

from ..config import Prediction
from .plan import Plan
from .rows import check_distinct, check_order, one_evaluation_rows
from .schedule import Schedule
from .timesteps import Times

# Adams and Bashforth's weights for equal steps, newest first.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(
    schedule: Schedule, times: Times, *, order: int = 4, prediction: Prediction = "epsilon"
) -> Plan:
    """Return the plan of iPNDM (arXiv 2204.13902; PNDM: 2202.09778) to clean data.

    ``times``: ascending float64 [n] in [0, T - 1], one row each.

    DDIM is Euler's method for d(x / alpha) = eps d(sigma / alpha). Here eps is replaced by the
    Adams-Bashforth mean e = sum_j c_j eps_j of the last ``order`` predictions, the first rows
    having fewer:

        x' = alpha_to x0 + sigma_to eps_0 + (sigma_to - alpha_to sigma / alpha) (e - eps_0)

    The weights are those of equal steps, as in the paper, whatever the steps are.

    Raises:
        UsageError: an order outside 1..4, or repeated times.
    """
    label = f"ipndm:{order}"
    check_order("ipndm", order, len(ADAMS_BASHFORTH))
    check_distinct(label, times)
    rows = one_evaluation_rows(schedule, times, prediction)
    ab, ab_to = rows.alpha_bar, rows.alpha_bar_to
    b = np.zeros((len(times), order))
    b[:, 0] = np.sqrt(1 - ab_to)
    # The first row is plain DDIM, which has to do without sigma / alpha if alpha_bar is 0 there.
    for i in range(1, len(times)):
        weights = np.array(ADAMS_BASHFORTH[min(order, i + 1) - 1])
        weights[0] -= 1
        stride = np.sqrt(1 - ab_to[i]) - np.sqrt(ab_to[i] * (1 - ab[i]) / ab[i])
        b[i, : len(weights)] += stride * weights
    return rows.plan(w=np.sqrt(ab_to), b=b, label=label)
