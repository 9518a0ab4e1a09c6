"""A whole comparison of solvers on one model: reference, errors, searched plans, their record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ... import __version__
from ...errors import UsageError
from ...progress import Progress
from ...runs.run import Stopped
from ...sampling.settings import Settings
from ...signals import Stop
from ...solvers.auto import choose
from ...solvers.executor import Step
from ...solvers.plan import Plan
from ...weights.model import Model
from .compare import ALL_SPACINGS, DETERMINISTIC, Measured, best_of, candidates, measure
from .reference import refine
from .search import Fit, Search, follow

_FOUND = ("status", "reference_error", "results", "best", "missing")
SEARCHED = "searched"
OWN_TIMES = "own"


@dataclass(frozen=True, eq=False)
class SolverStudy:
    """What was measured, and the plans that were found, by number of evaluations."""

    facts: dict[str, Any]
    reference_error: float | None = None
    results: list[Measured] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    plans: dict[int, Plan] = field(default_factory=dict)

    @classmethod
    def from_json(cls, record: dict[str, Any], plans: dict[int, Plan]) -> SolverStudy:
        """Build a study from its record and the plans beside it.

        Raises:
            KeyError, TypeError: not such a record.
        """
        results = [Measured(**result) for result in record["results"]]
        facts = {key: record[key] for key in record if key not in _FOUND}
        return cls(facts, record["reference_error"], results, list(record["missing"]), plans)

    def to_json(self, status: str = "complete") -> dict[str, Any]:
        """Return everything but the plans as JSON values."""
        return {
            "status": status,
            **self.facts,
            "reference_error": self.reference_error,
            "results": [asdict(r) for r in self.results],
            "best": {str(nfe): asdict(r) for nfe, r in best_of(self.results).items()},
            "missing": self.missing,
        }

    def lacks(self, nfe: int, solver: str, spacing: str) -> bool:
        """Return whether this is not measured yet."""
        return not any((r.nfe, r.solver, r.spacing) == (nfe, solver, spacing) for r in self.results)

    def found(self, nfe: int) -> dict[str, Any]:
        """Return the record that is kept beside a searched plan."""
        errors = {r.solver + " " + r.spacing: r.rmse for r in self.results if r.nfe == nfe}
        return {**self.facts, "nfe": nfe, "rmse": errors}

    def in_words(self) -> list[str]:
        """Return the best free solver of every number, beside what ``--solver auto`` takes."""
        lines = []
        free = [r for r in self.results if r.solver != SEARCHED]
        for nfe, best in best_of(free).items():
            entry = choose(nfe)
            by = {(r.solver, r.spacing): r.rmse for r in free if r.nfe == nfe}
            own = f"{by[entry]:.4f}" if entry in by else "not measured"
            lines.append(
                f"{nfe} evaluations: {best.solver} with spacing '{best.spacing}' errs least "
                f"({best.rmse:.4f}); --solver auto takes {entry[0]}, '{entry[1]}' ({own})"
            )
        return lines


def study(
    model: Model,
    settings: Settings,
    nfes: Sequence[int],
    solvers: Sequence[str] | None,
    spacings: Sequence[str] | None,
    evaluations: int,
    progress: Progress,
    *,
    guided: tuple[float, float] = (0.0, 1.0),
    search_settings: Settings | None = None,
    trials: int = 150,
    earlier: SolverStudy | None = None,
    save: Callable[[SolverStudy], None] = lambda _: None,
    stop: Stop | None = None,
) -> SolverStudy:
    """Measure solvers on the samples of ``settings``; search plans on those of ``search_settings``.

    Args:
        guided: the fractions of the rows between which guidance acts, of the reference's too.
        earlier: an interrupted study; what it has measured and found is kept.
        save: is given the study after each solver and each plan, so that no more is lost.
        stop: becomes true once somebody asks to stop.

    Raises:
        UsageError: an unknown solver or spacing, a solver that adds noise, or ``earlier`` of other
            samples or weights.
        Stopped: somebody asked to stop.
    """
    names = solvers or DETERMINISTIC, spacings or ALL_SPACINGS
    plans, reasons = candidates(model, nfes, *names, guided)
    facts: dict[str, Any] = {
        "ddimx": __version__,
        "model": model.name,
        "model_sha256": model.sha256,
        "guidance": settings.guidance,
        "category": settings.category,
        "dtype": model.precision.name,
        "seed": settings.noise.seed,
        "count": settings.count,
        "reference_evaluations": evaluations,
    }
    if guided != (0.0, 1.0):
        facts["guided"] = list(guided)
    if search_settings is not None:
        facts |= {
            "search_seed": search_settings.noise.seed,
            "search_count": search_settings.count,
            "trials": trials,
        }
    outcome = replace(_continued(earlier, facts), missing=reasons)
    pending = [plan for plan in plans if outcome.lacks(*plan[:3])]
    unsearched = [] if search_settings is None else [n for n in nfes if n not in outcome.plans]
    if not pending and not unsearched and outcome.reference_error is not None:
        progress.say(f"{len(plans)} of {len(plans)} solvers are measured already")
        return outcome

    def count(_: Step, samples: Sequence[int]) -> None:
        progress.advance(len(samples))
        if stop:
            raise Stopped

    progress.start("reference", (evaluations + evaluations // 2) * settings.count)
    reference = refine(model, settings, evaluations, count, guided)
    progress.say(
        f"reference: {reference.evaluations} evaluations, RMSE {reference.own_error:.2g} to that "
        "of half as many"
    )
    outcome = replace(outcome, reference_error=reference.own_error)

    def keep(result: Measured) -> None:
        outcome.results.append(result)
        save(outcome)

    if len(pending) < len(plans):
        progress.say(f"{len(plans) - len(pending)} of {len(plans)} solvers are measured already")
    progress.start("measuring", sum(len(plan) for *_, plan in pending) * settings.count)
    measure(model, settings, reference, pending, count, keep)
    if search_settings is not None and unsearched:
        progress.start("trajectories", evaluations * search_settings.count)
        search = Search(model, search_settings, follow(model, search_settings, evaluations, count))
        for nfe in unsearched:
            progress.start(f"searching {nfe} evaluations", trials)

            def tried(fit: Fit) -> None:
                progress.advance(1, f"RMSE {fit.rmse:.4f}")

            plan = search.plan(search.best(nfe, trials, tried))
            # Where a process ended between the plan's measure and its file, it is found again.
            outcome.results[:] = [
                r for r in outcome.results if (r.nfe, r.solver) != (nfe, SEARCHED)
            ]
            outcome.plans[nfe] = plan
            measure(model, settings, reference, [(nfe, SEARCHED, OWN_TIMES, plan)], count, keep)
    progress.stop()
    return outcome


def _continued(earlier: SolverStudy | None, facts: dict[str, Any]) -> SolverStudy:
    """Return the study that goes on, or a fresh one.

    Raises:
        UsageError: ``earlier`` measured something else.
    """
    if earlier is None:
        return SolverStudy(facts)
    differ = [k for k in {**facts, **earlier.facts} if facts.get(k) != earlier.facts.get(k)]
    differ = [key for key in differ if key != "ddimx"]  # a newer version measures the same
    if differ:
        raise UsageError(
            f"the results there are of another study ({', '.join(differ)}); "
            "choose another --out or --overwrite"
        )
    return earlier
