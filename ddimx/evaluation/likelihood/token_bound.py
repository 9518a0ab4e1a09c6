"""The variational bound of batches of octrees, level by level (:mod:`ddimx.discrete.elbo`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...config import Transition
from ...data.arrays import Integers
from ...data.shapes.batches import packed
from ...discrete.draws import location_codes
from ...discrete.elbo import Grid, elbo_terms, grid, stratified
from ...discrete.transition import corrupt
from ...models.octree.network import cut
from ...models.octree.plans import TRANSITIONS
from ...models.octree.process import DiscreteProcess
from ...models.octree.sampler import clean_logits
from ...models.octree.tokens import Condition, Layout, Tokens
from ...noise import Noise, Stream
from ...octree.tree import Octree
from ...progress import Progress
from ...weights.model import Model
from .bits import Array


class TokenBound:
    """The bound of batches of trees under one kind of noise.

    Attributes:
        steps: of the schedule, over which the bound sums.
        exact: whether all of them are evaluated, rather than ``draws`` strata of them.
        draws: network calls for each batch.
    """

    def __init__(
        self,
        model: Model,
        process: DiscreteProcess,
        transition: Transition,
        noise: Noise,
        terms: int,
        progress: Progress,
    ) -> None:
        self._model, self._process, self._noise = model, process, noise
        self._progress = progress
        self.transition = transition
        self._grid: Grid = grid(process.schedule)
        self.steps = len(self._grid.t)
        self.exact = terms >= self.steps
        self.draws = self.steps if self.exact else terms

    @torch.no_grad()
    def __call__(self, trees: list[Octree], numbers: Integers, labels: Integers | None) -> Array:
        """Return nats by level, float64 [B, depth]."""
        device, depth = self._model.device, self._process.depth
        batch = packed(trees)
        layout = Layout.of(batch["keys"].to(device), batch["counts"].numpy())
        ids = batch["ids"].to(device)
        condition = self._condition(labels, len(trees))
        context = cut(Tokens(layout, ids), depth - 1)
        encode = getattr(self._model.network, "encode", None)
        cache = encode(context, condition) if encode is not None and len(context.layout) else None
        total = torch.zeros(len(trees) * depth, dtype=torch.float64, device=device)
        for draw in range(self.draws):
            step = self._steps(numbers, depth, draw)
            noisy, alphas = self._noised(layout, ids, numbers, step, draw)
            clean = context if cache is None else None
            arguments = (
                (noisy, clean, condition) if cache is None else (noisy, None, condition, cache)
            )
            logits = clean_logits(self._model.network(*arguments), len(noisy.ids))
            terms = elbo_terms(logits, ids, noisy.ids, *alphas, self.transition)
            total.index_add_(0, layout.row, terms)
            self._progress.advance(len(trees))
        nats: Array = (total * (self.steps / self.draws)).view(-1, depth).cpu().numpy()
        return nats

    def _steps(self, numbers: Integers, depth: int, draw: int) -> Integers:
        """Return the step of every level of every shape in this draw, int64 [B, depth]."""
        if self.exact:
            return np.full((len(numbers), depth), draw, dtype=np.int64)
        # Every level has times of its own, which are strata of their own.
        streams = torch.from_numpy(numbers[:, None] * depth + np.arange(depth)).flatten()
        draws = stratified(self._noise, streams, self.steps, draw, self.draws)
        steps: Integers = draws.view(-1, depth).numpy()
        return steps

    def _noised(
        self, layout: Layout, ids: Tensor, numbers: Integers, step: Integers, draw: int
    ) -> tuple[Tokens, tuple[Tensor, Tensor]]:
        """Draw x_t of every token, and return it with its alphas before and after the step."""
        t, alpha_from, alpha_to = (
            torch.from_numpy(column[step]).to(ids.device) for column in self._grid
        )
        alphas = (alpha_from.flatten()[layout.row], alpha_to.flatten()[layout.row])
        noisy = corrupt(
            ids,
            alphas[0],
            self.transition,
            self._noise,
            torch.from_numpy(numbers).to(ids.device)[layout.shape],
            # From 1 on: element 0 of this row is where the step was drawn from.
            location_codes(layout.level, layout.keys),
            row=draw,
            stream=Stream.EVALUATE,
        )
        return Tokens(layout, noisy, t.to(torch.float32)), alphas

    def _condition(self, labels: Integers | None, batch: int) -> Condition:
        device = self._model.device
        kinds = torch.full((batch,), TRANSITIONS.index(self.transition), device=device)
        if not self._process.num_classes or labels is None:
            return Condition(None, kinds)
        return Condition(torch.from_numpy(labels).to(device), kinds)
