"""Which token plan the options describe, and how many steps make a number of evaluations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast, get_args

from ...config import SamplingConfig, Transition
from ...discrete.plan import Routing, TokenPlan
from ...discrete.solvers import make_token_plan
from ...errors import UsageError
from ...option_values import parse_routing, parse_temperature
from ...options import Options
from ...solvers.registry import AUTO, parse_solver
from ...solvers.schedule import Schedule

TRANSITIONS: tuple[Transition, ...] = get_args(Transition)
DEFAULT_STEPS = 8  # per level; a model's own configuration says what was measured for it
DEFAULT_ROUTING: Routing = "random"
MOST_STEPS = 4096


def token_plan_for(
    options: Options,
    schedule: Schedule,
    depth: int,
    transitions: Sequence[Transition],
    defaults: SamplingConfig,
) -> TokenPlan:
    """Return the token plan that the options describe, with remarks on it in its notes.

    Args:
        options: what the user chose.
        schedule, depth: of the model; its trees have leaves at ``depth``.
        transitions: the kinds of noise that the model was trained on.
        defaults: the model's; what they leave open, ours decide.

    Raises:
        UsageError: a solver that tokens do not have, values out of range, or a number of
            evaluations that no number of steps makes.
    """
    pfdiff = _pfdiff(options.solver or defaults.solver or "ddim")
    transition = options.transition or defaults.transition or transitions[0]
    redraw = options.redraw if options.redraw is not None else defaults.redraw
    routing, bound = parse_routing(options.routing or defaults.routing or DEFAULT_ROUTING)
    eta = options.eta if options.eta is not None else defaults.eta
    wish = options.temperature if options.temperature is not None else defaults.temperature
    pairs = parse_temperature(1.0 if wish is None else wish)
    temperature = pairs if len(pairs) > 1 else pairs[0] if len({*pairs[0]}) > 1 else pairs[0][0]

    def plan(steps: int | Sequence[int]) -> TokenPlan:
        return make_token_plan(
            schedule,
            depth,
            steps=steps if isinstance(steps, int) else tuple(steps),
            transition=transition,
            eta=eta or 0.0,
            routing=cast(Routing, routing),
            entropy_bound=bound,
            spacing=options.spacing or defaults.spacing,
            temperature=temperature,
            pfdiff=pfdiff,
            redraw=redraw or 0,
        )

    if options.nfe is None:
        result = plan(options.steps or defaults.steps or DEFAULT_STEPS)
    elif options.steps is not None:
        raise UsageError("--nfe gives the number of evaluations; omit --steps")
    else:
        most = min(8 ** (depth - 1), MOST_STEPS)  # no level has more cells than that
        result = _with_evaluations(plan, options.nfe, most)
    if transition in transitions:
        return result
    return replace(
        result, notes=(*result.notes, f"this model was not trained on {transition} noise")
    )


def _pfdiff(solver: str) -> tuple[int, int] | None:
    name = None if solver == AUTO else parse_solver(solver)
    if name is not None and name.kind == "ddim":
        return None
    if name is None or name.kind != "pfdiff":
        raise UsageError(f"--solver {solver}: tokens have ddim and pfdiff:k,h")
    k, h = name.args
    return k, h


def _with_evaluations(plan: Callable[[int], TokenPlan], nfe: int, most: int) -> TokenPlan:
    """Return the plan of the most steps per level, of 1..most, that makes ``nfe`` evaluations.

    Raises:
        UsageError: no number of steps does.
    """
    # More steps never make fewer evaluations.
    steps = bisect_right(range(1, most + 1), nfe, key=lambda n: plan(n).nfe)
    candidates = [plan(n) for n in (steps, steps + 1) if 1 <= n <= most]
    matches = [candidate for candidate in candidates if candidate.nfe == nfe]
    if not matches:
        raise UsageError(
            f"no number of steps per level makes exactly {nfe} evaluations; "
            f"nearest: {' and '.join(str(candidate.nfe) for candidate in candidates)}"
        )
    return matches[0]
