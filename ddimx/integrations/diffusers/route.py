"""From a scheduler's configuration to the times it visits and the tables of coefficients.

The difference to diffusers is on purpose: there, a step goes from t to t - T // N, whatever the
list of timesteps says, so that with "linspace", or "trailing" where N does not divide T, the sample
is taken to a noise level that the network is never told. Here each step goes to the next time of
the list, and the last one to clean data (with ``set_alpha_to_one=False``: to time 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...config import Prediction
from ...errors import UsageError, unknown
from ...solvers.ddim import ddim
from ...solvers.plan import Plan
from ...solvers.schedule import CLEAN, Schedule, betas, zero_terminal_snr
from ...solvers.timesteps import Times, explicit, spaced
from ...weights.formats.diffusers.scheduler import BETAS, PREDICTIONS


def schedule_of(config: Mapping[str, Any]) -> Schedule:
    """Return the forward process that a DDIMScheduler's configuration describes, in float64.

    Raises:
        UsageError: an unknown beta schedule.
    """
    trained_betas, name = config["trained_betas"], config["beta_schedule"]
    if trained_betas is not None:
        table = np.asarray(trained_betas, dtype=np.float64)
    elif name in BETAS:
        steps = config["num_train_timesteps"]
        table = betas(BETAS[name], config["beta_start"], config["beta_end"], steps)
    else:
        raise unknown("beta_schedule", str(name), BETAS)
    return Schedule(zero_terminal_snr(table) if config["rescale_betas_zero_snr"] else table)


def times_of(config: Mapping[str, Any], steps: int) -> Times:
    """Return the ascending times of a number of steps, float64 [n], whole numbers in 0..T-1.

    ``timestep_spacing`` is any of :data:`ddimx.solvers.timesteps.SPACINGS`; ``steps_offset`` moves
    those of "leading", as in diffusers.

    Raises:
        UsageError: an unknown spacing, steps outside 1..T, or an offset that leads past T - 1.
    """
    total, spacing = config["num_train_timesteps"], config["timestep_spacing"]
    times = spaced(spacing, total, steps)
    if spacing != "leading":
        return times
    offset_times: Times = times + config["steps_offset"]
    if offset_times[-1] > total - 1:
        raise UsageError(
            f"steps_offset {config['steps_offset']} moves the first of {steps} timesteps to "
            f"{offset_times[-1]:g}, outside 0..{total - 1}; take fewer steps or steps_offset=0"
        )
    return offset_times


@dataclass(frozen=True, eq=False)
class Route:
    """The times of one run, in the order of visiting, and where the last step leads."""

    schedule: Schedule
    prediction: Prediction
    ascending: Times
    final: float

    @classmethod
    def of(
        cls, config: Mapping[str, Any], steps: int | None, timesteps: Sequence[float] | None
    ) -> Route:
        """Lay out a run of so many steps, or over an explicit list of timesteps.

        Raises:
            UsageError: a schedule, spacing, list or kind of prediction that cannot be sampled.
        """
        total = config["num_train_timesteps"]
        if timesteps is not None:
            ascending = explicit([float(t) for t in timesteps], total)
            if (ascending != ascending.round()).any():
                raise UsageError("timesteps of a diffusers pipeline must be whole numbers")
        else:
            assert steps is not None
            ascending = times_of(config, steps)
        kind = config["prediction_type"]
        if kind not in PREDICTIONS:
            raise unknown("prediction_type", str(kind), PREDICTIONS)
        final = CLEAN if config["set_alpha_to_one"] else 0.0
        prediction: Prediction = PREDICTIONS[kind]  # type: ignore[assignment]
        route = cls(schedule_of(config), prediction, ascending, final)
        route.plan(0.0)  # refuses now what no step could do, epsilon at alpha_bar = 0 for instance
        return route

    @cached_property
    def times(self) -> list[int]:
        """The network's times, falling."""
        return [int(t) for t in self.ascending[::-1]]

    @cached_property
    def row_of(self) -> dict[int, int]:
        """The row of every time."""
        return {t: row for row, t in enumerate(self.times)}

    def plan(self, eta: float, *, rederived: bool = False, thresholded: bool = False) -> Plan:
        """Return the table of DDIM with this eta.

        Args:
            eta: in [0, 1].
            rederived: epsilon follows from the clipped x0 (``use_clipped_model_output``).
            thresholded: the rows are given a finished x0 as "output", and as state epsilon, or
                the sample itself if ``rederived``.

        Raises:
            UsageError: eta out of range.
        """
        plan = ddim(
            self.schedule, self.ascending, prediction=self.prediction, eta=eta, final=self.final
        )
        nothing = np.zeros_like(plan.b)
        if rederived:
            # eps = (x - sqrt(ab) x0) / sqrt(1 - ab), put into x' = w x0 + b eps.
            alpha_bar = self.schedule.alpha_bar(plan.t)
            share = plan.b[:, 0] / np.sqrt(1 - alpha_bar)
            plan = replace(plan, a=share, w=plan.w - share * np.sqrt(alpha_bar), b=nothing)
        elif thresholded:
            plan = replace(plan, a=plan.b[:, 0], b=nothing)
        if thresholded:
            plan = replace(plan, r=np.zeros_like(plan.r), s=np.ones_like(plan.s))
        return plan
