"""A token network as the executor wants it: one level's logits, coarser levels cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...discrete.cells import Cells, Level
from ...discrete.executor import TokenRaw
from ...errors import DdimxError, UsageError
from .tokens import IDS, MASK, Cache, Condition, Counts, Layout, Tokens


class TokenDenoiser:
    """Call a network at a level's tokens, for given classes, twice under guidance.

    A network with ``encode(clean, condition, cache)`` sees every finished level once; one without
    is given all finished levels at each call, as in training.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        transition: Tensor,
        labels: Tensor | None = None,
        null_label: int | None = None,
        guidance: float = 1.0,
        cached: bool = True,
    ) -> None:
        """Wrap ``network``.

        Args:
            transition: int64 [B], the kind of noise, as in ``TRANSITIONS``.
            labels: int64 [B] classes, or None for a model without.
            null_label: the label that stands for "no class"; needed for guidance.
            guidance: 1 is off and costs nothing.
            cached: False encodes the finished levels anew at each call, for comparisons.

        Raises:
            UsageError: guidance without classes to guide towards.
        """
        if guidance != 1.0 and (labels is None or null_label is None):
            raise UsageError("guidance needs a class-conditional model and a category")
        self._network = network
        self._conditions = [Condition(labels, transition)]
        if guidance != 1.0:
            assert labels is not None
            self._conditions.append(Condition(torch.full_like(labels, null_label or 0), transition))
        self._cached = cached and hasattr(network, "encode")
        self._caches: list[Cache | None] = [None] * len(self._conditions)
        self._encoded = 0
        self._layouts: list[Layout] = []  # of levels 0, 1, ... as far as they were entered
        self._clean: Tokens | None = None

    def __call__(self, cells: Cells, ids: Tensor, t: float, coarser: tuple[Level, ...]) -> TokenRaw:
        """Return the logits [N, 256] of a level's tokens, and those without the class.

        What column 0 holds is never drawn.
        """
        outs = self._logits(cells, ids, t, coarser, len(self._conditions))
        return TokenRaw(outs[0], outs[1] if len(outs) > 1 else None)

    def unguided(self, cells: Cells, ids: Tensor, t: float, coarser: tuple[Level, ...]) -> TokenRaw:
        """Return the logits [N, 256] with the class alone, for a row that is not guided."""
        return TokenRaw(self._logits(cells, ids, t, coarser, 1)[0])

    def _logits(
        self, cells: Cells, ids: Tensor, t: float, coarser: tuple[Level, ...], most: int
    ) -> list[Tensor]:
        """Return the logits [N, 256] under the first ``most`` conditions."""
        if len(self._layouts) <= cells.level:
            self._enter(cells, coarser)
        layout = self._layouts[cells.level]
        noised = Tokens(layout, ids, torch.full((layout.batch, 1), t, device=ids.device))
        return [
            checked_logits(self._evaluate(noised, condition, cache), len(ids))
            for condition, cache in zip(self._conditions[:most], self._caches[:most], strict=True)
        ]

    def _evaluate(self, noised: Tokens, condition: Condition, cache: Cache | None) -> object:
        if self._cached:
            return self._network(noised, None, condition, cache)
        return self._network(noised, self._clean, condition)

    def _enter(self, cells: Cells, coarser: tuple[Level, ...]) -> None:
        """Prepare for a new level: its layout, and what it may see of the finished ones."""
        missing = [level.cells for level in coarser[len(self._layouts) :]]
        for each in (*missing, cells):
            levels, counts = torch.full_like(each.keys, each.level), _counts(each)[:, None]
            self._layouts.append(Layout(each.keys, levels, each.sample, counts, each.level))
        if not self._cached:
            self._clean = joined(coarser) if coarser else None
            return
        for level in coarser[self._encoded :]:
            clean = Tokens(self._layouts[level.cells.level], level.ids)
            for i, condition in enumerate(self._conditions):
                self._caches[i] = self._network.encode(  # type: ignore[operator]
                    clean, condition, self._caches[i]
                )
        self._encoded = len(coarser)


def joined(levels: Sequence[Level]) -> Tokens:
    """Return finished levels 0, 1, ... as one run of tokens, sorted by (shape, level, key)."""
    counts = np.stack([_counts(level.cells) for level in levels], axis=1)
    shape = torch.cat([level.cells.sample for level in levels])
    order = shape.argsort(stable=True)  # levels come in order and stay so within a shape
    keys = torch.cat([level.cells.keys for level in levels])[order]
    return Tokens(Layout.of(keys, counts), torch.cat([level.ids for level in levels])[order])


def clean_logits(out: Any, count: int) -> Tensor:
    """Return a token network's logits [N, 256] of clean ids, column 0 excluded.

    ``out`` and errors are those of :func:`checked_logits`.
    """
    logits = checked_logits(out, count)
    illegal = torch.zeros(IDS, device=logits.device, dtype=logits.dtype)
    illegal[MASK] = float("-inf")
    return logits + illegal


def checked_logits(out: Any, count: int) -> Tensor:
    """Return a token network's logits [N, 256], column = id, as it gave them.

    A network returns them alone, or the seed project's pair ``(pred_x0, score)``, whose score
    nothing here needs.

    Raises:
        DdimxError: something else.
    """
    logits = out[0] if isinstance(out, tuple) and out else out
    if not isinstance(logits, Tensor):
        wrong = type(logits).__name__
    elif logits.shape != (count, IDS):
        wrong = str(tuple(logits.shape))
    elif not logits.is_floating_point():
        wrong = str(logits.dtype).removeprefix("torch.")
    else:
        return logits
    raise DdimxError(
        f"a token network must return logits [{count}, {IDS}] or (pred_x0, score), got {wrong}"
    )


def _counts(cells: Cells) -> Counts:
    return np.array(cells.host_counts(), dtype=np.int64)
