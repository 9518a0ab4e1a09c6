"""Which token plan the options describe, and how many steps make a number of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..discrete.plan import Routing, TokenPlan
from ..discrete.solvers import make_token_plan
from ..errors import UsageError, unknown
from ..models.octree.process import TRANSITIONS, DiscreteProcess
from ..solvers.names import parse_solver
from ..weights.model import Model

if TYPE_CHECKING:
    from .settings import Asked

DEFAULT_STEPS = 8  # per level; measured, see README
DEFAULT_ROUTING: Routing = "random"
MOST_STEPS = 4096
# Options that only make sense for images.
FOREIGN = ("variance", "timesteps", "plan", "clip")


def make_sampling_token_plan(asked: Asked, model: Model) -> tuple[TokenPlan, tuple[str, ...]]:
    """Return the token plan that the options describe, with remarks on it.

    Raises:
        UsageError: options that images have and tokens do not, or values out of range.
    """
    process, defaults = model.process, model.config.sampling
    assert isinstance(process, DiscreteProcess)
    foreign = [f"--{name}" for name in FOREIGN if getattr(asked, name) is not None]
    if foreign:
        raise UsageError(
            f"{', '.join(foreign)}: for models of images, '{model.name}' draws octrees"
        )
    pfdiff = _pfdiff(asked.solver or defaults.solver or "ddim")
    transition = asked.transition or process.transitions[0]
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
            spacing=asked.spacing,
            temperature=1.0 if temperature is None else temperature,
            pfdiff=pfdiff,
        )

    if asked.nfe is not None:
        if asked.steps is not None:
            raise UsageError("--nfe gives the number of evaluations; leave --steps out")
        made = _with_evaluations(plan, asked.nfe)
    else:
        own = DEFAULT_STEPS if defaults.steps is None else defaults.steps
        made = plan(own if asked.steps is None else asked.steps)
    remarks = made.notes
    if transition not in process.transitions:
        remarks += (f"'{model.name}' was not trained on {transition} noise",)
    return made, remarks


def _pfdiff(solver: str) -> tuple[int, int] | None:
    name = parse_solver(solver)
    if name.kind == "ddim":
        return None
    if name.kind != "pfdiff":
        raise UsageError(f"--solver {solver}: tokens have ddim and pfdiff:k,h")
    k, h = name.args
    return k, h


def _with_evaluations(plan: Callable[[int], TokenPlan], nfe: int) -> TokenPlan:
    """Return the plan of the most steps per level that makes exactly ``nfe`` evaluations.

    Raises:
        UsageError: no number of steps does.
    """
    below, steps, made = 0, 1, plan(1)
    fitting: TokenPlan | None = None
    while made.nfe <= nfe and steps < MOST_STEPS:
        if made.nfe == nfe:
            fitting = made
        else:
            below = made.nfe
        steps += 1
        made = plan(steps)
    if fitting is None:
        near = [str(n) for n in (below, made.nfe) if n]
        raise UsageError(
            f"no number of steps per level makes exactly {nfe} evaluations; "
            f"nearest: {' and '.join(near)}"
        )
    return fitting
