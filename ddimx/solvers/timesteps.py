"""Which times a sampler visits: the named spacings, or an explicit list. Ascending, float64.

Some spacings count the times of the process, whole numbers whatever its noise levels are. Others
are even in a noise level, at real-valued times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import UsageError, unknown

if TYPE_CHECKING:
    from .schedule import Schedule

Times = npt.NDArray[np.float64]
RHO = 7.0  # of spacing "karras", as EDM has it (arXiv 2206.00364, table 1)


def _ddim(total: int, steps: int) -> Times:
    """``range(0, T, T // S)``, the paper's code; more than S times when S does not divide T."""
    return np.arange(0, total, total // steps, dtype=np.float64)


def _leading(total: int, steps: int) -> Times:
    """S multiples of T // S from 0: diffusers' "leading" without an offset."""
    return np.arange(steps, dtype=np.float64) * (total // steps)


def _linspace(total: int, steps: int) -> Times:
    """S times from T - 1 down to 0, both included, rounded; S = 1 is T - 1 alone."""
    # Counted upwards, as diffusers does: counted downwards, some halves round the other way.
    times: Times = np.linspace(0 if steps > 1 else total - 1, total - 1, steps).round()
    return times


def _trailing(total: int, steps: int) -> Times:
    """S times counted down from T - 1 in strides of T / S (arXiv 2305.08891, table 2)."""
    times: Times = (np.arange(total, 0, -total / steps).round() - 1)[:steps][::-1].copy()
    return times


def _quad(total: int, steps: int) -> Times:
    """``int(linspace(0, sqrt(0.8 T), S) ** 2)``, the paper's code, repeated times removed."""
    return np.unique((np.linspace(0, np.sqrt(total * 0.8), steps) ** 2).astype(np.int64)).astype(
        np.float64
    )


SPACINGS: dict[str, Callable[[int, int], Times]] = {
    "ddim": _ddim,
    "leading": _leading,
    "linspace": _linspace,
    "trailing": _trailing,
    "quad": _quad,
}


# Even in lambda = log(alpha / sigma), and in the rho-th root of sigma / alpha.
BY_LEVEL = ("logsnr", "karras")


def times_of(spacing: str, schedule: Schedule, steps: int) -> Times:
    """Return the ascending times of any spacing: float64 [n] in [0, T - 1].

    ``logsnr`` has equal steps of lambda = log(alpha / sigma) from the last time to time 0 (as the
    samples of DPM-Solver, arXiv 2206.00927), ``karras`` of (sigma / alpha)^(1 / rho) (arXiv
    2206.00364, equation 5); ``karras:5`` gives rho, which is 7. Where nothing of the data is left
    at the last time, it is the first to be visited, and the even steps begin at the time below.
    These times are real numbers that float32 holds, for such a network is given. All others are
    those of :func:`spaced`.

    Raises:
        UsageError: an unknown spacing, a rho outside 1..100, or steps outside 1..T.
    """
    name, colon, text = spacing.partition(":")
    if name not in BY_LEVEL:
        if spacing not in SPACINGS:
            raise unknown("spacing", spacing, [*SPACINGS, *BY_LEVEL])
        return spaced(spacing, schedule.num_timesteps, steps)
    rho = RHO
    if colon:
        try:
            rho = float(text) if name == "karras" else -1.0
        except ValueError:
            rho = -1.0
        if not 1 <= rho <= 100:
            raise UsageError(
                f"--spacing {spacing}: write karras or, with a rho from 1 to 100, karras:5; logsnr "
                "takes no number"
            )
    last = schedule.num_timesteps - 1
    _check_steps(steps, last + 1)
    times = [float(last)]
    if steps > 1:
        first = last if schedule.alpha_bar(last) > 0 else last - 1
        ab = schedule.alpha_bar(np.array([0.0, first]))
        low, high = (0.5 * (np.log(ab) - np.log1p(-ab))).tolist()  # lambda at both ends
        count = steps - (last - first)
        if name == "logsnr":
            lam = np.linspace(low, high, count)
        else:
            lam = -rho * np.log(np.linspace(np.exp(-low / rho), np.exp(-high / rho), count))
        inner = [schedule.time_of(value) for value in 1 / (1 + np.exp(-2 * lam[1:-1]))]
        times = [0.0, *inner, *([float(first)] if len(lam) > 1 else [])]
        times += [float(last)] if first < last else []
    return np.array(times, dtype=np.float32).astype(np.float64)


def _check_steps(steps: int, total: int) -> None:
    if not 1 <= steps <= total:
        raise UsageError(f"steps must lie in 1..{total} (the model's timesteps), got {steps}")


def spaced(spacing: str, total: int, steps: int) -> Times:
    """Return the ascending times of a spacing that counts them: float64 [n], whole numbers.

    They lie in 0..total-1.

    ``n`` is ``steps`` except where the paper's code gives another count (``ddim`` with a number
    of steps that does not divide T, ``quad`` after removing repeats); callers report the true n.

    Raises:
        UsageError: an unknown spacing, or steps outside 1..total.
    """
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    _check_steps(steps, total)
    return SPACINGS[spacing](total, steps)


def moved(times: Times, offset: int, total: int) -> Times:
    """Return times [n] moved by ``offset``, as diffusers moves those of "leading".

    Raises:
        UsageError: an offset that leads past ``total`` - 1.
    """
    if times[-1] + offset > total - 1:
        raise UsageError(
            f"steps_offset {offset} moves the first of {len(times)} timesteps to "
            f"{times[-1] + offset:g}, outside 0..{total - 1}; take fewer steps or steps_offset=0"
        )
    offset_times: Times = times + offset
    return offset_times


def explicit(times: Sequence[float], total: int) -> Times:
    """Check a list of times, in either order, and return it ascending: float64 [n].

    Raises:
        UsageError: an empty list, a time outside [0, total - 1], a repeat, or neither order.
    """
    array = np.asarray(times, dtype=np.float64)
    if not array.size:
        raise UsageError("the list of timesteps is empty")
    outside = array[~((array >= 0) & (array <= total - 1))]
    if outside.size:
        raise UsageError(f"timestep {outside[0]:g} lies outside 0..{total - 1}")
    step = np.diff(array)
    if not ((step > 0).all() or (step < 0).all()):
        raise UsageError("timesteps must fall (or rise) strictly, without repeats")
    return np.sort(array)


def as_run(times: Sequence[float] | Times) -> list[float]:
    """Return times [n] rounded to float32, as the network takes them and a run's identity has."""
    return [float(np.float32(t)) for t in times]
