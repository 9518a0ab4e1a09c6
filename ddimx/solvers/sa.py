"""SA-Solver as a plan: Adams steps of the reverse SDE, corrected by the next evaluation."""

from __future__ import annotations

import numpy as np

from ..config import Prediction
from .plan import Array, Plan
from .rows import (
    check_distinct,
    check_order,
    half_log_snr,
    noise_and_decay,
    one_evaluation_rows,
)
from .schedule import Schedule
from .timesteps import Times

MOST = 3


def sa(
    schedule: Schedule,
    times: Times,
    *,
    order: int = 2,
    corrector: int | None = None,
    eta: float = 1.0,
    prediction: Prediction = "epsilon",
) -> Plan:
    """Return the plan of SA-Solver (arXiv 2309.05019), x0 prediction, to clean data.

    With lambda = log(alpha / sigma), h = lambda_to - lambda, a constant tau = ``eta``,
    kappa = 1 + tau^2 and the polynomial P through predictions of x0, a step of the reverse SDE is

        S(P) = sigma_to / sigma exp(-tau^2 h) x
               + alpha_to int_0^h kappa exp(-kappa u) P(lambda_to - u) du
               + sigma_to sqrt(1 - exp(-2 tau^2 h)) z

    The predictor takes P through the last ``order`` predictions. Once the network was called at its
    result, the corrector repeats the step from the same x with the same z and the new prediction
    among its nodes. It costs no call, and no row: in the next step's x, the old polynomial's part
    is replaced by the new one's, so that a row's state is always the predictor's result.

    Orders rise at the start and fall at the end as in the authors' code. The authors and diffusers
    change the weights of order 2 by a term of a higher order; here they are the integral's.

    Args:
        schedule: the forward process.
        times: ascending float64 [n] in [0, T - 1], one row each.
        order: of the predictor, the number of its nodes.
        corrector: the number of the corrector's nodes, the new one included; 0 is none, None the
            larger of ``order`` and 2.
        eta: tau in [0, 1]; 0 is the ODE, 1 DDPM's noise.
        prediction: what the network predicts.

    Raises:
        UsageError: an order outside 1..3, an eta outside [0, 1], or repeated times.
    """
    label, n = f"sa:{order}, eta {eta:g}", len(times)
    check_order("sa", order, MOST)
    check_distinct(f"sa:{order}", times)
    rows = one_evaluation_rows(schedule, times, prediction)
    most = max(order, 2) if corrector is None else corrector
    lam = half_log_snr(np.append(rows.alpha_bar, 1.0))
    decay, noise = noise_and_decay(rows, lam, eta)
    alpha, alpha_to = np.sqrt(rows.alpha_bar), np.sqrt(rows.alpha_bar_to)
    first = int(np.isinf(lam[0]))  # a time without signal is no node
    kappa = 1 + eta**2
    b = np.zeros((n, max(order + 1, most) if most else order))
    before = np.zeros(b.shape[1])  # the predictor's weights in the step to this row's state
    for i in range(n):
        if most and i > first:
            count = min(most, i + 1 - first, n - i + 1)
            change = -before
            change[:count] += alpha[i] * adams(lam[i - 1], lam[i], lam[i::-1][:count], kappa)
            b[i] = decay[i] * change
        count = min(order, max(i + 1 - first, 1), n - i)
        step = alpha_to[i] * adams(lam[i], lam[i + 1], lam[i::-1][:count], kappa)
        b[i, :count] += step
        before = np.zeros_like(before)
        before[1 : 1 + count] = step[: len(before) - 1]
    return rows.plan(a=decay, b=b, c=noise, history="x0", label=label)


def adams(start: float, end: float, nodes: Array, kappa: float) -> Array:
    """Return the weights of values at ``nodes``, float64 [k], in the integral of their polynomial.

    The integral over lambda from ``start`` to ``end`` has the weight kappa exp(-kappa (end -
    lambda)), and is 1 for a polynomial of 1 and an infinite interval. Powers of v = (end - lambda)
    / (end - start), which is 0..1 there, have the integrals

        M_0 = 1 - exp(-x),  M_k = k M_{k-1} / x - exp(-x)  with x = kappa (end - start)

    or, without their cancellation at small x, x exp(-x) sum_j x^j k! / (k + 1 + j)!.
    """
    h = end - start
    if len(nodes) == 1:
        return np.array([-np.expm1(-kappa * h)])
    x = kappa * h
    powers = np.arange(len(nodes))
    if x < 1:
        terms = np.array([x / (powers + 1 + j) for j in range(20)])  # 1 / 20! is below 2^-53
        moments = np.exp(-x) * terms.cumprod(axis=0).sum(axis=0)
    else:
        moments = np.full(len(nodes), -np.expm1(-x))
        for k in powers[1:]:
            moments[k] = k / x * moments[k - 1] - np.exp(-x)
    weights: Array = np.linalg.solve(np.vander((end - nodes) / h, increasing=True).T, moments)
    return weights
