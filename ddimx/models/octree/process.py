"""The discrete process on octree tokens: what is corrupted in training, and what is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import Config, Transition
from ...discrete.draws import location_codes
from ...discrete.transition import corrupt
from ...errors import DdimxError, UsageError
from ...noise import Noise, Stream
from ...solvers.executor import Draw, Known, Step
from ...solvers.plan import Plan
from ...solvers.registry import SolverChoice
from ...solvers.schedule import Schedule, zero_terminal_snr
from ...solvers.timesteps import Times
from ..process import Draws, drawn_labels, drawn_timesteps
from .network import cut
from .tokens import IDS, MASK, Condition, Layout, Tokens

TRANSITIONS: tuple[Transition, ...] = get_args(Transition)


@dataclass(frozen=True, eq=False)
class DiscreteProcess:
    """DDIM's discrete diffusion (arXiv 2010.02502, appendix A), level by level of an octree.

    A schedule that would leave some tokens clean at its end is rescaled until it leaves none
    (arXiv 2305.08891, algorithm 1), for sampling starts from pure noise.
    """

    schedule: Schedule
    depth: int
    num_classes: int = 0
    class_dropout: float = 0.0
    parent_corruption: float = 0.0
    transitions: tuple[Transition, ...] = ("absorbing",)
    antithetic: bool = True

    shape: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, config: Config) -> DiscreteProcess:
        """Build the process that a configuration describes.

        Raises:
            UsageError: no ``data.max_depth``.
        """
        if config.data.max_depth is None:
            raise UsageError("a discrete process needs data.max_depth")
        schedule = Schedule.from_config(config.diffusion)
        if schedule.alpha_bars[-1] > 0:
            schedule = Schedule(zero_terminal_snr(schedule.betas))
        return cls(
            schedule=schedule,
            depth=config.data.max_depth,
            num_classes=len(config.model.classes),
            class_dropout=config.training.class_dropout,
            parent_corruption=config.training.parent_corruption,
            transitions=config.diffusion.transitions,
            antithetic=config.training.antithetic,
        )

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Return every shape's cross-entropy in nats per token, float32 [B].

        Levels of a shape are weighted by the square root of their size: by size alone the finest
        level would be nearly all, by level alone the root's single token would weigh as much as
        hundreds. ``batch`` is what :mod:`ddimx.data.shapes.batches` lays out.
        """
        ids, counts = batch["ids"], batch["counts"].cpu().numpy()
        layout = Layout.of(batch["keys"], counts)
        t = self._times(draws).to(ids.device)  # [B, L]
        alpha = self._alpha(t)
        kinds = self._transitions(draws).to(ids.device)  # [B]
        noised = Tokens(layout, self._corrupted(ids, layout, alpha, kinds, draws), t.float())
        shown = cut(Tokens(layout, self._misread(ids, layout, draws)), self.depth - 1)
        condition = Condition(self._labels(batch, draws), kinds)
        logits = clean_logits(network(noised, shown, condition), len(ids))
        nats = F.cross_entropy(logits.float(), ids.long(), reduction="none")  # [N]
        return _weighted(nats, noised, alpha, kinds)

    def plan(self, choice: SolverChoice, times: Times) -> Plan:
        """Refuse: this is for images; tokens have :mod:`ddimx.discrete.solvers`."""
        raise _no_images()

    def prior(self, noise: Noise, samples: Tensor, device: torch.device) -> Tensor:
        """Refuse: a level's cells, and so its noise, are not known before the coarser ones."""
        raise _no_images()

    def sample(
        self,
        network: nn.Module,
        plan: Plan,
        start: Tensor,
        draw: Draw,
        *,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
    ) -> Iterator[Step]:
        """Refuse: tokens are drawn by :func:`ddimx.models.octree.sampler.draw_tokens`."""
        raise _no_images()

    def _times(self, draws: Draws) -> Tensor:
        """Draw one time for every level: int64 [B, depth] in 0..T-1."""
        total = self.schedule.num_timesteps
        return drawn_timesteps(draws, total, (self.depth,), antithetic=self.antithetic)

    def _alpha(self, t: Tensor) -> Tensor:
        table = torch.from_numpy(self.schedule.alpha_bars[1:]).to(t.device, torch.float32)
        return table[t]

    def _transitions(self, draws: Draws) -> Tensor:
        """Draw each example's kind of noise, int64 [B]: places in ``TRANSITIONS``."""
        own = torch.tensor([TRANSITIONS.index(name) for name in self.transitions])
        chosen = draws.noise.integers(
            draws.positions, (), len(own), row=draws.step, stream=Stream.TRAIN_TRANSITION
        )
        return own[chosen]

    def _corrupted(
        self, ids: Tensor, layout: Layout, alpha: Tensor, kinds: Tensor, draws: Draws
    ) -> Tensor:
        """Draw x_t for every token, by its level's time and its shape's kind of noise."""
        examples = draws.positions.to(ids.device)[layout.shape]
        element = location_codes(layout.level, layout.keys)
        result = ids
        for name in self.transitions:
            drawn = corrupt(
                ids,
                alpha.flatten()[layout.row],
                name,
                draws.noise,
                examples,
                element,
                row=draws.step,
                stream=Stream.TRAIN_NOISE,
            )
            mine = (kinds == TRANSITIONS.index(name))[layout.shape]
            result = torch.where(mine, drawn, result)
        return result

    def _misread(self, ids: Tensor, layout: Layout, draws: Draws) -> Tensor:
        """Flip one bit of a share of the clean tokens, as sampling's own mistakes will.

        A flip that would leave no bit flips nothing.
        """
        if self.parent_corruption == 0:
            return ids
        totals = layout.counts.sum(axis=1)
        words = draws.noise.integers(
            draws.positions,
            (int(totals.max()),),
            2**32,
            row=draws.step,
            stream=Stream.TRAIN_PARENT,
            device=ids.device,
        )
        starts = torch.from_numpy(totals.cumsum() - totals).to(ids.device)
        place = torch.arange(len(ids), device=ids.device) - starts[layout.shape]
        word = words[layout.shape, place]
        hit = (word >> 3) < self.parent_corruption * 2**29
        flipped = ids ^ (1 << (word & 7)).to(torch.uint8)
        return torch.where(hit & (flipped != MASK), flipped, ids)

    def _labels(self, batch: Mapping[str, Tensor], draws: Draws) -> Tensor | None:
        if not self.num_classes:
            return None
        return drawn_labels(draws, batch["label"], self.num_classes, self.class_dropout)


