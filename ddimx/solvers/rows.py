"""What the one-evaluation solvers share: rows that evaluate at the state and keep no history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import Prediction
from ..plan import Array, Plan, output_coefficients
from ..schedule import CLEAN, Schedule
from ..timesteps import Times


@dataclass(frozen=True, eq=False)
class Rows:
    """Times and noise levels of a plan whose y is x: from ``t`` to ``t_to`` in every row."""

    t: Array
    t_to: Array
    alpha_bar: Array
    alpha_bar_to: Array
    prediction: Prediction

    def plan(self, *, a: Array, w: Array, b: Array, c: Array, label: str) -> Plan:
        """Complete the rows: x' = a x + w x0 + b eps + c z and y' = x'."""
        r, s, u, v = output_coefficients(self.alpha_bar, self.prediction)
        return Plan(
            t=self.t,
            t_from=self.t,
            t_to=self.t_to,
            r=r,
            s=s,
            u=u,
            v=v,
            a=a,
            w=w,
            b=b[:, None],
            c=c,
            p=np.ones_like(a),
            q=np.zeros_like(b[:, None]),
            known_signal=np.sqrt(self.alpha_bar_to),
            known_sigma=np.sqrt(1 - self.alpha_bar_to),
            prediction=self.prediction,
            label=label,
        )


def one_evaluation_rows(schedule: Schedule, times: Times, prediction: Prediction) -> Rows:
    """Lay out rows from the largest of the ascending ``times`` down to clean data."""
    t = times[::-1].copy()
    t_to = np.append(t[1:], CLEAN)
    return Rows(t, t_to, schedule.alpha_bar(t), schedule.alpha_bar(t_to), prediction)
