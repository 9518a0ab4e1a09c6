"""DPM-Solver++ (multistep) as a plan: x0 is interpolated in the log signal-to-noise ratio."""

from __future__ import annotations

import math
from typing import Literal

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
SHORT = 15  # below this number of steps the order falls towards the end, as in diffusers


def dpmpp(
    schedule: Schedule,
    times: Times,
    *,
    order: int = 2,
    prediction: Prediction = "epsilon",
    third: Literal["exact", "published"] = "exact",
) -> Plan:
    """Return the plan of DPM-Solver++(1M, 2M, 3M), arXiv 2211.01095, to clean data.

    This is :func:`sde_dpmpp` without noise.

    Raises:
        UsageError: as there.
    """
    return sde_dpmpp(schedule, times, order=order, eta=0.0, prediction=prediction, third=third)


def sde_dpmpp(
    schedule: Schedule,
    times: Times,
    *,
    order: int = 2,
    eta: float = 1.0,
    prediction: Prediction = "epsilon",
    third: Literal["exact", "published"] = "exact",
) -> Plan:
    """Return the plan of SDE-DPM-Solver++(1M, 2M), arXiv 2211.01095, section 5, to clean data.

    ``times``: ascending float64 [n] in [0, T - 1], one row each.

    With lambda = log(alpha / sigma), h = lambda_to - lambda, tau = ``eta``, kappa = 1 + tau^2
    (1 for the ODE, 2 for the paper's SDE) and E = 1 - exp(-kappa h),

        x' = sigma_to / sigma exp(-tau^2 h) x + alpha_to (E m_0 + phi_2 D_1 + phi_3 D_2)
             + sigma_to sqrt(1 - exp(-2 tau^2 h)) z

    where D_1 and D_2 estimate h x0' and h^2 x0'' from the history of x0. The first rows and the
    last have a lower order: lambda is infinite at clean data, where x' = m_0 is the limit. The
    form of the second order is diffusers' "midpoint".

    The authors' code and diffusers take half of D_2, with which the third-order rows err like
    second-order ones (h^2 x0'' is twice the divided difference times h^2). ``third="published"``
    does so too, for comparisons with them. With noise the variance of the result is of second order
    whatever the third term does, so that order 3 is offered for the ODE alone.

    Raises:
        UsageError: an order outside 1..3, an eta outside [0, 1], or repeated times.
    """
    name = f"sde-dpm++:{order}" if eta else f"dpm++:{order}"
    check_order(name.partition(":")[0], order, MOST)
    check_distinct(name, times)
    rows = one_evaluation_rows(schedule, times, prediction)
    lam = half_log_snr(np.append(rows.alpha_bar, 1.0))
    decay, noise = noise_and_decay(rows, lam, eta)
    b = np.zeros((len(times), order))
    bend = 2.0 if third == "exact" else 1.0
    for i in range(len(times)):
        weights = _weights(lam[: i + 2], order_of_row(i, len(times), order), bend, 1 + eta**2)
        b[i, : len(weights)] = np.sqrt(rows.alpha_bar_to[i]) * weights
    label = f"{name}, eta {eta:g}" if eta else name
    return rows.plan(a=decay, b=b, c=noise, history="x0", label=label)


def order_of_row(i: int, n: int, order: int) -> int:
    """Return the order of row ``i`` of ``n``: rising at the start, 1 at the end."""
    rows_left = n - i
    return min(order, i + 1, rows_left if n < SHORT or rows_left == 1 else order)


def _weights(lam: Array, order: int, bend: float, kappa: float) -> Array:
    """Return the weights of m_0, m_1, ... over alpha_to, float64 [order], or [3] from order 3.

    ``lam``, float64 [n], holds lambda at the times so far and ends with where this row starts and
    where it goes. ``bend`` is the factor of the third order's D_2, ``kappa`` that of the exponent;
    see :func:`sde_dpmpp`. An infinite first interval (from alpha_bar = 0) makes its divided
    differences 0 by itself.
    """
    h = lam[-1] - lam[-2]
    first = -np.expm1(-kappa * h)
    if order == 1:
        return np.array([first])
    h0 = lam[-2] - lam[-3]
    slope0 = h / h0 * np.array([1.0, -1.0, 0.0])  # h x0' from the last two predictions
    weights: Array
    if order == 2:
        weights = first * (np.array([1.0, 0.0]) + 0.5 * slope0[:2])
        return weights
    h1 = lam[-3] - lam[-4]
    slope1 = h / h1 * np.array([0.0, 1.0, -1.0])  # and from the two before
    slope = slope0 + h0 / (h0 + h1) * (slope0 - slope1)
    curve = bend * h / (h0 + h1) * (slope0 - slope1)
    phi2, phi3 = 1 - first / (kappa * h), _phi3(kappa * h)
    weights = phi2 * slope + phi3 * curve
    weights[0] += first
    return weights


def _phi3(h: float) -> float:
    """Return 1/2 - (h + exp(-h) - 1) / h^2, by its series where that would cancel."""
    if h < 1e-2:
        return h / 6 - h**2 / 24 + h**3 / 120 - h**4 / 720
    return 0.5 - (h + math.expm1(-h)) / h**2
