"""What the solvers share: the times and noise levels of their rows, and how rows become a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..config import Prediction
from ..errors import UsageError
from ..kernels.update.columns import BY_DEPTH
from .plan import Array, Plan, check_amplification, neutral_columns
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
        """alpha_bar where the state is, float64 [rows]."""
        return self.schedule.alpha_bar(self.t_from)

    @property
    def alpha_bar_to(self) -> Array:
        """alpha_bar where the state goes, float64 [rows]."""
        return self.schedule.alpha_bar(self.t_to)

    def plan(
        self,
        *,
        label: str,
        history: Literal["epsilon", "x0"] = "epsilon",
        notes: tuple[str, ...] = (),
        measured: bool = False,
        **columns: Array,
    ) -> Plan:
        """Complete the rows to a plan.

        Args:
            label, history, notes: as of :class:`Plan`.
            measured: whether the weights were fitted to predictions, and so are known to serve,
                whatever :func:`ddimx.solvers.plan.amplification` says.
            columns: what the solver computes, by the names that a plan has: a, w, c, p float64
                [rows], b, q float64 [rows] or [rows, depth]. What is left out is 0, and p is 1, so
                that the next point y' is x'.

        Raises:
            TypeError: a name that is not a plan's.
            UsageError: a row that enlarges the errors of older predictions beyond use.
        """
        rows = len(self.t)
        weights = {name: columns[name].reshape(rows, -1) for name in BY_DEPTH if name in columns}
        depth = max((value.shape[1] for value in weights.values()), default=1)
        levels = self.schedule.alpha_bar(self.t)
        output = self.schedule.output_coefficients(levels, self.prediction)
        alpha_bar_to = self.alpha_bar_to
        values: dict[str, Any] = {
            **neutral_columns(rows, depth),
            **dict(zip(("r", "s", "u", "v"), output, strict=True)),
            "known_signal": np.sqrt(alpha_bar_to),
            "known_sigma": np.sqrt(1 - alpha_bar_to),
            **columns,
            **weights,
        }
        plan = Plan(
            t=self.t,
            t_from=self.t_from,
            t_to=self.t_to,
            **values,
            prediction=self.prediction,
            history=history,
            label=label,
            notes=notes,
        )
        if not measured:
            check_amplification(plan, levels)
        return plan


def one_evaluation_rows(
    schedule: Schedule, times: Times, prediction: Prediction, final: float = CLEAN
) -> Rows:
    """Return rows from the largest of ``times`` down to ``final``, each evaluated at its state.

    ``times``: ascending float64 [n]; there are n rows.
    """
    t = times[::-1].copy()
    return Rows(schedule, t, t, np.append(t[1:], final), prediction)


def check_order(name: str, order: int, most: int) -> None:
    """Raise UsageError unless ``order`` is one that the solver has."""
    if not 1 <= order <= most:
        raise UsageError(f"{name}'s order must lie in 1..{most}, got {order}")


def check_distinct(name: str, times: Times) -> None:
    """Raise UsageError unless the times [n] rise strictly: divided differences need two times."""
    if not (np.diff(times) > 0).all():
        raise UsageError(f"{name} needs timesteps without repeats")


def half_log_snr(alpha_bar: Array) -> Array:
    """Return lambda = log(sqrt(ab) / sqrt(1 - ab)), float64 [n]: -inf at ab = 0, inf at 1."""
    with np.errstate(divide="ignore"):
        value: Array = 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))
    return value


def noise_and_decay(rows: Rows, lam: Array, eta: float) -> tuple[Array, Array]:
    """Return the weights of x and of z in exact steps of the reverse SDE, float64 [n] each.

    With tau = ``eta`` and h = lambda_to - lambda they are sigma_to / sigma exp(-tau^2 h) and
    sigma_to sqrt(1 - exp(-2 tau^2 h)) (arXiv 2309.05019, proposition 4.2): 0 is the ODE, 1 the SDE
    whose first-order steps are DDIM's with eta 1.

    Args:
        rows: of one evaluation each.
        lam: lambda at the rows' times, float64 [n + 1], infinite at the end.
        eta: tau.

    Raises:
        UsageError: eta outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"eta must lie in [0, 1], got {eta}")
    sigma, sigma_to = np.sqrt(1 - rows.alpha_bar), np.sqrt(1 - rows.alpha_bar_to)
    if eta == 0:  # an infinite h times 0 would be NaN
        return sigma_to / sigma, np.zeros_like(sigma)
    span = eta**2 * np.diff(lam)
    return sigma_to / sigma * np.exp(-span), sigma_to * np.sqrt(-np.expm1(-2 * span))
