"""From options to one resolved, checked set of settings: everything that decides the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

import torch
from torch import Tensor

from ..categories import classes_within, groups_of
from ..errors import UsageError, unknown
from ..noise import Noise, Stream
from ..option_values import parse_guidance
from ..options import Options
from ..options import options as declared_options
from ..solvers.plan import Plan
from ..solvers.plan_file import read_plan
from ..solvers.table import AnyPlan, GuidedByRow
from ..weights.model import Model

DEFAULT_COUNT = 16


class SampleOptions(TypedDict, total=False):
    """The keyword arguments of ``ddimx.sample`` and its siblings.

    They are the fields of :class:`ddimx.options.Options`, which explain them, but ``count``;
    written out so that editors complete them. ``ddimx sample --help`` lists them too.
    """

    steps: int | Sequence[int] | None
    nfe: int | None
    solver: str | None
    eta: float | None
    variance: Literal["large", "small"] | None
    spacing: str | None
    timesteps: Sequence[float] | None
    plan: Plan | Path | str | None
    clip: float | Literal["none"] | None
    transition: Literal["absorbing", "uniform"] | None
    routing: str | None
    temperature: float | str | None
    redraw: int | None
    clean: bool | None
    guidance: float | str | None
    category: str | Sequence[str] | None
    seed: int
    start_index: int
    batch_size: int | None
    invariant: bool
    engine: Literal["auto", "eager", "pack", "graph", "compile"] | None


@dataclass(frozen=True, eq=False)
class Settings:
    """Everything that determines the samples, besides the model.

    ``engine`` is the wish; what became of it, :mod:`ddimx.sampling.engine` says.
    ``guidance`` is the weight; which rows are guided, the plan's column g says.
    ``clean`` says whether drawn octrees go through :func:`ddimx.octree.clean.cleaned`.
    ``category`` is the class of all samples, or one for each; ``notes`` are remarks that a person
    should see (an unusual number of steps, say).
    """

    plan: AnyPlan
    noise: Noise
    guidance: float
    category: str | tuple[str, ...] | None
    start_index: int
    count: int
    batch_size: int
    invariant: bool
    engine: str = "auto"
    clean: bool = False
    notes: tuple[str, ...] = ()

    @property
    def indices(self) -> range:
        """The sample indices of the run."""
        return range(self.start_index, self.start_index + self.count)

    @property
    def passes(self) -> int:
        """How often the network sees a sample: twice in a row that is guided."""
        if isinstance(self.plan, GuidedByRow):
            return self.plan.passes(self.guidance)
        return self.plan.nfe * (2 if self.guidance != 1.0 else 1)

    @property
    def image_plan(self) -> Plan:
        """The plan, for work that only image models have.

        Raises:
            UsageError: another kind of plan.
        """
        if not isinstance(self.plan, Plan):
            raise UsageError("this needs a model of images, and this model draws something else")
        return self.plan


def default_guidance(model: Model) -> float | str:
    """Return the guidance that a model is drawn with where no other is asked for.

    A model that lost its classes in tuning may still have theirs in its configuration.
    """
    own = model.config.sampling.guidance
    return 1.0 if own is None or not model.process.can_guide else own


def resolve(options: Options, model: Model, *, available: int | None = None) -> Settings:
    """Fill in defaults (the model's, then ours) and check everything.

    Args:
        options: what the user chose.
        model: what will draw.
        available: how many starting states there are (``--init-noise``), which is then the
            default count and its limit.

    Raises:
        UsageError: a value out of range, options that exclude each other, or that are for another
            kind of model.
    """
    process, defaults = model.process, model.config.sampling
    count = options.count or available or DEFAULT_COUNT
    if available is not None and count > available:
        raise UsageError(f"count {count} exceeds the {available} states of the init noise")
    if options.start_index + count > 2**32:
        raise UsageError(f"sample indices must lie in 0..2^32-1, got {options.start_index}+{count}")
    kinds = {name: option.draws for name, option in declared_options().items()}
    for draws in sorted({*kinds.values()} - {None, process.draws}, key=str):
        names = [name for name, kind in kinds.items() if kind == draws]
        if flags := options.flags_given(names):
            raise UsageError(
                f"{', '.join(flags)}: for models of {draws}, '{model.name}' draws {process.draws}"
            )
    notes = model.notes
    if isinstance(options.plan, str | Path):
        plan, origin = read_plan(Path(options.plan))
        options = replace(options, plan=plan)
        if origin.get("model_sha256", model.sha256) != model.sha256:
            origin_model = origin.get("model", "unnamed")
            notes += (f"this plan was searched for other weights ({origin_model})",)
    table = process.plan(options)
    wish = options.guidance if options.guidance is not None else default_guidance(model)
    guidance, start, end = parse_guidance(wish)
    if guidance != 1.0 and not process.can_guide:
        if model.classes:
            raise UsageError(f"--guidance: model '{model.name}' was never trained without a class")
        raise UsageError(f"--guidance needs classes, and model '{model.name}' has none")
    # Where a plan's file says which rows are guided, only the user's own interval replaces it.
    by_plan = isinstance(options.plan, Plan) and (options.plan.g != 1).any()
    if start is not None and end is not None and (options.guidance is not None or not by_plan):
        if not isinstance(table, GuidedByRow):
            raise UsageError(
                f"--guidance {wish}: model '{model.name}' is guided in all of its rows or in none; "
                f"give the weight alone, as {guidance:g}"
            )
        table = table.guided_within(start, end)
    if options.category is not None and not model.classes:
        raise UsageError(f"--category: model '{model.name}' has no classes")
    category = options.category
    none = ("none",) if model.config.model.null_class else ()
    for word in [category] if isinstance(category, str) else category or ():
        if word not in none and not classes_within(model.classes, word):
            raise unknown("category", word, (*groups_of(model.classes), *model.classes, *none))
    if category is not None and not isinstance(category, str):
        category = tuple(category)
        if len(category) != count:
            raise UsageError(f"category has {len(category)} names, for {count} samples")
    batch_size = options.batch_size or defaults.batch_size
    return Settings(
        plan=table,
        noise=Noise(options.seed),
        guidance=guidance,
        category=category,
        start_index=options.start_index,
        count=count,
        batch_size=min(batch_size, count),
        invariant=options.invariant,
        engine=options.engine or "auto",
        clean=defaults.clean if options.clean is None else options.clean,
        notes=(*notes, *table.notes),
    )


def labels_for(settings: Settings, model: Model, samples: Sequence[int]) -> Tensor | None:
    """Return the classes of these samples, int64 [B], or None for an unconditional model.

    Without a category each sample draws its own class from the seed, so that the classes of a
    run are as mixed as the data set's names: first its group, where classes have any, so that a
    group of many classes is drawn no more often. Of a category that is a group, each sample draws
    a class.
    """
    classes, category = model.classes, settings.category
    if not classes:
        return None
    index = torch.tensor(list(samples), dtype=torch.int64)
    groups = groups_of(classes)
    if category is None and not groups:
        return settings.noise.integers(index, (), len(classes), stream=Stream.CATEGORY)
    if category is None:
        rest = [name for name in classes if "/" not in name]  # each like a group of one class
        choices = (*groups, *rest)
        drawn = settings.noise.integers(index, (), len(choices), stream=Stream.CATEGORY)
        words = [choices[i] for i in drawn.tolist()]
    elif isinstance(category, str):
        words = [category] * len(samples)
    else:
        words = [category[i - settings.start_index] for i in samples]
    members = [[len(classes)] if w == "none" else classes_within(classes, w) for w in words]
    # 32 random bits for each sample, times how many classes it may have.
    bits = settings.noise.integers(index, (), 2**32, row=1, stream=Stream.CATEGORY).tolist()
    return torch.tensor([m[(b * len(m)) >> 32] for m, b in zip(members, bits, strict=True)])
