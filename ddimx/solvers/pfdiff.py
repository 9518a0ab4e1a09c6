"""PFDiff's timestep skipping as a plan: a past score points ahead, a future score moves the state.

arXiv 2408.08822. A row's state x is at ``t_from``; its network was asked at the springboard y,
which the row before placed ahead of x with the score it had just computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..config import Prediction
from ..errors import UsageError
from .plan import Array, Plan
from .rows import Rows, check_distinct
from .schedule import CLEAN, Schedule
from .timesteps import Times

MOST = 3  # the k that the paper describes


def pfdiff(
    schedule: Schedule,
    times: Times,
    *,
    k: int = 2,
    h: int = 1,
    prediction: Prediction = "epsilon",
) -> Plan:
    """Return the plan of PFDiff (k, h) on DDIM with eta 0 to clean data.

    ``times``: ascending float64 [n] in [0, T - 1], of which the plan skips some evaluations.

    One evaluation carries the state over k + 1 intervals, asked h intervals ahead; the first
    interval is plain DDIM. A rest of fewer intervals at the end is one shorter hop with the
    springboard one interval ahead, a rest of one is plain DDIM. So n times cost
    1 + ceil((n - 1) / (k + 1)) evaluations.

    Raises:
        UsageError: not 1 <= h <= k <= 3, or repeated times.
    """
    if not 1 <= h <= k <= MOST:
        raise UsageError(f"pfdiff:k,h needs 1 <= h <= k <= {MOST}, got pfdiff:{k},{h}")
    label = f"pfdiff:{k},{h}"
    check_distinct(label, times)
    down = np.append(times[::-1], CLEAN)
    points, start, end = (np.array(column) for column in zip(*hops(len(times), k, h), strict=True))
    rows = Rows(schedule, down[points], down[start], down[end], prediction)
    # Where the state itself is evaluated, x0 is better conditioned than x / sqrt(ab) is.
    at_state = points == start
    on_x, on_eps = _ddim_step(schedule, down[start], down[end])
    signal_to, sigma_to = np.sqrt(rows.alpha_bar_to), np.sqrt(1 - rows.alpha_bar_to)
    next_points = np.append(down[points[1:]], CLEAN)
    p, q = _ddim_step(schedule, np.append(down[end[:-1]], CLEAN), next_points)
    rest = (len(times) - 1) % (k + 1)
    note = (
        f"pfdiff with k = {k} hops {k + 1} intervals at a time; of {len(times)} timesteps the last "
        f"hop has {rest}. --nfe chooses a number without a rest"
    )
    return rows.plan(
        a=np.where(at_state, 0.0, on_x),
        w=np.where(at_state, signal_to, 0.0),
        b=np.where(at_state, sigma_to, on_eps),
        p=p,
        q=q,
        label=label,
        notes=(note,) if rest else (),
    )


def hops(n: int, k: int, h: int) -> Iterator[tuple[int, int, int]]:
    """Yield (where the network is asked, from, to) as indices into the falling times."""
    yield 0, 0, 1
    i = 1
    while i < n:
        hop = min(k + 1, n - i)
        ahead = 0 if hop == 1 else h if hop == k + 1 else 1
        yield i + ahead, i, i + hop
        i += hop


def _ddim_step(schedule: Schedule, t_from: Array, t_to: Array) -> tuple[Array, Array]:
    """Return A and B of x' = A x + B eps for DDIM with eta 0, float64 [n] as the times.

    A start at alpha_bar = 0 has no such form: its entries are not finite.
    """
    ab, ab_to = schedule.alpha_bar(t_from), schedule.alpha_bar(t_to)
    with np.errstate(divide="ignore"):
        on_x = np.sqrt(ab_to / ab)
    return on_x, np.sqrt(1 - ab_to) - on_x * np.sqrt(1 - ab)
