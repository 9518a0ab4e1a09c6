"""One batch of samples: from indices to results, whatever the batch's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..solvers.executor import Draw, Step
from ..weights.model import Model
from .settings import Settings, labels_for

MICRO_BATCH = 8  # the fixed size of --invariant; part of what makes its files reproducible

Start = Callable[[Sequence[int]], Tensor]


def run_batch(
    model: Model, settings: Settings, samples: Sequence[int], start: Start | None = None
) -> Iterator[Step]:
    """Yield the steps of sampling these indices together.

    ``start`` gives the starting states of indices where they are not drawn from the seed.
    """
    index = torch.tensor(list(samples), dtype=torch.int64)
    if start is not None:
        state = start(samples).to(model.device, torch.float32)
    else:
        state = model.process.prior(settings.noise, index, model.device)
    labels = labels_for(settings, model, samples)
    return model.process.sample(
        model.network,
        settings.plan,
        state,
        Draw(settings.noise, index.to(model.device)),
        labels=None if labels is None else labels.to(model.device),
        guidance=settings.guidance,
    )


def finish_batch(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    *,
    start: Start | None = None,
    after_row: Callable[[Step, int], None] | None = None,
) -> Tensor:
    """Return the results of these indices, float32 [B, ...] on the CPU.

    With ``settings.invariant`` they are computed in micro-batches of a fixed size, the last one
    padded by repeating an index, so that a sample's bits do not depend on its company.
    ``after_row`` is called with every step and the number of samples it belongs to.
    """
    results = []
    for part in _parts(samples, settings.invariant):
        padded = [*part, *[part[-1]] * (MICRO_BATCH - len(part))] if settings.invariant else part
        final = None
        for step in run_batch(model, settings, padded, start):
            final = step.y
            if after_row is not None:
                after_row(step, len(part))
        assert final is not None  # a plan has at least one row
        results.append(final[: len(part)].to("cpu", torch.float32))
    return torch.cat(results)


def _parts(samples: Sequence[int], invariant: bool) -> list[Sequence[int]]:
    if not invariant:
        return [samples]
    return [samples[i : i + MICRO_BATCH] for i in range(0, len(samples), MICRO_BATCH)]
