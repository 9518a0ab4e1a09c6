"""Solvers by name, for the command line and for Python."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Prediction
from ..errors import UsageError, unknown
from ..plan import Plan
from ..schedule import Schedule
from ..timesteps import Times
from .ddim import ddim
from .ddpm import Variance, ddpm

SOLVERS = ("ddim", "ddpm")


@dataclass(frozen=True)
class SolverChoice:
    """A solver with its options; one that the solver has no use for must stay None."""

    name: str = "ddim"
    eta: float | None = None
    variance: Variance | None = None


def make_plan(
    choice: SolverChoice, schedule: Schedule, times: Times, prediction: Prediction
) -> Plan:
    """Return the plan of a named solver.

    Raises:
        UsageError: an unknown solver, an option it does not have, or a value out of range.
    """
    if choice.name == "ddim":
        if choice.variance is not None:
            raise UsageError("--variance belongs to the solver ddpm; ddim has --eta")
        return ddim(schedule, times, prediction=prediction, eta=choice.eta or 0.0)
    if choice.name == "ddpm":
        if choice.eta is not None:
            raise UsageError("--eta belongs to the solver ddim; ddpm has --variance")
        return ddpm(schedule, times, prediction=prediction, variance=choice.variance or "large")
    raise unknown("solver", choice.name, SOLVERS)
