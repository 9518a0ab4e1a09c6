"""Solvers by name, for the command line and for Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..config import Prediction
from ..errors import UsageError
from .ddim import ddim
from .ddpm import Variance, ddpm
from .dpmpp import dpmpp
from .ipndm import ipndm
from .names import KINDS, SolverName, parse_solver
from .pfdiff import evaluations as pfdiff_evaluations
from .pfdiff import pfdiff
from .plan import Plan
from .schedule import Schedule
from .timesteps import Times, as_run
from .unipc import unipc


@dataclass(frozen=True)
class SolverChoice:
    """A solver's full name with its options; one that it has no use for must stay None."""

    name: str = "ddim"
    eta: float | None = None
    variance: Variance | None = None


def make_plan(
    choice: SolverChoice, schedule: Schedule, times: Times, prediction: Prediction
) -> Plan:
    """Return the plan of a named solver over ascending ``times``.

    Raises:
        UsageError: an unknown solver, an option it does not have, or a value out of range.
    """
    name = parse_solver(choice.name)
    _check_options(name, choice)
    inputs: dict[str, Any] = {
        "solver": str(name),
        "solver_version": KINDS[name.kind].version,
        "times": as_run(times),
    }
    if name.kind == "ddim":
        inputs["eta"] = choice.eta or 0.0
        plan = ddim(schedule, times, prediction=prediction, eta=choice.eta or 0.0)
    elif name.kind == "ddpm":
        inputs["variance"] = variance = choice.variance or "large"
        plan = ddpm(schedule, times, prediction=prediction, variance=variance)
    elif name.kind == "pfdiff":
        k, h = name.args
        plan = pfdiff(schedule, times, k=k, h=h, prediction=prediction)
    else:
        multistep = {"dpm++": dpmpp, "ipndm": ipndm, "unipc": unipc}[name.kind]
        plan = multistep(schedule, times, order=name.args[0], prediction=prediction)
    return replace(plan, inputs=inputs)


def evaluations(name: str, n: int) -> int:
    """Return how many network evaluations a solver makes over ``n`` times."""
    parsed = parse_solver(name)
    return pfdiff_evaluations(n, parsed.args[0]) if parsed.kind == "pfdiff" else n


def most_times(name: str, nfe: int) -> int:
    """Return the largest number of times that costs ``nfe`` evaluations: no hop is cut short."""
    parsed = parse_solver(name)
    if parsed.kind != "pfdiff":
        return nfe
    k = parsed.args[0]
    return (k + 1) * nfe - k


def _check_options(name: SolverName, choice: SolverChoice) -> None:
    if name.kind != "ddpm" and choice.variance is not None:
        other = "ddim has --eta" if name.kind == "ddim" else f"{name} has none"
        raise UsageError(f"--variance belongs to the solver ddpm; {other}")
    if name.kind == "ddpm" and choice.eta is not None:
        raise UsageError("--eta belongs to the solver ddim; ddpm has --variance")
    if name.kind not in ("ddim", "ddpm") and choice.eta:
        raise UsageError(f"--eta {choice.eta:g} belongs to the solver ddim; {name} adds no noise")
