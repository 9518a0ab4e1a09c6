"""Nats per shape: the variational bound of a token model on octrees, as a record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...config import Transition
from ...data.arrays import Integers
from ...data.shapes.octrees import ShapeSource
from ...errors import DdimxError, UsageError, unknown
from ...models.octree.plans import TRANSITIONS
from ...models.octree.process import DiscreteProcess
from ...noise import Noise
from ...progress import Progress
from ...runs.batches import in_batches
from ...weights.model import Model
from .bits import Array, MeanWithError
from .examples import facts, spread
from .token_bound import TokenBound


@dataclass(frozen=True)
class TokenSettings:
    """How the bound is measured.

    Attributes:
        terms: how many steps are drawn for every level of a shape; with as many as the schedule
            has, or more, the sum runs over all of them once.
        transition: the kind of noise; None takes the first that the model was trained on.
    """

    count: int
    seed: int = 0
    terms: int = 100
    transition: Transition | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1 or self.terms < 1:
            raise UsageError("count, batch-size and terms must be at least 1")
        if self.transition is not None and self.transition not in TRANSITIONS:
            raise unknown("transition", self.transition, TRANSITIONS)


@dataclass(frozen=True, eq=False)
class TokenNll:
    """The bound of every shape, and how it came about.

    Attributes:
        facts: model, data and settings.
        shapes: int64 [N], the shapes' numbers in their source.
        nats: float64 [N, depth], by level; a shape's bound is the sum over levels.
        tokens: int64 [N, depth], how many tokens these are.
        leaves: int64 [N], occupied cells.
    """

    facts: dict[str, Any]
    shapes: Integers
    nats: Array
    tokens: Integers
    leaves: Integers

    def columns(self) -> dict[str, Array]:
        """Return by name what was measured of every shape, float64 [N]."""
        depth = self.nats.shape[1]
        total = self.nats.sum(axis=1)
        bits = total / math.log(2)
        return {
            "nats": total,
            **{f"nats_level_{d}": self.nats[:, d] for d in range(depth)},
            "nats_per_token": total / self.tokens.sum(axis=1),
            "bits_per_leaf": bits / self.leaves,
            "bits_per_voxel": bits / 8.0**depth,
        }

    def table(self) -> tuple[tuple[str, Integers], dict[str, Array]]:
        """Return the shapes' numbers under their name, and :meth:`columns`."""
        return ("shape", self.shapes), self.columns()

    def figures(self) -> dict[str, MeanWithError]:
        """Return mean and standard error over shapes of every column."""
        return {name: MeanWithError.of(values) for name, values in self.columns().items()}

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single shapes as JSON values."""
        figures = {name: asdict(figure) for name, figure in self.figures().items()}
        means = {
            "tokens_per_level": self.tokens.mean(axis=0).tolist(),
            "leaves": float(self.leaves.mean()),
        }
        return {**self.facts, **means, "bound": figures}

    def in_words(self) -> list[str]:
        """Return the result for people."""
        figures, depth = self.figures(), self.nats.shape[1]
        lines = [
            f"variational bound, {self.facts['transition']} noise: {_short(figures['nats'], 1)} "
            f"nats per shape, {figures['nats_per_token']} per token"
        ]
        for d in range(depth):
            mean = self.tokens[:, d].mean()
            title = f"level {d}, {mean:.1f} token{'' if mean == 1 else 's'}"
            lines.append(f"  {title}: {_short(figures[f'nats_level_{d}'], 2)} nats")
        voxel = figures["bits_per_voxel"]
        lines += [
            f"{figures['bits_per_leaf']} bits per occupied leaf, {voxel.mean:.5f} ± "
            f"{voxel.standard_error:.5f} per voxel of the {2**depth}^3 grid",
            f"{len(self.shapes)} shapes; ± is the standard error of the mean over them",
        ]
        return lines


def token_nll(
    model: Model, source: ShapeSource, settings: TokenSettings, progress: Progress
) -> TokenNll:
    """Measure ``count`` shapes, spread evenly over ``source`` and cut to the model's depth.

    Every level is coded given the true coarser ones, and given the shape's class where the model
    has classes. A shape's noise is that of its number in the source: neither the batch size nor
    the other shapes change its bound, beyond rounding.

    Raises:
        UsageError: no shapes, or a model of images.
        DdimxError: a network that returned something that is not finite.
    """
    process = DiscreteProcess.of(model.process, "the bound of octrees")
    if not len(source):
        raise UsageError("this part of the data has no shapes; see --split")
    numbers = spread(len(source), settings.count)
    transition = settings.transition or process.transitions[0]
    bound = TokenBound(model, process, transition, Noise(settings.seed), settings.terms, progress)
    progress.start("nats per shape", len(numbers) * bound.draws)
    trees = [shape.tree.coarser(process.depth) for shape in source.shapes(numbers)]

    def measure(places: Sequence[int]) -> Array:
        shapes = numbers[list(places)]
        labels = source.labels[shapes] if source.labels is not None else None
        return bound([trees[i] for i in places], shapes, labels)

    batches = in_batches(range(len(numbers)), settings.batch_size, measure)
    nats = np.concatenate([nats for _, nats in batches])
    progress.stop()
    not_finite = ~np.isfinite(nats).all(axis=1)
    if not_finite.any():
        raise DdimxError(
            f"the bound of shape {numbers[not_finite][0]} is not finite; try --dtype fp32"
        )
    return TokenNll(
        {
            **facts(model, source, settings, len(numbers)),
            "transition": bound.transition,
            "steps": bound.steps,
            "all_steps": bound.exact,
        },
        numbers,
        nats,
        np.array([tree.counts[:-1] for tree in trees], dtype=np.int64),
        np.array([tree.counts[-1] for tree in trees], dtype=np.int64),
    )


def _short(figure: MeanWithError, digits: int) -> str:
    return f"{figure.mean:.{digits}f} ± {figure.standard_error:.{digits}f}"
