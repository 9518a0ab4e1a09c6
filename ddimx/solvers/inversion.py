"""DDIM run upwards: from an image to the noise that it would be drawn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config import Prediction
from ..errors import UsageError
from .plan import Plan
from .rows import Rows
from .schedule import CLEAN, Schedule
from .timesteps import Times, as_run

VERSION = 1  # part of what identifies a run, as a solver's
REFINE = 2  # corrections of every step by default


def ddim_inversion(
    schedule: Schedule,
    times: Times,
    *,
    prediction: Prediction = "epsilon",
    refine: int = REFINE,
) -> Plan:
    """Return the plan that encodes clean data into DDIM's x_T (arXiv 2010.02502, section 4.3).

    A step of DDIM without noise, from the upper time to the lower, solved for its start, reads

        x_upper = A x_lower + B eps(x_upper, t_upper),
        A = sqrt(ab_upper / ab_lower),  B = sqrt(1 - ab_upper) - A sqrt(1 - ab_lower).

    As x_upper stands on both sides, the first evaluation is made at what is known: x_lower at its
    own time (at t = 0 for clean data, which has no time of the network's). Each of the ``refine``
    further ones is made at t_upper and the x_upper found last, a fixed-point iteration towards the
    exact inverse of the sampler's step; until the last of them the state itself stays.

    Args:
        schedule: the forward process.
        times: ascending float64 [n] in [0, T - 1], those of the sampler that will decode.
        prediction: what the network predicts.
        refine: further evaluations of every step; 0 is the usual, explicit inversion.

    Raises:
        UsageError: a negative ``refine``.
    """
    if refine < 0:
        raise UsageError(f"refine must be at least 0, got {refine}")
    upper = np.repeat(times, refine + 1)
    lower = np.repeat(np.append(CLEAN, times[:-1]), refine + 1)
    correction = np.tile(np.arange(refine + 1), len(times))  # 0 is a step's first evaluation
    t = np.where(correction == 0, np.maximum(lower, 0.0), upper)
    ab_upper, ab_lower = schedule.alpha_bar(upper), schedule.alpha_bar(lower)
    on_x = np.sqrt(ab_upper / ab_lower)
    on_eps = np.sqrt(1 - ab_upper) - on_x * np.sqrt(1 - ab_lower)
    # A step's last row moves the state, the others the point of evaluation alone.
    last = correction == refine
    plan = Rows(schedule, t, lower, np.where(last, upper, lower), prediction).plan(
        a=np.where(last, on_x, 1.0),
        b=np.where(last, on_eps, 0.0),
        p=np.where(last, 1.0, on_x),
        q=np.where(last, 0.0, on_eps),
        label=f"ddim inversion, {refine} corrections of every step",
    )
    inputs = {"solver": "ddim inversion", "solver_version": VERSION, "times": as_run(times)}
    return replace(plan, inputs=inputs | {"refine": refine})
