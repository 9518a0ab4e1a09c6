"""How far solvers are from the reference at a number of evaluations, from the same x_T."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ...models.plans import times_for
from ...sampling.settings import Settings
from ...solvers.plan import Plan
from ...solvers.registry import SOLVERS, SolverChoice, all_names, make_plan, parse_solver
from ...solvers.timesteps import BY_LEVEL, SPACINGS
from ...weights.model import Model
from .reference import AfterRow, Reference, rmse, run_plan

ALL_SPACINGS = (*SPACINGS, *BY_LEVEL)
# Without noise they are ddim and, of sde-dpm++, dpm++.
SAME_AS_OTHERS = ("dpm++:1", "ipndm:1", "sde-dpm++:1", "sde-dpm++:2")
DETERMINISTIC = tuple(
    name
    for name in all_names()
    if not SOLVERS[parse_solver(name).kind].adds_noise and name not in SAME_AS_OTHERS
)


@dataclass(frozen=True)
class Measured:
    """The error of x_0 for one solver, spacing and number of evaluations.

    ``rmse`` is over all elements of all samples, in the network's range; ``worst`` is that of the
    worst sample.
    """

    nfe: int
    solver: str
    spacing: str
    rmse: float
    worst: float


def candidates(
    model: Model,
    nfes: Sequence[int],
    solvers: Sequence[str],
    spacings: Sequence[str],
    guided: tuple[float, float] = (0.0, 1.0),
) -> tuple[list[tuple[int, str, str, Plan]], list[str]]:
    """Return (nfe, solver, spacing, plan) of all that exist, and why the others do not.

    ``guided``: the fractions of a plan's rows between which guidance acts.

    Raises:
        UsageError: an unknown solver or spacing, or a solver that adds noise.
    """
    plans, reasons = [], []
    for name in solvers:
        if SOLVERS[parse_solver(name).kind].adds_noise:
            raise UsageError(f"{name} adds noise: its x_0 does not approximate one result")
    schedule = model.process.schedule
    for nfe in nfes:
        for solver in solvers:
            for spacing in spacings:
                choice = SolverChoice(solver, eta=0.0)
                try:
                    times = times_for(nfe, solver, spacing, schedule)
                    plan = make_plan(choice, schedule, times, model.config.diffusion.prediction)
                    plan = plan.guided_within(*guided)
                except UsageError as error:
                    if spacing.partition(":")[0] not in ALL_SPACINGS:
                        raise
                    reasons.append(str(error))
                    continue
                plans.append((nfe, solver, spacing, plan))
    return plans, reasons


def measure(
    model: Model,
    settings: Settings,
    reference: Reference,
    plans: Sequence[tuple[int, str, str, Plan]],
    after_row: AfterRow | None = None,
    after_each: Callable[[Measured], None] | None = None,
) -> list[Measured]:
    """Run every plan from the reference's x_T; ``after_each`` is called after each."""
    results = []
    for nfe, solver, spacing, plan in plans:
        x0 = run_plan(model, settings, plan, after_row)
        worst = (x0 - reference.x0).square().flatten(1).mean(1).max().sqrt()
        results.append(Measured(nfe, solver, spacing, rmse(x0, reference.x0), float(worst)))
        if after_each is not None:
            after_each(results[-1])
    return results


def best_of(results: Sequence[Measured]) -> dict[int, Measured]:
    """Return the result of least error for every number of evaluations."""
    best: dict[int, Measured] = {}
    for result in results:
        if result.nfe not in best or result.rmse < best[result.nfe].rmse:
            best[result.nfe] = result
    return best
