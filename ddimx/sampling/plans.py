"""Which plan the options describe: a solver over chosen times, or a plan file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from ..errors import UsageError
from ..solvers import auto
from ..solvers.ddpm import Variance
from ..solvers.plan import Plan
from ..solvers.plan_file import check_fits, read_plan
from ..solvers.registry import AUTO, SolverChoice, evaluations, most_times, parse_solver
from ..solvers.timesteps import Times, explicit, spaced
from ..weights.model import Model

if TYPE_CHECKING:
    from .settings import Asked

DEFAULT_STEPS = 50

T = TypeVar("T")
Notes = tuple[str, ...]


@dataclass(frozen=True)
class _Chosen:
    """A solver's name and times, with remarks on how they were found."""

    solver: str
    times: Times
    notes: Notes


def make_sampling_plan(asked: Asked, model: Model) -> tuple[Plan, Notes]:
    """Return the plan that the options describe, with remarks on it.

    Raises:
        UsageError: options that exclude each other, or that no plan meets.
    """
    refuse(asked, ("transition", "routing", "temperature"), model, "octrees", "images")
    if asked.plan is not None:
        plan, notes = _given_plan(asked, asked.plan, model)
        return _clipped(plan, asked.clip), notes
    defaults = model.config.sampling
    chosen = _choose(asked, model)
    kind = parse_solver(chosen.solver).kind
    eta = asked.eta if asked.eta is not None or kind != "ddim" else defaults.eta
    variance: Variance | None = asked.variance
    if kind == "ddpm" and variance is None:
        variance = "small" if model.config.model.var_type == "fixedsmall" else "large"
    plan = model.process.plan(SolverChoice(chosen.solver, eta, variance), chosen.times)
    clip = asked.clip if asked.clip is not None or kind != "ddim" else defaults.clip
    return _clipped(plan, clip), chosen.notes + plan.notes


def refuse(asked: Asked, names: Sequence[str], model: Model, theirs: str, draws: str) -> None:
    """Raise UsageError if any of these options is given, which only other models have."""
    given = [f"--{name}" for name in names if getattr(asked, name) is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)}: for models of {theirs}, '{model.name}' draws {draws}"
        )


def times_for(nfe: int, solver: str, spacing: str, total: int) -> Times:
    """Return the times of a spacing with which a solver makes exactly ``nfe`` evaluations.

    Of several numbers of steps, the one that gives the most times at this cost, then the nearest.

    Raises:
        UsageError: a number below 1, or that no number of steps gives.
    """
    if nfe < 1:
        raise UsageError(f"nfe must be at least 1, got {nfe}")
    aim = most_times(solver, nfe)
    counts = {steps: len(spaced(spacing, total, steps)) for steps in range(1, total + 1)}
    costs = {steps: evaluations(solver, n) for steps, n in counts.items()}
    fitting = [steps for steps in counts if costs[steps] == nfe]
    if not fitting:
        below = [cost for cost in costs.values() if cost < nfe]
        above = [cost for cost in costs.values() if cost > nfe]
        near = [*([max(below)] if below else []), *([min(above)] if above else [])]
        raise UsageError(
            f"{solver} with spacing '{spacing}' never makes exactly {nfe} evaluations; "
            f"nearest: {' and '.join(str(n) for n in near)}"
        )
    best = min(fitting, key=lambda steps: (abs(counts[steps] - aim), abs(steps - aim)))
    return spaced(spacing, total, best)


def _choose(asked: Asked, model: Model) -> _Chosen:
    defaults, total = model.config.sampling, model.process.schedule.num_timesteps
    if asked.nfe is not None and asked.steps is not None:
        raise UsageError("--nfe gives the number of evaluations; leave --steps out")
    solver: str = _first(asked.solver, defaults.solver, "ddim")
    spacing: str = _first(asked.spacing, defaults.spacing, "ddim")
    steps = _first(asked.nfe, asked.steps, defaults.steps, DEFAULT_STEPS)
    nfe = asked.nfe
    notes: Notes = ()
    if solver == AUTO:
        _check_auto(asked)
        nfe = steps  # what a step costs differs between solvers: auto goes by evaluations
        solver, best = auto.choose(nfe)
        spacing = _first(asked.spacing, best)
        notes = (f"auto: {solver} with spacing '{spacing}' for {nfe} evaluations",)
    if asked.timesteps is not None:
        if (asked.steps, asked.nfe, asked.spacing) != (None, None, None):
            raise UsageError("--timesteps lists the times; leave --steps and --spacing out")
        return _Chosen(solver, explicit(asked.timesteps, total), notes)
    if nfe is not None:
        times = times_for(nfe, solver, spacing, total)
    else:
        times = spaced(spacing, total, steps)
        notes += _count_remark(spacing, steps, times)
    return _Chosen(solver, times, notes + _start_remark(spacing, times))


def _check_auto(asked: Asked) -> None:
    if asked.eta or asked.variance is not None:
        raise UsageError("--solver auto chooses among deterministic solvers; name one instead")
    if asked.timesteps is not None:
        raise UsageError("--solver auto chooses the times too; name a solver beside --timesteps")


def _given_plan(asked: Asked, given: Plan | Path | str, model: Model) -> tuple[Plan, Notes]:
    others = ("solver", "steps", "nfe", "spacing", "timesteps", "eta", "variance")
    excess = [f"--{name}" for name in others if getattr(asked, name) is not None]
    if excess:
        raise UsageError(f"--plan holds solver and times; leave {', '.join(excess)} out")
    plan, found = (given, {}) if isinstance(given, Plan) else read_plan(Path(given))
    check_fits(plan, model.process.schedule, model.config.diffusion.prediction)
    notes = []
    if found.get("model_sha256", model.sha256) != model.sha256:
        notes.append(f"this plan was searched for other weights ({found.get('model', 'unnamed')})")
    return plan, (*notes, *plan.notes)


def _clipped(plan: Plan, clip: float | Literal["none"] | None) -> Plan:
    return plan if clip is None else plan.with_clip(None if clip == "none" else float(clip))


def _count_remark(spacing: str, steps: int, times: Sequence[float] | Times) -> Notes:
    if len(times) == steps:
        return ()
    return (f"spacing '{spacing}' with {steps} steps visits {len(times)} timesteps",)


def _start_remark(spacing: str, times: Times) -> Notes:
    if len(times) > 1 or times[0] != 0:
        return ()
    return (f"spacing '{spacing}' with 1 step starts at t=0; try --spacing trailing",)


def _first(*values: T | None) -> T:
    """Return the first value that is set; the last one is our default and always is."""
    return next(v for v in values if v is not None)
