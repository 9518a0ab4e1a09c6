"""Which plan the options describe: a solver over chosen times, or a given plan."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ..config import Prediction, SamplingConfig
from ..errors import UsageError, unknown
from ..option_values import one_number_of_steps
from ..options import Options
from ..solvers import auto
from ..solvers.ddpm import Variance
from ..solvers.plan import Plan
from ..solvers.plan_file import check_fits
from ..solvers.registry import (
    AUTO,
    SOLVERS,
    SolverChoice,
    evaluations,
    make_plan,
    most_times,
    parse_solver,
)
from ..solvers.schedule import Schedule
from ..solvers.timesteps import BY_LEVEL, SPACINGS, Times, explicit, moved, spaced, times_of

DEFAULT_STEPS = 50
# What a model's defaults leave open. A flow starts at pure noise, its last time, and equal steps of
# "trailing" are Euler's on its straight paths; EDM's own list of noise levels is evenly spaced.
_SPACINGS: dict[Prediction, str] = {"flow": "trailing", "edm": "linspace"}


def plan_for(
    options: Options,
    schedule: Schedule,
    prediction: Prediction,
    defaults: SamplingConfig,
    variance: Variance = "large",
) -> Plan:
    """Return the plan that the options describe, with remarks on it in its notes.

    Args:
        options: as chosen; ``plan`` is a :class:`ddimx.solvers.plan.Plan` here, not a file.
        schedule, prediction: of the model.
        defaults: the model's; what they leave open, ours decide: 50 steps of DDIM, with the
            spacing "ddim", of a flow "trailing", of EDM "linspace".
        variance: ddpm's, where the options name none.

    Raises:
        UsageError: options that exclude each other, or that no plan meets.
    """
    clip = options.clip
    if options.plan is not None:
        others = ("solver", "steps", "nfe", "spacing", "timesteps", "eta", "variance")
        excess = options.flags_given(others)
        if excess:
            raise UsageError(f"--plan holds solver and times; omit {', '.join(excess)}")
        check_fits(options.plan, schedule, prediction)
        plan: Plan = options.plan
    else:
        spacing = options.spacing or defaults.spacing or _SPACINGS.get(prediction, "ddim")
        solver, times, notes = _solver_and_times(options, schedule, defaults, spacing)
        kind = parse_solver(solver).kind
        choice = SolverChoice(solver, options.eta, options.variance)
        # A model's eta is meant for its own solver, and for ddim.
        own = ("ddim", (defaults.solver or "ddim").partition(":")[0])
        if "eta" in SOLVERS[kind].options and choice.eta is None and kind in own:
            choice = replace(choice, eta=defaults.eta)
        if "variance" in SOLVERS[kind].options and choice.variance is None:
            choice = replace(choice, variance=variance)
        final = 0.0 if kind == "ddim" and defaults.end_at_zero else None
        plan = make_plan(choice, schedule, times, prediction, final=final)
        plan = replace(plan, notes=notes + plan.notes)
        if clip is None and defaults.dynamic_threshold and kind in ("ddim", "ddpm"):
            return plan.with_threshold(*defaults.dynamic_threshold)
        if kind == "ddim" and clip is None:
            clip = defaults.clip
    if clip is None:
        return plan
    return plan.with_clip(None if clip == "none" else clip)


def times_for(nfe: int, solver: str, spacing: str, schedule: Schedule) -> Times:
    """Return the times of a spacing with which a solver makes exactly ``nfe`` evaluations.

    Of several numbers of steps, the one that gives the most times at this cost, then the nearest.

    Raises:
        UsageError: a number below 1, or that no number of steps gives.
    """
    if nfe < 1:
        raise UsageError(f"nfe must be at least 1, got {nfe}")
    aim = most_times(solver, nfe)
    counts = _counts(spacing, schedule.num_timesteps)
    cost_of = {n: evaluations(solver, n) for n in set(counts.values())}
    costs = {steps: cost_of[n] for steps, n in counts.items()}
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
    return times_of(spacing, schedule, best)


@lru_cache(maxsize=16)
def _counts(spacing: str, total: int) -> dict[int, int]:
    """Return how many times a spacing has for each number of steps."""
    every = range(1, total + 1)
    if spacing.partition(":")[0] in BY_LEVEL:
        return {steps: steps for steps in every}
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, [*SPACINGS, *BY_LEVEL])
    return {steps: len(spaced(spacing, total, steps)) for steps in every}


def _solver_and_times(
    options: Options, schedule: Schedule, defaults: SamplingConfig, spacing: str
) -> tuple[str, Times, tuple[str, ...]]:
    """Return a solver's name and its times, with remarks on how they were chosen.

    ``spacing`` is for a solver that is named; "auto" chooses its own where the options do not.
    """
    if options.nfe is not None and options.steps is not None:
        raise UsageError("--nfe gives the number of evaluations; omit --steps")
    solver = options.solver or defaults.solver or "ddim"
    wish = options.nfe or options.steps or defaults.steps or DEFAULT_STEPS
    steps = one_number_of_steps(wish)
    nfe = options.nfe
    notes: tuple[str, ...] = ()
    if solver == AUTO:
        if options.eta or options.variance is not None:
            raise UsageError("--solver auto chooses among deterministic solvers; name one instead")
        if options.timesteps is not None:
            raise UsageError("--solver auto chooses the times too; name a solver with --timesteps")
        nfe = steps  # what a step costs differs between solvers: auto goes by evaluations
        solver, best = auto.choose(nfe)
        spacing = options.spacing or best
        notes = (f"auto: {solver} with spacing '{spacing}' for {nfe} evaluations",)
    if options.timesteps is not None:
        if (options.steps, options.nfe, options.spacing) != (None, None, None):
            raise UsageError("--timesteps lists the times; omit --steps and --spacing")
        return solver, explicit(options.timesteps, schedule.num_timesteps), notes
    if nfe is not None:
        times = times_for(nfe, solver, spacing, schedule)
    else:
        times = times_of(spacing, schedule, steps)
        if len(times) != steps:
            notes += (f"spacing '{spacing}' with {steps} steps visits {len(times)} timesteps",)
    if spacing == "leading" and defaults.steps_offset:
        times = moved(times, defaults.steps_offset, schedule.num_timesteps)
    if len(times) == 1 and times[0] == 0:
        notes += (f"spacing '{spacing}' with 1 step starts at t=0; try --spacing trailing",)
    return solver, times, notes
