"""Bits per dimension of images: the variational bound and the flow's likelihood of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.arrays import Integers
from ...data.images.sources import ImageSource
from ...errors import DdimxError, UsageError
from ...noise import Noise
from ...progress import Progress
from ...runs.batches import in_batches
from ...solvers.ddpm import Variance
from ...weights.model import Model, refuse_latents
from .bits import Array, Levels, MeanWithError, dequantized, levels, rademacher
from .bound import Bound, variational_bound
from .examples import facts, spread
from .flow import Angles, Hutchinson, flow_log_density
from .predictor import Predictor


@dataclass(frozen=True)
class PublishedBits:
    """Bits per dimension of CIFAR-10's test images in a paper; not measured by this project.

    ``bound``: an upper bound, not a likelihood.
    """

    what: str
    bits: float
    bound: bool
    source: str


_HO = "Ho et al. 2020, arXiv 2006.11239, table 1"
_SONG = "Song et al. 2021, arXiv 2011.13456, table 2"
_NICHOL = "Nichol and Dhariwal 2021, arXiv 2102.09672"

# The published "cifar10" weights are those of the first two rows.
CIFAR10_BITS = (
    PublishedBits("DDPM, L_simple: variational bound", 3.75, True, _HO),
    PublishedBits("the same weights: probability flow", 3.28, False, _SONG),
    PublishedBits("DDPM trained on L, fixed variance: variational bound", 3.70, True, _HO),
    PublishedBits("Improved DDPM: variational bound", 2.94, True, _NICHOL),
    PublishedBits("DDPM++ cont. (deep, sub-VP): probability flow", 2.99, False, _SONG),
)


@dataclass(frozen=True)
class NllSettings:
    """How bits are measured.

    Attributes:
        terms: how many middle terms of the bound are evaluated per image; 0 omits the bound.
        flow_steps: Runge-Kutta steps of the flow, four calls each; 0 omits the flow.
        probes: probes of the divergence's estimate.
        clip: bound of the predicted x0 in the variational bound, or None.
    """

    count: int
    seed: int = 0
    terms: int = 100
    flow_steps: int = 20
    probes: int = 1
    variance: Variance = "large"
    clip: float | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1 or self.probes < 1:
            raise UsageError("count, batch-size and probes must be at least 1")
        if self.terms < 0 or self.flow_steps < 0 or not self.terms + self.flow_steps:
            raise UsageError("nothing to measure: give --terms or --flow-steps above 0")


@dataclass(frozen=True, eq=False)
class Nll:
    """Bits per dimension of every image, float64 [N], and how they came about.

    ``parts`` maps "bound", its "prior", "middle" and "decoder", and "flow" to what was measured.
    """

    facts: dict[str, Any]
    images: Integers
    parts: dict[str, Array]

    def figures(self) -> dict[str, MeanWithError]:
        """Return mean and standard error of every part."""
        return {name: MeanWithError.of(values) for name, values in self.parts.items()}

    def table(self) -> tuple[tuple[str, Integers], dict[str, Array]]:
        """Return the images' numbers under their name, and every part's bits."""
        return ("image", self.images), self.parts

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single images as JSON values."""
        figures = {name: asdict(figure) for name, figure in self.figures().items()}
        return {**self.facts, "bits_per_dimension": figures}

    def in_words(self) -> list[str]:
        """Return the result for people, with the published figures where there are any."""
        figures, count = self.figures(), len(self.images)
        lines = []
        if "bound" in figures:
            split = ", ".join(f"{name} {figures[name].mean:.3f}" for name in _BOUND_PARTS)
            lines.append(f"variational bound: {figures['bound']} bits/dim ({split})")
        if "flow" in figures:
            lines.append(f"probability flow:  {figures['flow']} bits/dim")
        lines.append(f"{count} images; ± is the standard error of the mean over them")
        for p in self.facts.get("published", []):
            sign = "<= " if p["bound"] else ""
            lines.append(f"published: {p['what']}: {sign}{p['bits']:.2f} ({p['source']})")
        return lines


_BOUND_PARTS = ("prior", "middle", "decoder")


def nll(model: Model, source: ImageSource, settings: NllSettings, progress: Progress) -> Nll:
    """Measure ``count`` images, spread evenly over ``source``.

    An image's noise is that of its number in the source: neither the batch size nor the other
    images change its bits, beyond the rounding of convolutions.

    Raises:
        UsageError: no images, or a model whose likelihood is not defined here.
        DdimxError: a network that returned something that is not finite.
    """
    if not len(source):
        raise UsageError("this part of the data has no images; see --split")
    refuse_latents(model, "bits per dimension")
    if len(model.process.shape) != 3:
        raise UsageError(f"model '{model.name}' does not make images")
    numbers = spread(len(source), settings.count)
    middle_terms = min(settings.terms, model.process.schedule.num_timesteps - 1)
    calls = (middle_terms + 1 if settings.terms else 0) + 4 * settings.flow_steps  # of one image
    progress.start("bits per dimension", len(numbers) * calls)

    def measure(images: Sequence[int]) -> dict[str, Array]:
        return _measure(model, source, settings, np.asarray(images), progress)

    batches = in_batches(numbers.tolist(), settings.batch_size, measure)
    results = [bits for _, bits in batches]
    progress.stop()
    parts = {name: np.concatenate([bits[name] for bits in results]) for name in results[0]}
    for name, values in parts.items():
        if not np.isfinite(values).all():
            raise DdimxError(
                f"{name}: the bits of image {numbers[~np.isfinite(values)][0]} are "
                "not finite; try --dtype fp32"
            )
    record = facts(model, source, settings, len(numbers))
    if model.config.data.dataset.upper() == "CIFAR10":
        record["published"] = [asdict(p) for p in CIFAR10_BITS]
    return Nll(record, numbers, parts)


def _measure(
    model: Model, source: ImageSource, settings: NllSettings, part: Integers, progress: Progress
) -> dict[str, Array]:
    """Return the bits per dimension of the images of these numbers."""
    batch = levels(torch.from_numpy(source.images(part)), model.config.data)
    labels = None
    if model.process.num_classes and source.labels is not None:
        labels = torch.from_numpy(source.labels[part])
    predictor, images = Predictor(model, labels), torch.from_numpy(part)
    per_dim = 1 / (math.log(2) * batch.center[0].numel())
    bits: dict[str, Array] = {}
    if settings.terms:
        bound = _bound(model, predictor, batch, settings, images, progress)
        bits |= {"bound": bound.total * per_dim}
        bits |= {name: getattr(bound, name) * per_dim for name in _BOUND_PARTS}
    if settings.flow_steps:
        noise, angles = Noise(settings.seed), Angles(model.process.schedule)
        shape = tuple(batch.center.shape[1:])
        probes = [rademacher(noise, images, shape, k) for k in range(settings.probes)]
        nats = flow_log_density(
            lambda x, theta: predictor.velocity(x, angles.time(theta)),
            Hutchinson(probes),
            dequantized(batch, noise, images),
            angles,
            settings.flow_steps,
            progress.advance,
        )
        bits["flow"] = -nats * per_dim - batch.bits_of_bin
    return bits


@torch.no_grad()
def _bound(
    model: Model,
    predictor: Predictor,
    batch: Levels,
    settings: NllSettings,
    images: Tensor,
    progress: Progress,
) -> Bound:
    return variational_bound(
        predictor.x0,
        model.process.schedule,
        batch,
        Noise(settings.seed),
        images,
        variance=settings.variance,
        terms=settings.terms,
        clip=settings.clip,
        after_term=progress.advance,
    )
