"""Token plans: DDIM's step on octree tokens, with either routing and with PFDiff's skipping.

PFDiff for tokens, ``pfdiff=(k, h)``. Among the N rows of a level the first one calls the network;
after it every k + 1 rows share one call, which is made by the row that lies h rows into the group,
at the state and the time of that row. So the network is asked where PFDiff asks it
(:func:`ddimx.solvers.pfdiff.hops`), and N rows cost 1 + ceil((N - 1) / (k + 1)) calls. The group's
first h rows are the springboard: the past logits carry the state to where the network is asked.
PFDiff then goes back to the group's start and moves by the new prediction. Here the springboard's
tokens stay. In the absorbing process that is the same thing: the way back would be taken with the
same words, so the same tokens would be revealed, and a revealed token is its own estimate. In the
uniform process it is a choice; a token can be drawn anew by the later rows. As in PFDiff, a rest of
one row at the end makes a call of its own, and a shorter group makes its call one row in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from ..errors import UsageError, unknown
from ..kernels.discrete_update import Transition
from ..option_values import MOST_REDRAWS
from ..solvers.pfdiff import MOST, hops
from ..solvers.schedule import CLEAN, Schedule
from .draws import MAX_DEPTH
from .plan import Array, Routing, TokenPlan
from .transition import route

SPACINGS = ("linear", "cosine")
Ends = tuple[float, float]  # of a level's first row and of its last one
Temperature = float | Ends | tuple[Ends, ...]
VERSION = 1  # part of what identifies a run; raised whenever the numbers of a plan change


def make_token_plan(
    schedule: Schedule,
    depth: int,
    *,
    steps: int | tuple[int, ...] = 8,
    transition: Transition = "absorbing",
    eta: float = 0.0,
    routing: Routing = "random",
    spacing: str | None = None,
    temperature: Temperature = 1.0,
    gumbel: float = 0.0,
    pfdiff: tuple[int, int] | None = None,
    entropy_bound: float = 1.0,
    redraw: int = 0,
) -> TokenPlan:
    """Return the plan that generates trees of a depth level by level.

    Args:
        schedule: its alpha_bar is the share of clean tokens.
        depth: number of levels that have tokens, 1..11.
        steps: rows for each level. One number means min(steps, 8^level), as more rows than a level
            can have cells would be idle: the root takes one row, level 1 at most 8. A tuple gives
            the number for each level.
        transition: "absorbing" or "uniform".
        eta: 0 adds no noise; with the absorbing transition eta (1 - alpha) is the share of clean
            tokens that is masked again.
        routing: "random", each token by itself, "confidence", or "entropy", whose rows are so many
            at most: a level that is settled calls the network no more.
        spacing: "linear" in time, or "cosine", after i of N rows a share of 1 - cos(pi i / 2N) is
            clean. By default linear for random, cosine for confidence routing.
        temperature: of the logits, one number or (first row's, last row's) of every level, or such
            a pair for each level.
        gumbel: with confidence routing, how much Gumbel noise disturbs the order; it falls
            linearly to 0 in the last row (a level of one row has nothing to order).
        pfdiff: (k, h): rows reuse logits as the module says.
        entropy_bound: nats, of entropy routing, see :class:`ddimx.discrete.plan.TokenPlan`.
        redraw: how often, at most, a level is drawn again for samples whose pieces it breaks.

    Raises:
        UsageError: an argument out of range, or two that do not go together.
    """
    counts = steps_per_level(steps, depth)
    spacing = spacing or ("cosine" if routing == "confidence" else "linear")
    temperatures = _by_level(temperature, depth)
    if routing == "entropy" and (eta or not 0 <= entropy_bound < np.inf):
        raise UsageError(
            f"entropy routing takes a bound from 0 on, got {entropy_bound}, and gives no token up "
            "again: eta must be 0"
        )
    _check(spacing, routing, gumbel, temperatures, pfdiff, redraw)
    levels = []
    for n, (first, last) in zip(counts, temperatures, strict=True):
        t, alpha = grid_times(schedule, n, spacing)
        keep, clean, noise = route(alpha[:-1], alpha[1:], eta)
        calls = np.ones(n, dtype=np.bool_)
        if pfdiff is not None:
            calls[:] = False
            calls[[point for point, _, _ in hops(n, *pfdiff)]] = True
        progress = np.arange(n) / max(n - 1, 1)
        levels.append(
            {
                "t": t[:-1],
                "t_to": t[1:],
                "alpha_from": alpha[:-1],
                "alpha_to": alpha[1:],
                "keep": keep,
                "clean": clean,
                "noise": noise,
                "reveal": alpha[1:] if routing == "confidence" else np.full(n, np.nan),
                "temperature": first + (last - first) * progress,
                "gumbel": gumbel * (1 - progress) if n > 1 else np.zeros(n),
                "g": np.ones(n),
                "calls": calls,
            }
        )
    solver, notes = "ddim", ""
    if pfdiff is not None:
        k, h = pfdiff
        solver = f"pfdiff:{k},{h}"
        short = [str(d) for d, n in enumerate(counts) if n > 1 and (n - 1) % (k + 1)]
        if short:
            notes = (
                f"pfdiff with k = {k} shares a call among {k + 1} rows; on level(s) "
                f"{', '.join(short)} the last group is shorter"
            )
    columns = {name: np.concatenate([level[name] for level in levels]) for name in levels[0]}
    return TokenPlan(
        level=np.repeat(np.arange(depth), counts),
        **columns,
        transition=transition,
        routing=routing,
        entropy_bound=entropy_bound if routing == "entropy" else 0.0,
        redraw=redraw,
        label=f"{solver} on {transition} tokens, {routing} routing, eta {eta:g}"
        + (f", at most {redraw} redraws of a level" if redraw else ""),
        notes=(notes,) if notes else (),
        inputs={
            "solver": solver,
            "solver_version": VERSION,
            "steps": list(counts),
            "eta": eta,
            "spacing": spacing,
            "temperature": np.array(temperature).tolist(),
            "gumbel": gumbel,
        },
    )


def steps_per_level(steps: int | tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Return the number of rows of each level; see :func:`make_token_plan`.

    Raises:
        UsageError: a depth outside 1..11, a number below 1, or a tuple of another length.
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise UsageError(f"depth must lie in 1..{MAX_DEPTH}, got {depth}")
    counts = tuple(min(steps, 8**d) for d in range(depth)) if isinstance(steps, int) else steps
    if len(counts) != depth:
        raise UsageError(f"{len(counts)} numbers of steps for {depth} levels: one each is needed")
    if min(counts) < 1:
        raise UsageError(f"every level needs at least 1 step, got {min(counts)}")
    return counts


def time_of(schedule: Schedule, alpha: Array) -> Array:
    """Return the times at which alpha_bar has these values, float64 [n]: inverts ``alpha_bar``.

    Where the schedule does not reach so low, its last time.
    """
    table = schedule.alpha_bars[::-1]  # rising
    high = np.clip(np.searchsorted(table, alpha), 1, len(table) - 1)
    low, up = table[high - 1], table[high]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_share = np.log(alpha / low) / np.log(up / low)  # log alpha_bar is linear within a step
    share = np.where(low > 0, log_share, alpha / up)
    time: Array = (len(table) - 1 - high) - np.clip(share, 0.0, 1.0)
    return time


def grid_times(schedule: Schedule, n: int, spacing: str) -> tuple[Array, Array]:
    """Return falling times and the rising alphas at them, from 0 to exactly 1, float64 [n + 1].

    Args:
        spacing: one of ``SPACINGS``, see :func:`make_token_plan`.
    """
    last = schedule.num_timesteps - 1.0
    if spacing == "linear":
        t = np.linspace(last, CLEAN, n + 1)
        alpha = schedule.alpha_bar(t)
    else:
        alpha = 1 - np.cos(np.pi / 2 * np.arange(n + 1) / n)
        t = time_of(schedule, np.append(alpha[:-1], 1.0))
    # The state is pure noise, even where the schedule stops short of it.
    t[0], alpha[0] = last, 0.0
    t[-1], alpha[-1] = CLEAN, 1.0
    return t, alpha


def _by_level(temperature: Temperature, depth: int) -> list[Ends]:
    """Return the temperatures of each level's first and last row.

    Raises:
        UsageError: a pair for each level, and another number of levels.
    """
    if not isinstance(temperature, tuple):
        return [(temperature, temperature)] * depth
    if not isinstance(temperature[0], tuple):
        return [temperature] * depth
    if len(temperature) != depth:
        raise UsageError(f"{len(temperature)} temperatures for {depth} levels: one each is needed")
    return list(temperature)


def _check(
    spacing: str,
    routing: Routing,
    gumbel: float,
    temperatures: Sequence[Ends],
    pfdiff: tuple[int, int] | None,
    redraw: int,
) -> None:
    """Raise UsageError if an argument of :func:`make_token_plan` is out of range."""
    if spacing not in SPACINGS:
        raise unknown("spacing of tokens", spacing, SPACINGS)
    if routing not in get_args(Routing):
        raise unknown("routing", routing, get_args(Routing))
    if gumbel and routing != "confidence":
        raise UsageError("gumbel disturbs the order of confidence; random routing has none")
    if not 0 <= gumbel < np.inf:
        raise UsageError(f"gumbel must not be negative, got {gumbel}")
    if not all(0 <= end < np.inf for ends in temperatures for end in ends):
        raise UsageError(f"temperature must not be negative, got {temperatures}")
    if not 0 <= redraw <= MOST_REDRAWS:
        raise UsageError(f"redraw must lie in 0..{MOST_REDRAWS}, got {redraw}")
    if pfdiff is not None and not 1 <= pfdiff[1] <= pfdiff[0] <= MOST:
        raise UsageError(
            f"pfdiff:k,h needs 1 <= h <= k <= {MOST}, got pfdiff:{pfdiff[0]},{pfdiff[1]}"
        )
