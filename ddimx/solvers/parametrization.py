"""What a network's raw output says of x0 and epsilon, for every kind of prediction.

The state y is variance-preserving: y = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1. Networks
of rectified flow and of EDM are made for other states, which are multiples of y: they are given
y times :meth:`ddimx.solvers.schedule.Schedule.input_scale`. The coefficients here are for y itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..config import Prediction
from ..errors import UsageError

Array = npt.NDArray[np.float64]
SIGMA_DATA = 0.5  # EDM's for images in [-1, 1]


def output_coefficients(
    alpha_bar: Array,
    prediction: Prediction,
    *,
    sigma_data: float = SIGMA_DATA,
    toward_data: bool = False,
) -> tuple[Array, ...]:
    """Return r, s, u, v, float64 [n]: x0 = r y + s out and eps = u y + v out.

    ``flow`` is rectified flow's velocity eps - x0 (arXiv 2209.03003), ``edm`` the F of EDM's
    D = c_skip z + c_out F (arXiv 2206.00364, table 1). Multiplications only, so that all but
    epsilon stay finite at alpha_bar = 0.

    Args:
        alpha_bar: float64 [n], the noise level of y.
        prediction: what the network predicts.
        sigma_data: EDM's, the standard deviation of the data.
        toward_data: for ``flow``, whether the velocity is x0 - eps instead.

    Raises:
        UsageError: epsilon-prediction at alpha_bar = 0, where y holds nothing of x0, or
            x0-prediction at alpha_bar = 1, where y holds nothing of epsilon.
    """
    signal, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    zero, one = np.zeros_like(signal), np.ones_like(signal)
    if prediction == "v":
        return signal, -sigma, sigma, signal
    if prediction == "flow":
        # z = (1 - t) x0 + t eps = p y with p = 1 / (signal + sigma): x0 = z - t out.
        p = 1 / (signal + sigma)
        sign = -1.0 if toward_data else 1.0
        return p, -sign * p * sigma, p, sign * p * signal
    if prediction == "edm":
        total = np.sqrt(sigma**2 + (sigma_data * signal) ** 2)
        r, u = sigma_data**2 * signal / total**2, sigma / total**2
        return r, sigma_data * sigma / total, u, -sigma_data * signal / total
    if prediction == "epsilon":
        if (alpha_bar == 0).any():
            raise UsageError("a network that predicts epsilon cannot start at alpha_bar = 0")
        return 1 / signal, -sigma / signal, zero, one
    if (alpha_bar == 1).any():
        raise UsageError("a network that predicts x0 cannot be evaluated at alpha_bar = 1")
    return zero, one, 1 / sigma, -signal / sigma
