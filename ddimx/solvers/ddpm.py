"""DDPM's ancestral sampler as a plan."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..config import Prediction
from ..errors import unknown
from .plan import Plan
from .rows import one_evaluation_rows
from .schedule import Schedule
from .timesteps import Times

Variance = Literal["large", "small"]


def ddpm(
    schedule: Schedule,
    times: Times,
    *,
    prediction: Prediction = "epsilon",
    variance: Variance = "large",
) -> Plan:
    """Return the plan of DDPM (arXiv 2006.11239, equations 6 and 7), x0 clipped to [-1, 1].

    With beta = 1 - ab_t / ab_to, the mean is the posterior's,

        (sqrt(ab_to) beta x0 + sqrt(1 - beta) (1 - ab_to) x) / (1 - ab_t),

    and the variance is beta ("large", ermongroup/ddim's ``ddpm_noisy``) or the posterior's
    beta (1 - ab_to) / (1 - ab_t) ("small"). The last row adds no noise: the original keys that on
    t = 0, which is the last row of every list of times that ends there.

    Raises:
        UsageError: an unknown variance.
    """
    if variance not in ("large", "small"):
        raise unknown("variance", variance, ("large", "small"))
    rows = one_evaluation_rows(schedule, times, prediction)
    ab, ab_to = rows.alpha_bar, rows.alpha_bar_to
    beta = 1 - ab / ab_to
    posterior = beta * (1 - ab_to) / (1 - ab)
    noise = np.sqrt(beta if variance == "large" else posterior)
    noise[-1] = 0.0
    return rows.plan(
        a=np.sqrt(1 - beta) * (1 - ab_to) / (1 - ab),
        w=np.sqrt(ab_to) * beta / (1 - ab),
        c=noise,
        label=f"ddpm, {variance} variance",
    ).with_clip(1.0)
