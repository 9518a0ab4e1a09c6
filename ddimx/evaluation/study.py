"""A whole comparison of solvers on one model: reference, errors, searched plans, their record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import __version__
from ..plan import Plan
from ..progress import Progress
from ..sampling.settings import Settings
from ..solvers.auto import choose
from ..solvers.executor import Step
from ..timesteps import SPACINGS
from ..weights.model import Model
from .reference import Reference, refine
from .search import Fit, Search, follow
from .solvers import DETERMINISTIC, Measured, best_of, candidates, measure

SEARCHED = "searched"
OWN_TIMES = "own"


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured, and the plans that were found, by number of evaluations."""

    facts: dict[str, Any]
    reference_error: float
    results: list[Measured]
    missing: list[str]
    plans: dict[int, Plan] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the plans as JSON values."""
        return {
            **self.facts,
            "reference_error": self.reference_error,
            "results": [asdict(r) for r in self.results],
            "best": {str(nfe): asdict(r) for nfe, r in best_of(self.results).items()},
            "missing": self.missing,
        }

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
) -> Study:
    """Measure solvers on the samples of ``settings``; with ``fitted``, search plans on its own.

    Raises:
        UsageError: an unknown solver or spacing, or a solver that adds noise.
    """
    plans, missing = candidates(model, nfes, solvers or DETERMINISTIC, spacings or tuple(SPACINGS))
    reference = _reference(model, settings, evaluations, progress)
    rows = sum(len(plan) for *_, plan in plans)
    progress.start("measuring", rows * settings.count)
    results = measure(model, settings, reference, plans, _counter(progress))
    found: dict[int, Plan] = {}
    if fitted is not None:
        found = _search(model, fitted, nfes, evaluations, trials, progress)
        own = [(nfe, SEARCHED, OWN_TIMES, plan) for nfe, plan in found.items()]
        results += measure(model, settings, reference, own)
    progress.stop()
    facts = _facts(model, settings, reference, fitted)
    return Study(facts, reference.own_error, results, missing, found)


def _reference(model: Model, settings: Settings, evaluations: int, progress: Progress) -> Reference:
    progress.start("reference", (evaluations + evaluations // 2) * settings.count)
    reference = refine(model, settings, evaluations, _counter(progress))
    progress.say(
        f"reference: {reference.evaluations} evaluations, RMSE {reference.own_error:.2g} to that "
        "of half as many"
    )
    return reference


def _search(
    model: Model,
    settings: Settings,
    nfes: Sequence[int],
    evaluations: int,
    trials: int,
    progress: Progress,
) -> dict[int, Plan]:
    progress.start("trajectories", evaluations * settings.count)
    search = Search(model, settings, follow(model, settings, evaluations, _counter(progress)))
    found = {}
    for nfe in nfes:
        progress.start(f"searching {nfe} evaluations", trials)

        def tried(fit: Fit) -> None:
            progress.advance(1, f"RMSE {fit.rmse:.4f}")

        found[nfe] = search.plan(search.best(nfe, trials, tried))
    return found


def _counter(progress: Progress) -> Any:
    def count(_: Step, samples: Sequence[int]) -> None:
        progress.advance(len(samples))

    return count


def _facts(
    model: Model, settings: Settings, reference: Reference, fitted: Settings | None
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
        "reference_evaluations": reference.evaluations,
    }
    if fitted is not None:
        facts |= {"search_seed": fitted.noise.seed, "search_count": fitted.count}
    return facts
