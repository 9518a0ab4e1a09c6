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
from ...solvers.timesteps import SPACINGS
from ...weights.model import Model
from .compare import DETERMINISTIC, Measured, best_of, candidates, measure
from .reference import AfterRow, Reference, refine
from .search import Fit, Search, follow

_FOUND = ("status", "reference_error", "results", "best", "missing")
SEARCHED = "searched"
OWN_TIMES = "own"


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured, and the plans that were found, by number of evaluations."""

    facts: dict[str, Any]
    reference_error: float | None = None
    results: list[Measured] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    plans: dict[int, Plan] = field(default_factory=dict)

    @classmethod
    def from_json(cls, record: dict[str, Any], plans: dict[int, Plan]) -> Study:
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
            chosen = choose(nfe)
            by = {(r.solver, r.spacing): r.rmse for r in free if r.nfe == nfe}
            own = f"{by[chosen]:.4f}" if chosen in by else "not measured"
            lines.append(
                f"{nfe} evaluations: {best.solver} with spacing '{best.spacing}' errs least "
                f"({best.rmse:.4f}); --solver auto takes {chosen[0]}, '{chosen[1]}' ({own})"
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
    fitted: Settings | None = None,
    trials: int = 150,
    before: Study | None = None,
    save: Callable[[Study], None] = lambda _: None,
    stop: Stop | None = None,
) -> Study:
    """Measure solvers on the samples of ``settings``; with ``fitted``, search plans on its own.

    Args:
        before: an interrupted study; what it has measured and found is kept.
        save: is given the study after each solver and each plan, so that no more is lost.
        stop: becomes true once somebody asks to stop.

    Raises:
        UsageError: an unknown solver or spacing, a solver that adds noise, or a ``before`` of other
            samples or weights.
        Stopped: somebody asked to stop.
    """
    plans, missing = candidates(model, nfes, solvers or DETERMINISTIC, spacings or tuple(SPACINGS))
    facts = _facts(model, settings, evaluations, fitted, trials)
    mine = replace(_continued(before, facts), missing=missing)
    left = [plan for plan in plans if mine.lacks(*plan[:3])]
    unsearched = [] if fitted is None else [n for n in nfes if n not in mine.plans]
    if not left and not unsearched and mine.reference_error is not None:
        progress.say(f"{len(plans)} of {len(plans)} solvers are measured already")
        return mine
    count = _counter(progress, stop)
    reference = _reference(model, settings, evaluations, progress, count)
    mine = replace(mine, reference_error=reference.own_error)

    def keep(result: Measured) -> None:
        mine.results.append(result)
        save(mine)

    if len(left) < len(plans):
        progress.say(f"{len(plans) - len(left)} of {len(plans)} solvers are measured already")
    progress.start("measuring", sum(len(plan) for *_, plan in left) * settings.count)
    measure(model, settings, reference, left, count, keep)
    if fitted is not None and unsearched:
        search = _search(model, fitted, evaluations, progress, count)
        for nfe in unsearched:
            plan = _found(search, nfe, trials, progress)
            # Where a process ended between the plan's measure and its file, it is found again.
            mine.results[:] = [r for r in mine.results if (r.nfe, r.solver) != (nfe, SEARCHED)]
            mine.plans[nfe] = plan
            measure(model, settings, reference, [(nfe, SEARCHED, OWN_TIMES, plan)], count, keep)
    progress.stop()
    return mine


def _continued(before: Study | None, facts: dict[str, Any]) -> Study:
    """Return the study that goes on, or a fresh one.

    Raises:
        UsageError: ``before`` measured something else.
    """
    if before is None:
        return Study(facts)
    differ = [k for k in {**facts, **before.facts} if facts.get(k) != before.facts.get(k)]
    differ = [key for key in differ if key != "ddimx"]  # a newer version measures the same
    if differ:
        raise UsageError(
            f"the results there are of another study ({', '.join(differ)}); "
            "choose another --out or --overwrite"
        )
    return before


def _reference(
    model: Model, settings: Settings, evaluations: int, progress: Progress, count: AfterRow
) -> Reference:
    progress.start("reference", (evaluations + evaluations // 2) * settings.count)
    reference = refine(model, settings, evaluations, count)
    progress.say(
        f"reference: {reference.evaluations} evaluations, RMSE {reference.own_error:.2g} to that "
        "of half as many"
    )
    return reference


def _search(
    model: Model, settings: Settings, evaluations: int, progress: Progress, count: AfterRow
) -> Search:
    progress.start("trajectories", evaluations * settings.count)
    return Search(model, settings, follow(model, settings, evaluations, count))


def _found(search: Search, nfe: int, trials: int, progress: Progress) -> Plan:
    progress.start(f"searching {nfe} evaluations", trials)

    def tried(fit: Fit) -> None:
        progress.advance(1, f"RMSE {fit.rmse:.4f}")

    return search.plan(search.best(nfe, trials, tried))


def _counter(progress: Progress, stop: Stop | None) -> AfterRow:
    def count(_: Step, samples: Sequence[int]) -> None:
        progress.advance(len(samples))
        if stop:
            raise Stopped

    return count


def _facts(
    model: Model, settings: Settings, evaluations: int, fitted: Settings | None, trials: int
) -> dict[str, Any]:
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
    if fitted is not None:
        facts |= {"search_seed": fitted.noise.seed, "search_count": fitted.count, "trials": trials}
    return facts
