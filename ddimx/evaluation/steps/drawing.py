"""Drawing the shapes that are measured, and counting what that asks of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...discrete.executor import TokenStep
from ...models.octree.tokens import Tokens
from ...octree.tree import Octree
from ...progress import Progress
from ...runs.run import Stopped
from ...sampling.batch import finish_all
from ...sampling.settings import Settings
from ...signals import Stop
from ...weights.model import Model


def draw_trees(
    model: Model, settings: Settings, progress: Progress, stop: Stop
) -> list[Octree] | None:
    """Return the shapes of ``settings.indices``, or None where ``stop`` became true meanwhile.

    ``progress`` is advanced by the batch's size after each row of the plan.
    """

    def after_row(_: TokenStep, samples: Sequence[int]) -> None:
        progress.advance(len(samples))
        if stop:
            raise Stopped

    try:
        return finish_all(model, settings, settings.indices, after_row=after_row)
    except Stopped:
        return None


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
    """Yield a counter of real calls, whatever a plan says.

    "network" counts the calls, "shapes" the shapes in each of them, which differ where some of a
    batch are drawn again.
    """
    calls: Counter[str] = Counter()

    def count(_: object, arguments: tuple[Tokens, ...], __: object) -> None:
        calls.update({"network": 1, "shapes": arguments[0].layout.batch})

    hook = model.network.register_forward_hook(count)
    try:
        yield calls
    finally:
        hook.remove()
