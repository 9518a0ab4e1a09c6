"""DDIM's generalised sampler as a plan."""

from __future__ import annotations

import numpy as np

from ..config import Prediction
from ..errors import UsageError
from .plan import Array, Plan
from .rows import one_evaluation_rows
from .schedule import CLEAN, Schedule
from .timesteps import Times


def ddim(
    schedule: Schedule,
    times: Times,
    *,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    final: float = CLEAN,
) -> Plan:
    """Return the plan of DDIM (arXiv 2010.02502, equations 12 and 16) from ``times[-1]`` to clean.

    ``eta`` = 0 is the deterministic sampler, 1 is DDPM with its small variance:

        sigma = eta sqrt((1 - ab_to) / (1 - ab_t)) sqrt(1 - ab_t / ab_to)
        x' = sqrt(ab_to) x0 + sqrt(1 - ab_to - sigma^2) eps + sigma z

    Args:
        schedule: the forward process.
        times: ascending float64 [n] in [0, T - 1]; the plan visits them downwards, then -1.
        prediction: what the network predicts.
        eta: in [0, 1].
        final: where the last row goes; clean data unless a model was made for something else.

    Raises:
        UsageError: eta outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"eta must lie in [0, 1], got {eta}")
    rows = one_evaluation_rows(schedule, times, prediction, final)
    ab, ab_to = rows.alpha_bar, rows.alpha_bar_to
    sigma = noise_sigma(ab, ab_to, eta)
    direction = np.sqrt(np.maximum(1 - ab_to - sigma**2, 0.0))
    return rows.plan(
        w=np.sqrt(ab_to),
        b=direction,
        c=sigma,
        label=f"ddim, eta {eta:g}",
    )


def noise_sigma(alpha_bar: Array, alpha_bar_to: Array, eta: float) -> Array:
    """Return the standard deviation of the noise that a step adds, float64 [n] (equation 16)."""
    ratio = (1 - alpha_bar_to) / (1 - alpha_bar)
    sigma: Array = eta * np.sqrt(ratio) * np.sqrt(1 - alpha_bar / alpha_bar_to)
    return sigma
