"""RePaint as a change to a plan: jumps back up, after which the same rows are walked again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .plan import Array, Plan, neutral_columns
from .schedule import Schedule

Order = npt.NDArray[np.int64]

JUMP = 5  # rows a jump goes back by default; fewer in short plans
VERSION = 1  # part of what identifies a run, as a solver's
RESAMPLE = 5  # how often the rows below a jump are walked by default


def repaint(plan: Plan, schedule: Schedule, jump: int, resample: int) -> Plan:
    """Return ``plan`` with RePaint's resampling (arXiv 2201.09865, section 4.2 and appendix B).

    Where a plain replacement walks every row once, the rows are walked in blocks of ``jump``:
    after a block, ``resample`` - 1 times, the state is noised back to where the block began and
    the block is walked again, so that what was painted can adapt to what is known. From the
    noise level ab_from to the lower ab_to a jump is the forward process itself,

        x' = sqrt(ab_to / ab_from) x + sqrt(1 - ab_to / ab_from) z,

    a row that calls no network (the original takes ``jump`` single steps, whose sum has the same
    distribution). As in the original no jump starts from clean data or leads above the plan's
    first time. ``resample`` = 1 leaves the plan as it is: plain replacement.

    Raises:
        UsageError: a jump or a count below 1, a jump longer than the plan, or a plan with a
            memory of earlier rows, which a jump would mix up.
    """
    if jump < 1 or resample < 1:
        raise UsageError(f"jump and resample must be at least 1, got {jump} and {resample}")
    if resample == 1:
        return plan
    if plan.depth > 1 or not plan.keeps_point().all():
        raise UsageError(
            f"{plan.label} remembers earlier steps, which jumps back would mix up; take the "
            "solver ddim or ddpm, or --resample 1"
        )
    if jump >= len(plan):
        raise UsageError(
            f"a jump of {jump} steps needs more than {jump} steps, the plan has {len(plan)}; "
            "use fewer --jump or more --steps, or --resample 1"
        )
    order = walk(len(plan), jump, resample)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(plan, name), jumps])[order]
        for name, jumps in _jumps(plan, schedule, jump).items()
    }
    label = f"{plan.label}, RePaint with jumps of {jump} and {resample} passes"
    inputs = plan.inputs
    if inputs is not None:
        inputs = inputs | {"jump": jump, "resample": resample, "repaint_version": VERSION}
    return replace(plan, label=label, inputs=inputs, **columns)


def default_jump(rows: int) -> int:
    """Return the jump for a plan of this many rows: 5, or a fifth of a plan below 25.

    On Gaussian data with a known answer (tests/solvers/test_repaint.py) 50 steps with jumps of 5
    come closer to it than the original's 10 at the same number of network calls."""
    return max(1, min(JUMP, rows // 5))


def walk(rows: int, jump: int, resample: int) -> Order:
    """Return the order of rows, int64: i < ``rows`` is row i, ``rows`` + i the jump after row i.

    The state after row i is counted from below as RePaint's t: ``rows`` - 2 - i, and -1 is clean.
    """
    repeats = dict.fromkeys(range(0, rows - jump, jump), resample - 1)
    order, t = [], rows - 1
    while t >= 0:
        order.append(rows - 1 - t)
        t -= 1
        if repeats.get(t, 0):
            repeats[t] -= 1
            order.append(rows + rows - 2 - t)
            t += jump
    return np.array(order, dtype=np.int64)


def _jumps(plan: Plan, schedule: Schedule, jump: int) -> dict[str, Array]:
    """Return all columns of the jumps, one after each of the plan's rows.

    Those that would lead above the first time lead there instead; the walk takes none of them.
    """
    rows = len(plan)
    t_from, t_to = plan.t_to, plan.t_from[np.maximum(np.arange(rows) + 1 - jump, 0)]
    ab_from, ab_to = schedule.alpha_bar(t_from), schedule.alpha_bar(t_to)
    ratio = ab_to / ab_from
    return {
        **neutral_columns(rows, plan.depth),
        "t": np.full(rows, np.nan),
        "t_from": t_from,
        "t_to": t_to,
        "a": np.sqrt(ratio),
        "c": np.sqrt(1 - ratio),
        "known_signal": np.sqrt(ab_to),
        "known_sigma": np.sqrt(1 - ab_to),
    }
