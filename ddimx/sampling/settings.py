"""From what was asked for to what will be done: one resolved, checked set of settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, unknown
from ..noise import Noise, Stream
from ..plan import Plan
from ..solvers.ddpm import Variance
from ..solvers.registry import SolverChoice
from ..timesteps import Times, explicit, spaced
from ..weights.model import Model

DEFAULT_STEPS = 50
DEFAULT_COUNT = 16

T = TypeVar("T")
Clip = float | Literal["none"] | None


@dataclass(frozen=True)
class Asked:
    """Sampling options as the command line or Python gives them; None means the default."""

    steps: int | None = None
    eta: float | None = None
    solver: str | None = None
    variance: Variance | None = None
    spacing: str | None = None
    timesteps: Sequence[float] | None = None
    clip: Clip = None
    guidance: float | None = None
    category: str | None = None
    seed: int = 0
    start_index: int = 0
    count: int | None = None
    batch_size: int | None = None
    invariant: bool = False


@dataclass(frozen=True, eq=False)
class Settings:
    """Everything that determines the samples, besides the model.

    ``notes`` are remarks a person should see (an unusual number of steps, say).
    """

    plan: Plan
    noise: Noise
    guidance: float
    category: str | None
    start_index: int
    count: int
    batch_size: int
    invariant: bool
    notes: tuple[str, ...] = ()

    @property
    def indices(self) -> range:
        """The sample indices of the run."""
        return range(self.start_index, self.start_index + self.count)


def resolve(asked: Asked, model: Model, *, available: int | None = None) -> Settings:
    """Fill in defaults (the model's, then ours) and check everything.

    Args:
        available: how many starting states were given (``--init-noise``), which is then the
            default count and its limit.

    Raises:
        UsageError: a value out of range, or options that exclude each other.
    """
    defaults = model.config.sampling
    count = asked.count if asked.count is not None else available or DEFAULT_COUNT
    if count < 1:
        raise UsageError(f"count must be at least 1, got {count}")
    if available is not None and count > available:
        raise UsageError(f"count {count} exceeds the {available} states of the init noise")
    if asked.start_index < 0 or asked.start_index + count > 2**32:
        raise UsageError(f"sample indices must lie in 0..2^32-1, got {asked.start_index}+{count}")
    batch = asked.batch_size if asked.batch_size is not None else defaults.batch_size
    if batch < 1:
        raise UsageError(f"batch-size must be at least 1, got {batch}")
    plan, notes = make_sampling_plan(asked, model)
    guidance = _first(asked.guidance, defaults.guidance, 1.0)
    return Settings(
        plan=plan,
        noise=Noise(asked.seed),
        guidance=_checked_guidance(guidance, model),
        category=_checked_category(asked.category, model),
        start_index=asked.start_index,
        count=count,
        batch_size=min(batch, count),
        invariant=asked.invariant,
        notes=(*model.notes, *notes),
    )


def make_sampling_plan(asked: Asked, model: Model) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan that the options describe, with remarks on it."""
    defaults, total = model.config.sampling, model.process.schedule.num_timesteps
    solver = _first(asked.solver, defaults.solver, "ddim")
    if asked.timesteps is not None:
        if asked.steps is not None or asked.spacing is not None:
            raise UsageError("--timesteps lists the times; leave --steps and --spacing out")
        notes: tuple[str, ...] = ()
        times = explicit(asked.timesteps, total)
    else:
        steps = _first(asked.steps, defaults.steps, DEFAULT_STEPS)
        spacing: str = _first(asked.spacing, defaults.spacing, "ddim")
        times = spaced(spacing, total, steps)
        notes = _remarks(spacing, steps, times)
    eta = asked.eta if asked.eta is not None or solver != "ddim" else defaults.eta
    variance = asked.variance
    if solver == "ddpm" and variance is None:
        variance = "small" if model.config.model.var_type == "fixedsmall" else "large"
    plan = model.process.plan(SolverChoice(solver, eta, variance), times)
    clip = asked.clip if asked.clip is not None or solver != "ddim" else defaults.clip
    if clip is not None:
        plan = plan.with_clip(None if clip == "none" else float(clip))
    return plan, notes


def labels_for(settings: Settings, model: Model, samples: Sequence[int]) -> Tensor | None:
    """Return the classes of these samples, int64 [B], or None for an unconditional model.

    Without a category each sample draws its own class from the seed, so that the classes of a
    run are as mixed as the data set's names.
    """
    classes = model.classes
    if not classes:
        return None
    index = torch.tensor(list(samples), dtype=torch.int64)
    if settings.category is not None:
        if settings.category == "none":
            return torch.full_like(index, len(classes))
        return torch.full_like(index, classes.index(settings.category))
    return settings.noise.integers(index, (), len(classes), stream=Stream.CATEGORY)


def _remarks(spacing: str, steps: int, times: Times) -> tuple[str, ...]:
    notes = []
    if len(times) != steps:
        notes.append(f"spacing '{spacing}' with {steps} steps visits {len(times)} timesteps")
    if len(times) == 1 and times[0] == 0:
        notes.append(f"spacing '{spacing}' with 1 step starts at t=0; try --spacing trailing")
    return tuple(notes)


def _checked_guidance(guidance: float, model: Model) -> float:
    if not np.isfinite(guidance):
        raise UsageError(f"guidance must be a finite number, got {guidance}")
    if guidance != 1.0 and not model.classes:
        raise UsageError(f"--guidance needs classes, and model '{model.name}' has none")
    return guidance


def _checked_category(category: str | None, model: Model) -> str | None:
    if category is None:
        return None
    if not model.classes:
        raise UsageError(f"--category: model '{model.name}' has no classes")
    if category not in (*model.classes, "none"):
        raise unknown("category", category, (*model.classes, "none"))
    return category


def _first(*values: T | None) -> T:
    """Return the first value that is set; the last one is our default and always is."""
    return next(v for v in values if v is not None)
