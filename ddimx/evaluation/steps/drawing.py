"""Drawing the shapes that are measured, and counting what that asks of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...discrete.cells import Level, octrees
from ...octree.tree import Octree
from ...progress import Progress
from ...runs.batches import in_batches
from ...sampling.batch import run_tokens
from ...sampling.settings import Settings
from ...signals import Stop
from ...weights.model import Model


def drawn(
    model: Model, settings: Settings, labels: Tensor | None, progress: Progress, stop: Stop
) -> list[Octree] | None:
    """Return the shapes of ``settings.indices``, or None where ``stop`` became true meanwhile.

    Args:
        labels: int64 [count], the classes in the order of the indices; None for a model without.
        progress: is advanced by the batch's size after each row of the plan.
    """

    def draw(indices: Sequence[int]) -> list[Octree] | None:
        places = [settings.indices.index(i) for i in indices]
        own = None if labels is None else labels[places]
        levels: tuple[Level, ...] = ()
        for step in run_tokens(model, settings, indices, own):
            levels = step.levels
            progress.advance(len(indices))
            if stop:
                return None
        return octrees(levels)

    trees: list[Octree] = []
    for _, batch in in_batches(settings.indices, settings.batch_size, draw):
        if batch is None:
            return None
        trees += batch
    return trees


def mixed_as(names: Sequence[str], classes: Sequence[str], count: int) -> Tensor | None:
    """Return ``count`` labels in the proportions of ``names``, int64; None without classes.

    They are spread evenly over the sorted names, so each has its share to within one.
    """
    if not classes:
        return None
    ordered = sorted(names)
    # The middles of ``count`` equal parts: no end of the list is preferred.
    places = (np.arange(count) + 0.5) * len(ordered) / count
    return torch.tensor([classes.index(ordered[int(place)]) for place in places])


@contextmanager
def counted_calls(model: Model) -> Iterator[Counter[str]]:
    """Yield a counter of the network's calls ("network"): real ones, whatever a plan says."""
    calls: Counter[str] = Counter()

    def count(*_: object) -> None:
        calls["network"] += 1

    hook = model.network.register_forward_hook(count)
    try:
        yield calls
    finally:
        hook.remove()
