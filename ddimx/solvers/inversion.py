"""DDIM run upwards: from an image to the noise that it would be drawn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config import Prediction
from ..errors import UsageError
from .plan import Array, Plan, output_coefficients
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
    place = np.tile(np.arange(refine + 1), len(times))
    final = place == refine
    t = np.where(place == 0, np.maximum(lower, 0.0), upper)
    ab, ab_upper, ab_lower = (schedule.alpha_bar(v) for v in (t, upper, lower))
    big_a = np.sqrt(ab_upper / ab_lower)
    big_b = np.sqrt(1 - ab_upper) - big_a * np.sqrt(1 - ab_lower)
    t_to = np.where(final, upper, lower)
    plan = _plan(schedule, prediction, (t, lower, t_to, ab), (big_a, big_b), final, refine)
    inputs = {"solver": "ddim inversion", "solver_version": VERSION, "times": as_run(times)}
    return replace(plan, inputs=inputs | {"refine": refine})


def _plan(
    schedule: Schedule,
    prediction: Prediction,
    times: tuple[Array, Array, Array, Array],
    step: tuple[Array, Array],
    final: np.ndarray[tuple[int], np.dtype[np.bool_]],
    refine: int,
) -> Plan:
    """Lay out rows: a final one moves the state, the others the point of evaluation alone."""
    t, t_from, t_to, ab = times
    big_a, big_b = step
    r, s, u, v = output_coefficients(ab, prediction)
    zero = np.zeros_like(t)
    ab_to = schedule.alpha_bar(t_to)
    return Plan(
        t=t,
        t_from=t_from,
        t_to=t_to,
        r=r,
        s=s,
        u=u,
        v=v,
        a=np.where(final, big_a, 1.0),
        w=zero,
        b=np.where(final, big_b, 0.0)[:, None],
        c=zero,
        p=np.where(final, 1.0, big_a),
        q=np.where(final, 0.0, big_b)[:, None],
        known_signal=np.sqrt(ab_to),
        known_sigma=np.sqrt(1 - ab_to),
        prediction=prediction,
        label=f"ddim inversion, {refine} corrections of every step",
    )
