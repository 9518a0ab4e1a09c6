"""Which token plan the options describe, and how many steps make a number of evaluations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..discrete.plan import Routing, TokenPlan
from ..discrete.solvers import make_token_plan
from ..errors import UsageError, unknown
from ..models.octree.process import TRANSITIONS, DiscreteProcess
from ..solvers.registry import AUTO, parse_solver
from ..weights.model import Model
from .plans import refuse

if TYPE_CHECKING:
    from .settings import Asked

DEFAULT_STEPS = 8  # per level; a model's own configuration says what was measured for it
DEFAULT_ROUTING: Routing = "random"
MOST_STEPS = 4096


def make_sampling_token_plan(asked: Asked, model: Model) -> tuple[TokenPlan, tuple[str, ...]]:
    """Return the token plan that the options describe, with remarks on it.

    Raises:
        UsageError: options that images have and tokens do not, or values out of range.
    """
    process, defaults = model.process, model.config.sampling
    assert isinstance(process, DiscreteProcess)
    refuse(asked, ("variance", "timesteps", "plan", "clip"), model, "images", "octrees")
    pfdiff = _pfdiff(asked.solver or defaults.solver or "ddim")
    steps = asked.steps if asked.steps is not None else defaults.steps or DEFAULT_STEPS
    transition = asked.transition or defaults.transition or process.transitions[0]
    if transition not in TRANSITIONS:
        raise unknown("transition", transition, TRANSITIONS)
    eta = asked.eta if asked.eta is not None else defaults.eta
    temperature = asked.temperature if asked.temperature is not None else defaults.temperature

    def plan(steps: int) -> TokenPlan:
        return make_token_plan(
            process.schedule,
            process.depth,
            steps=steps,
            transition=transition,
            eta=eta or 0.0,
            routing=asked.routing or defaults.routing or DEFAULT_ROUTING,
            spacing=asked.spacing or defaults.spacing,
            temperature=1.0 if temperature is None else temperature,
            pfdiff=pfdiff,
        )

    most = min(8 ** (process.depth - 1), MOST_STEPS)  # no level has more cells than that
    if asked.nfe is not None:
        if asked.steps is not None:
            raise UsageError("--nfe gives the number of evaluations; leave --steps out")
        made = _with_evaluations(plan, asked.nfe, most)
    else:
        made = plan(steps)
    remarks = made.notes
    if transition not in process.transitions:
        remarks += (f"'{model.name}' was not trained on {transition} noise",)
    return made, remarks


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
    near = [plan(n) for n in (steps, steps + 1) if 1 <= n <= most]
    fitting = [made for made in near if made.nfe == nfe]
    if not fitting:
        raise UsageError(
            f"no number of steps per level makes exactly {nfe} evaluations; "
            f"nearest: {' and '.join(str(made.nfe) for made in near)}"
        )
    return fitting[0]
