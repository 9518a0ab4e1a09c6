"""One batch of samples: from indices to results, whatever the batch's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..discrete.cells import octrees
from ..discrete.executor import TokenStep
from ..models.octree.process import DiscreteProcess
from ..models.octree.sampler import draw_tokens
from ..octree.tree import Octree
from ..runs.batches import in_batches
from ..solvers.executor import Draw, Known, Step
from ..weights.model import Model
from .settings import Settings, labels_for

MICRO_BATCH = 8  # the fixed size of --invariant; part of what makes its files reproducible

Start = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Given:
    """What samples are given that the seed and their own index do not say.

    Attributes:
        start: the starting states [B, ...] of sample indices, where they are not drawn.
        known: the known pixels of sample indices, on the CPU.
        noise_index: the index whose noise and class a sample has, where that is not its own:
            variant 3 of every image of a folder has the noise of sample 3.
    """

    start: Start | None = None
    known: Callable[[Sequence[int]], Known] | None = None
    noise_index: Callable[[int], int] | None = None

    def keys(self, samples: Sequence[int]) -> list[int]:
        """Return the noise indices of samples."""
        return list(samples if self.noise_index is None else map(self.noise_index, samples))


NOTHING = Given()


def run_batch(
    model: Model, settings: Settings, samples: Sequence[int], given: Given = NOTHING
) -> Iterator[Step]:
    """Yield the steps of sampling these indices together."""
    keys = given.keys(samples)
    index = torch.tensor(keys, dtype=torch.int64)
    if given.start is not None:
        state = given.start(samples).to(model.device, torch.float32)
    else:
        state = model.process.prior(settings.noise, index, model.device)
    known = None if given.known is None else given.known(samples)
    if known is not None:
        known = Known(known.pixels.to(state), known.mask.to(state))
    labels = labels_for(settings, model, keys)
    return model.process.sample(
        model.network,
        settings.plan,
        state,
        Draw(settings.noise, index.to(model.device)),
        labels=None if labels is None else labels.to(model.device),
        guidance=settings.guidance,
        known=known,
    )


def finish_batch(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    *,
    given: Given = NOTHING,
    after_row: Callable[[Step, Sequence[int]], None] | None = None,
) -> Tensor:
    """Return the results of these indices, float32 [B, ...] on the CPU.

    With ``settings.invariant`` they are computed in micro-batches of ``MICRO_BATCH``, sample i
    always at place i mod ``MICRO_BATCH``, so that a sample's bits do not depend on its company. The
    bits of a row of a matrix product depend on the row's place: on Intel CPUs without AVX-512, MKL
    computes the last two of eight rows otherwise than the first six. A place without a sample
    repeats one.

    ``after_row`` is called with every step and the indices of the samples it is of.
    """
    results = []
    for part in _micro_batches(samples) if settings.invariant else [samples]:
        batch: Sequence[int] = part
        places: Sequence[int] = range(len(part))
        if settings.invariant:
            at = {i % MICRO_BATCH: i for i in part}
            batch = [at.get(place, part[0]) for place in range(MICRO_BATCH)]
            places = [i % MICRO_BATCH for i in part]
        final = None
        for step in run_batch(model, settings, batch, given):
            final = step.y
            if after_row is not None:
                after_row(_rows(step, places), part)
        assert final is not None  # a plan has at least one row
        results.append(final[places].to("cpu", torch.float32))
    return torch.cat(results)


def finish_all(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    *,
    given: Given = NOTHING,
    after_row: Callable[[Step, Sequence[int]], None] | None = None,
) -> Tensor:
    """Return the results of any number of indices, float32 [N, ...], in batches.

    They are of the settings' size, or smaller where the device's memory does not suffice.

    Raises:
        DdimxError: not even one sample, or micro-batch, fits.
    """

    def do(batch: Sequence[int]) -> Tensor:
        return finish_batch(model, settings, batch, given=given, after_row=after_row)

    batches = in_batches(samples, settings.batch_size, do, indivisible=indivisible(settings))
    return torch.cat([results for _, results in batches])


def indivisible(settings: Settings) -> str | None:
    """Return why smaller batches of images would not need less memory, if so."""
    if not settings.invariant:
        return None
    return (
        f"the {MICRO_BATCH} samples that --invariant computes together do not fit into the "
        "device's memory"
    )


def _micro_batches(samples: Sequence[int]) -> list[list[int]]:
    """Divide samples into groups in which no two have the same place, keeping their order."""
    groups: list[list[int]] = []
    taken: set[int] = set()
    for i in samples:
        place = i % MICRO_BATCH
        if not groups or place in taken:
            groups.append([])
            taken = set()
        groups[-1].append(i)
        taken.add(place)
    return groups


def _rows(step: Step, places: Sequence[int]) -> Step:
    """Return what a step says of the samples at these places."""
    if list(places) == list(range(len(step.y))):
        return step
    x0 = None if step.x0 is None else step.x0[places]
    return replace(step, x=step.x[places], y=step.y[places], x0=x0)


def run_tokens(
    model: Model, settings: Settings, samples: Sequence[int], labels: Tensor | None = None
) -> Iterator[TokenStep]:
    """Yield the steps of drawing the octrees of these indices together.

    Args:
        labels: int64 [B], their classes; None for those of the settings.
    """
    assert isinstance(model.process, DiscreteProcess)
    index = torch.tensor(list(samples), dtype=torch.int64, device=model.device)
    labels = labels_for(settings, model, samples) if labels is None else labels
    return draw_tokens(
        model.process,
        model.network,
        settings.token_plan,
        index,
        settings.noise,
        labels=None if labels is None else labels.to(model.device),
        guidance=settings.guidance,
    )


def finish_tokens(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    *,
    after_row: Callable[[TokenStep, Sequence[int]], None] | None = None,
) -> list[Octree]:
    """Return the octrees of these indices.

    With ``settings.invariant`` each is drawn alone: how many tokens share a product with it would
    else depend on its company, and with that the last bits of its logits.
    """
    trees = []
    for part in [[i] for i in samples] if settings.invariant else [samples]:
        step = None
        for step in run_tokens(model, settings, part):
            if after_row is not None:
                after_row(step, part)
        assert step is not None  # a plan has at least one row
        trees += octrees(step.levels)
    return trees


def finish(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    *,
    given: Given = NOTHING,
    after_row: Callable[[Any, Sequence[int]], None] | None = None,
) -> Tensor | list[Octree]:
    """Return the results of these indices, whatever the model draws; octrees are given nothing."""
    if isinstance(model.process, DiscreteProcess):
        return finish_tokens(model, settings, samples, after_row=after_row)
    return finish_batch(model, settings, samples, given=given, after_row=after_row)
