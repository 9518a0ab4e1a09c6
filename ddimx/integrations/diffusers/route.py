"""From a scheduler's configuration to the times it visits and the numbers of its steps.

The difference to diffusers is on purpose: there, a step goes from t to t - T // N, whatever the
list of timesteps says, so that with "linspace", or "trailing" where N does not divide T, the sample
is taken to a noise level that the network is never told. Here each step goes to the next time of
the list, and the last one to clean data (with ``set_alpha_to_one=False``: to time 0). A time that
is not in the list has no next one; from there a step goes to t - T // N, as in diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from ...config import Prediction
from ...errors import UsageError, unknown
from ...solvers.ddim import ddim, noise_sigma
from ...solvers.parametrization import output_coefficients
from ...solvers.plan import Array, Plan
from ...solvers.schedule import CLEAN, Schedule, betas, zero_terminal_snr
from ...solvers.timesteps import Times, explicit, moved, spaced
from ...weights.formats.diffusers.scheduler import BETAS, PREDICTIONS

T = TypeVar("T")


def betas_of(config: Mapping[str, Any]) -> Array:
    """Return the betas that a DDIMScheduler's configuration describes, float64 [T].

    Raises:
        UsageError: an unknown beta schedule.
    """
    trained_betas, name = config["trained_betas"], config["beta_schedule"]
    if trained_betas is not None:
        table: Array = np.asarray(trained_betas, dtype=np.float64)
    elif name in BETAS:
        steps = config["num_train_timesteps"]
        table = betas(BETAS[name], config["beta_start"], config["beta_end"], steps)
    else:
        raise unknown("beta_schedule", str(name), BETAS)
    return zero_terminal_snr(table) if config["rescale_betas_zero_snr"] else table


def schedule_of(config: Mapping[str, Any]) -> Schedule:
    """Return the forward process that a DDIMScheduler's configuration describes, in float64.

    Raises:
        UsageError: an unknown beta schedule, or betas outside (0, 1].
    """
    return Schedule(betas_of(config))


def times_of(config: Mapping[str, Any], steps: int) -> Times:
    """Return the ascending times of a number of steps, float64 [n], whole numbers in 0..T-1.

    ``timestep_spacing`` is any of :data:`ddimx.solvers.timesteps.SPACINGS`; ``steps_offset`` moves
    those of "leading", as in diffusers.

    Raises:
        UsageError: an unknown spacing, steps outside 1..T, or an offset that leads past T - 1.
    """
    total, spacing = config["num_train_timesteps"], config["timestep_spacing"]
    times = spaced(spacing, total, steps)
    return moved(times, config["steps_offset"], total) if spacing == "leading" else times


@dataclass(frozen=True)
class Levels(Generic[T]):
    """What steps need besides eta: arrays of float64 [rows] each, or tensors.

    Attributes:
        r, s, u, v: x0 = r x + s out and epsilon = u x + v out.
        signal, sigma: sqrt(alpha_bar) and sqrt(1 - alpha_bar) at the time of the step.
        signal_to: sqrt(alpha_bar) where the step goes.
        variance_to: 1 - alpha_bar there.
        spread: standard deviation of the noise that the step adds at eta = 1.
    """

    r: T
    s: T
    u: T
    v: T
    signal: T
    sigma: T
    signal_to: T
    variance_to: T
    spread: T


@dataclass(frozen=True, eq=False)
class Route:
    """The times of one run, in the order of visiting, and what the steps between them compute.

    Attributes:
        betas: those of the forward process, float64 [T].
        prediction: what the network predicts.
        ascending: the times of the list, float64 [n].
        final: alpha_bar after the last step: 1 is clean data.
        stride: how far a step goes from a time outside the list.
    """

    betas: Array
    prediction: Prediction
    ascending: Times
    final: float
    stride: int

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        steps: int | None,
        timesteps: Sequence[float] | None,
        alpha_bars: Array | None = None,
        final: float | None = None,
    ) -> Route:
        """Lay out a run of so many steps, or over an explicit list of timesteps.

        Args:
            config: of a DDIMScheduler.
            steps, timesteps: one of them.
            alpha_bars, final: float64 [T], and alpha_bar after the last step, in the place of what
                is configured.

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
        prediction: Prediction = PREDICTIONS[kind]  # type: ignore[assignment]
        if alpha_bars is None:
            table = betas_of(config)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                earlier = np.concatenate([[1.0], alpha_bars[:-1]])
                table = np.asarray(1 - alpha_bars / earlier, dtype=np.float64)
        if ascending[-1] >= len(table):
            raise UsageError(
                f"trained_betas has {len(table)} entries, so that timestep {ascending[-1]:g} has "
                f"no noise level; num_train_timesteps is {total}"
            )
        if final is None:
            final = 1.0 if config["set_alpha_to_one"] else float(1 - table[0])
        route = cls(table, prediction, ascending, final, total // len(ascending))
        if ((table > 0) & (table <= 1)).all():
            # Refuses now what no step could do: epsilon at alpha_bar = 0. With betas beyond 1, as
            # diffusers allows them, some steps can be taken; the others are refused one by one.
            output_coefficients(route.alpha_bars[ascending.astype(np.int64)], prediction)
        return route

    @cached_property
    def alpha_bars(self) -> Array:
        """alpha_bar at times 0..T-1, float64 [T]."""
        alpha_bars: Array = np.cumprod(1 - self.betas, dtype=np.float64)
        return alpha_bars

    @cached_property
    def times(self) -> list[int]:
        """The network's times, falling."""
        return [int(t) for t in self.ascending[::-1]]

    @cached_property
    def rows(self) -> list[int]:
        """The row of every time 0..T-1 in :meth:`levels`: first come those of the list."""
        row_of = {t: row for row, t in enumerate(self.times)}
        return [row_of.get(t, len(self.times) + t) for t in range(len(self.betas))]

    def levels(self) -> Levels[Array]:
        """Return the numbers of the list's steps, falling, and then of a step from each time.

        Float64 [n + T]. Where a step cannot be taken (betas beyond 1, epsilon at alpha_bar = 0)
        they are not finite.
        """
        t = np.concatenate([np.array(self.times), np.arange(len(self.betas))])
        to = np.concatenate([self.times[1:], [-1], np.arange(len(self.betas)) - self.stride])
        to = to.astype(np.int64)
        with np.errstate(divide="ignore", invalid="ignore"):
            here = self.alpha_bars[t]
            there = np.where(to >= 0, self.alpha_bars[to], self.final)
            # Where epsilon, or x0, says nothing of the other one.
            undefined = here == (0 if self.prediction == "epsilon" else 1)
            r, s, u, v = output_coefficients(np.where(undefined, np.nan, here), self.prediction)
            roots = np.sqrt(here), np.sqrt(1 - here), np.sqrt(there)
            return Levels(r, s, u, v, *roots, 1 - there, noise_sigma(here, there, 1.0))

    def plan(self, eta: float) -> Plan:
        """Return the table of DDIM with this eta over the list.

        Raises:
            UsageError: eta out of range, betas outside (0, 1], or a ``final`` that is the
                alpha_bar of neither clean data nor time 0.
        """
        ends = {1.0: CLEAN, float(self.alpha_bars[0]): 0.0}
        if self.final not in ends:
            raise UsageError(
                f"final_alpha_cumprod is {self.final:g}: a plan ends at clean data or at time 0"
            )
        return ddim(
            Schedule(self.betas),
            self.ascending,
            prediction=self.prediction,
            eta=eta,
            final=ends[self.final],
        )
