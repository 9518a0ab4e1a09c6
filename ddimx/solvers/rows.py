"""What the solvers share: the times and noise levels of their rows, and how rows become a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..config import Prediction
from ..errors import UsageError
from .plan import Array, Plan, output_coefficients
from .schedule import CLEAN, Schedule
from .timesteps import Times


@dataclass(frozen=True, eq=False)
class Rows:
    """A plan's times, float64 [rows] each, and the noise levels at them.

    The network is called at ``t``, the state goes from ``t_from`` to ``t_to``.
    """

    schedule: Schedule
    t: Array
    t_from: Array
    t_to: Array
    prediction: Prediction

    @property
    def alpha_bar(self) -> Array:
        """alpha_bar where the state is."""
        return self.schedule.alpha_bar(self.t_from)

    @property
    def alpha_bar_to(self) -> Array:
        """alpha_bar where the state goes."""
        return self.schedule.alpha_bar(self.t_to)

    def plan(
        self,
        *,
        label: str,
        a: Array,
        w: Array,
        b: Array,
        c: Array | None = None,
        p: Array | None = None,
        q: Array | None = None,
        history: Literal["epsilon", "x0"] = "epsilon",
        notes: tuple[str, ...] = (),
    ) -> Plan:
        """Complete the rows; without ``p`` and ``q``, y' = x'. ``b``, ``q``: [rows (, depth)]."""
        level, weights = self.schedule.alpha_bar(self.t), b.reshape(len(self.t), -1)
        r, s, u, v = output_coefficients(level, self.prediction)
        return Plan(
            t=self.t,
            t_from=self.t_from,
            t_to=self.t_to,
            r=r,
            s=s,
            u=u,
            v=v,
            a=a,
            w=w,
            b=weights,
            c=np.zeros_like(a) if c is None else c,
            p=np.ones_like(a) if p is None else p,
            q=np.zeros_like(weights) if q is None else q.reshape(weights.shape),
            known_signal=np.sqrt(self.alpha_bar_to),
            known_sigma=np.sqrt(1 - self.alpha_bar_to),
            prediction=self.prediction,
            history=history,
            label=label,
            notes=notes,
        )


def one_evaluation_rows(
    schedule: Schedule, times: Times, prediction: Prediction, final: float = CLEAN
) -> Rows:
    """Lay out rows from the largest of the ascending ``times`` down to ``final``, y being x."""
    t = times[::-1].copy()
    return Rows(schedule, t, t, np.append(t[1:], final), prediction)


def check_order(name: str, order: int, most: int) -> None:
    """Raise UsageError unless ``order`` is one that the solver has."""
    if not 1 <= order <= most:
        raise UsageError(f"{name}'s order must lie in 1..{most}, got {order}")


def check_distinct(name: str, times: Times) -> None:
    """Raise UsageError unless the times rise strictly: a divided difference needs two times."""
    if not (np.diff(times) > 0).all():
        raise UsageError(f"{name} needs timesteps without repeats")


def half_log_snr(alpha_bar: Array) -> Array:
    """Return lambda = log(sqrt(ab) / sqrt(1 - ab)): -inf at ab = 0, inf at ab = 1."""
    with np.errstate(divide="ignore"):
        value: Array = 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))
    return value