def _no_images() -> UsageError:
    return UsageError(
        "this is a model of octrees and draws no images; 'ddimx sample' and 'ddimx export' are "
        "for it"
    )


def clean_logits(out: Any, count: int) -> Tensor:
    """Return a token network's logits [N, 256] of clean ids, column 0 excluded.

    A network returns them alone, or the seed project's pair ``(pred_x0, score)``, whose score
    nothing here needs.

    Raises:
        DdimxError: something else.
    """
    logits = out[0] if isinstance(out, tuple) and out else out
    if not isinstance(logits, Tensor):
        raise _strange(count, type(logits).__name__)
    if logits.shape != (count, IDS):
        raise _strange(count, str(tuple(logits.shape)))
    if not logits.is_floating_point():
        raise _strange(count, str(logits.dtype).removeprefix("torch."))
    illegal = torch.zeros(IDS, device=logits.device, dtype=logits.dtype)
    illegal[MASK] = float("-inf")
    return logits + illegal


def _strange(count: int, got: str) -> DdimxError:
    return DdimxError(
        f"a token network must return logits [{count}, {IDS}] or (pred_x0, score), got {got}"
    )


def _weighted(nats: Tensor, noised: Tokens, alpha: Tensor, kinds: Tensor) -> Tensor:
    """Average tokens' losses [N] to one per shape [B].

    Masked noise: only masked tokens count, over the number expected to be masked (or 1, if that is
    less: one token seldom masked shall not count many times), so that every time has the same
    weight in expectation. Uniform noise: all tokens count.
    """
    layout = noised.layout
    sizes = torch.from_numpy(layout.counts).to(nats)  # [B, L]
    masked = (noised.ids == MASK) | (kinds == TRANSITIONS.index("uniform"))[layout.shape]
    total = torch.zeros(sizes.numel(), device=nats.device).index_add(0, layout.row, nats * masked)
    share = torch.where((kinds == 0)[:, None], 1 - alpha, 1.0)
    mean = total.view_as(sizes) / (sizes * share).clamp_min(1.0)
    weight = sizes.sqrt()
    result: Tensor = (mean * weight).sum(1) / weight.sum(1)
    return result
