"""From what was asked for to what will be done: one resolved, checked set of settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..config import Transition
from ..discrete.plan import Routing, TokenPlan
from ..errors import UsageError, unknown
from ..models.octree.process import DiscreteProcess
from ..noise import Noise, Stream
from ..solvers.ddpm import Variance
from ..solvers.plan import Plan
from ..weights.model import Model
from .plans import make_sampling_plan
from .token_plans import make_sampling_token_plan

DEFAULT_COUNT = 16

Clip = float | Literal["none"] | None


@dataclass(frozen=True)
class Asked:
    """Sampling options as the command line or Python gives them; None means the default.

    ``nfe`` chooses the number of steps by the number of network evaluations; ``plan`` is a plan or
    a plan file, and replaces everything that would otherwise determine one. ``transition``,
    ``routing`` and ``temperature`` are for models of tokens.
    """

    steps: int | None = None
    nfe: int | None = None
    eta: float | None = None
    solver: str | None = None
    variance: Variance | None = None
    spacing: str | None = None
    timesteps: Sequence[float] | None = None
    plan: Plan | Path | str | None = None
    clip: Clip = None
    transition: Transition | None = None
    routing: Routing | None = None
    temperature: float | None = None
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

    ``table`` is the plan, of either kind; ``notes`` are remarks a person should see (an unusual
    number of steps, say).
    """

    table: Plan | TokenPlan
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

    @property
    def plan(self) -> Plan:
        """The plan of an image model."""
        if not isinstance(self.table, Plan):
            raise UsageError("this needs a model of images, and this one draws octrees")
        return self.table

    @property
    def token_plan(self) -> TokenPlan:
        """The plan of a token model."""
        if not isinstance(self.table, TokenPlan):
            raise UsageError("this needs a model of octrees, and this one draws images")
        return self.table


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
    discrete = isinstance(model.process, DiscreteProcess)
    make = make_sampling_token_plan if discrete else make_sampling_plan
    table, notes = make(asked, model)
    wished = asked.guidance if asked.guidance is not None else defaults.guidance
    guidance = 1.0 if wished is None else wished
    return Settings(
        table=table,
        noise=Noise(asked.seed),
        guidance=_checked_guidance(guidance, model),
        category=_checked_category(asked.category, model),
        start_index=asked.start_index,
        count=count,
        batch_size=min(batch, count),
        invariant=asked.invariant,
        notes=(*model.notes, *notes),
    )


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
