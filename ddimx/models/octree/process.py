"""The discrete process on octree tokens: what is corrupted in training, and what is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import Config, SamplingConfig, Transition
from ...discrete.cells import octrees
from ...discrete.draws import location_codes, token_words
from ...discrete.executor import Networks, TokenStep, execute
from ...discrete.plan import TokenPlan
from ...discrete.transition import corrupt
from ...errors import UsageError
from ...kernels.discrete_update.reference import inverse_cdf, weights
from ...noise import Noise, Stream
from ...octree.tree import Octree
from ...options import Options
from ...runs.shape_sink import FORMAT, ShapeSink
from ...runs.sinks import Sink
from ...solvers.schedule import Schedule, zero_terminal_snr
from ...splats.preview.render import render_thumbnail
from ..process import Draws, Given, Process, drawn_labels, drawn_timesteps
from .network import cut
from .plans import DEFAULT_STEPS, TRANSITIONS, token_plan_for
from .sampler import TokenDenoiser, clean_logits
from .tokens import MASK, Condition, Layout, Tokens


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
    parent_drawing: float = 0.0
    transitions: tuple[Transition, ...] = ("absorbing",)
    antithetic: bool = True
    defaults: SamplingConfig = field(default_factory=SamplingConfig)

    shape: ClassVar[tuple[int, ...]] = ()
    draws: ClassVar[str] = "octrees"
    formats: ClassVar[tuple[str, ...]] = (FORMAT,)
    # How many tokens share a product with a sample's would else decide the last bits of its logits.
    micro_batch: ClassVar[int] = 1
    even_rows: ClassVar[bool] = False
    fixed_shapes: ClassVar[bool] = False
    decoder_name: ClassVar[None] = None

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
            parent_drawing=config.training.parent_drawing,
            transitions=config.diffusion.transitions,
            antithetic=config.training.antithetic,
            defaults=config.sampling,
        )

    @classmethod
    def of(cls, process: Process, what: str) -> DiscreteProcess:
        """Return a process as this one, for work that no other kind has.

        Raises:
            UsageError: another kind; ``what`` is the work, for the message.
        """
        if not isinstance(process, cls):
            raise UsageError(f"{what} needs a model of octrees, and this one draws {process.draws}")
        return process

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Return every shape's cross-entropy in nats per token, float32 [B].

        Levels of a shape are weighted by the square root of their size: by size alone the finest
        level would be nearly all, by level alone the root's single token would weigh as much as
        hundreds. ``batch`` is what :mod:`ddimx.data.shapes.batches` lays out. A network in
        evaluation mode is shown no parents of its own drawing, so that held-out losses compare.
        """
        ids, counts = batch["ids"], batch["counts"].cpu().numpy()
        layout = Layout.of(batch["keys"], counts)
        t = self._times(draws).to(ids.device)  # [B, L]
        alpha = self._alpha(t)
        kinds = self._transitions(draws).to(ids.device)  # [B]
        noised = Tokens(layout, self._corrupted(ids, layout, alpha, kinds, draws), t.float())
        condition = Condition(self._labels(batch, draws), kinds)
        parents = self._misread(ids, layout, draws)
        if self.parent_drawing and network.training and self.depth > 1:
            parents = self._redrawn(parents, ids, noised, condition, network, draws)
        context = cut(Tokens(layout, parents), self.depth - 1)
        logits = clean_logits(network(noised, context, condition), len(ids))
        nats = F.cross_entropy(logits.float(), ids.long(), reduction="none")  # [N]
        return _weighted(nats, noised, alpha, kinds)

    def time_shares(self, draws: Draws) -> Tensor:
        """Return the finest level's times, which has most of the tokens: float64 [B] in [0, 1)."""
        return self._times(draws)[:, -1].double() / self.schedule.num_timesteps

    @property
    def can_guide(self) -> bool:
        """Return whether there are classes to lead towards."""
        return self.num_classes > 0

    @property
    def preview(self) -> Options:
        """Return the options of the samples that training shows: all of them our defaults.

        Nothing is drawn again: an untrained network breaks every level, and what it breaks shows.
        """
        return Options(solver="ddim", steps=DEFAULT_STEPS, transition=self.transitions[0], redraw=0)

    def plan(self, options: Options) -> TokenPlan:
        """Return the options' plan; see :func:`ddimx.models.octree.plans.token_plan_for`."""
        return token_plan_for(options, self.schedule, self.depth, self.transitions, self.defaults)

    def run(
        self,
        network: nn.Module,
        plan: TokenPlan,
        indices: Tensor,
        noise: Noise,
        *,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        given: Given | None = None,
    ) -> Iterator[TokenStep]:
        """Run ``plan``, level by level, and yield after every row.

        Raises:
            UsageError: a start or known parts: a level's cells, and so its noise, are not known
                before the coarser ones.
        """
        if given is not None and (given.start is not None or given.known is not None):
            raise UsageError("a model of octrees takes no start and no known part")

        def networks(places: Tensor | None = None) -> Networks:
            """Return the network for some samples of the batch, which has caches of its own."""
            own, classes = indices, labels
            if places is not None:
                own = indices[places.to(indices.device)]
                classes = None if labels is None else labels[places.to(labels.device)]
            denoiser = TokenDenoiser(
                network,
                transition=torch.full_like(own, TRANSITIONS.index(plan.transition)),
                labels=classes,
                null_label=self.num_classes if self.num_classes else None,
                guidance=guidance,
            )
            return denoiser, denoiser.unguided

        evaluate, unguided = networks()
        return execute(
            plan,
            evaluate,
            indices,
            noise,
            guidance=guidance,
            unguided=unguided,
            of_part=networks,
            device=indices.device,
        )

    def finish(self, step: TokenStep) -> list[Octree]:
        """Return the trees."""
        return octrees(step.levels)

    def sink(
        self,
        folder: Path,
        kind: str,
        *,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
    ) -> Sink:
        """Return what writes one token file for every tree; they carry their class."""
        return ShapeSink(folder, kind, classes)

    def picture(self, sample: Octree) -> npt.NDArray[np.uint8]:
        """Return a view of a tree, uint8 [H, W, 3]."""
        return render_thumbnail(sample)

    def bytes_per_sample(self, network: Callable[[], nn.Module], guidance: float) -> None:
        """Return None: how many tokens a shape has is not known before it is drawn."""

    def _times(self, draws: Draws) -> Tensor:
        """Draw one time for every level: int64 [B, depth] in 0..T-1."""
        total = self.schedule.num_timesteps
        return drawn_timesteps(draws, total, (self.depth,), antithetic=self.antithetic)

    def _alpha(self, t: Tensor) -> Tensor:
        table = torch.from_numpy(self.schedule.alpha_bars[1:]).to(t.device, torch.float32)
        return table[t]

    def _transitions(self, draws: Draws) -> Tensor:
        """Draw each example's kind of noise, int64 [B]: places in ``TRANSITIONS``."""
        kinds = torch.tensor([TRANSITIONS.index(name) for name in self.transitions])
        places = draws.noise.integers(
            draws.positions, (), len(kinds), row=draws.step, stream=Stream.TRAIN_TRANSITION
        )
        return kinds[places]

    def _corrupted(
        self, ids: Tensor, layout: Layout, alpha: Tensor, kinds: Tensor, draws: Draws
    ) -> Tensor:
        """Draw x_t for every token, by its level's time and its shape's kind of noise."""
        examples = draws.positions.to(ids.device)[layout.shape]
        element = location_codes(layout.level, layout.keys)
        result = ids
        for name in self.transitions:
            noisy_ids = corrupt(
                ids,
                alpha.flatten()[layout.row],
                name,
                draws.noise,
                examples,
                element,
                row=draws.step,
                stream=Stream.TRAIN_NOISE,
            )
            mask = (kinds == TRANSITIONS.index(name))[layout.shape]
            result = torch.where(mask, noisy_ids, result)
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
        flips = ids ^ (1 << (word & 7)).to(torch.uint8)
        return torch.where(hit & (flips != MASK), flips, ids)

    def _redrawn(
        self,
        parents: Tensor,
        ids: Tensor,
        noised: Tokens,
        condition: Condition,
        network: nn.Module,
        draws: Draws,
    ) -> Tensor:
        """Replace noised tokens of a share of the shapes by what the network draws for them.

        Sampling shows a level the network's own draws, and their mistakes are not those of chance.
        One pass without gradient, over the levels that have finer ones, predicts the true tokens
        ``ids`` [N] from ``noised`` and true parents; what it draws takes the place of ``parents``
        [N] where the noise hid the truth. Cells and targets stay the true ones.
        """
        noise, step, stream = draws.noise, draws.step, Stream.TRAIN_DRAWING
        # Tokens have the elements from 1 on: location_codes gives the root 1.
        chance = noise.uniform(draws.positions, (1,), row=step, stream=stream, device="cpu")[:, 0]
        shapes = chance <= self.parent_drawing
        if not shapes.any():
            return parents
        levels, on_device = self.depth - 1, shapes.to(ids.device)
        part = cut(noised, levels, shapes)
        context = cut(Tokens(noised.layout, ids), levels - 1, shapes)
        label = None if condition.label is None else condition.label[on_device]
        network.eval()
        with torch.no_grad():
            out = network(part, context, Condition(label, condition.transition[on_device]))
        network.train()
        # Autocast keeps the weights that it has cast, here without a gradient.
        torch.clear_autocast_cache()
        logits = clean_logits(out, len(part.ids)).float()
        layout = part.layout
        examples = draws.positions.to(ids.device)[on_device][layout.shape]
        element = location_codes(layout.level, layout.keys)
        word = token_words(noise, element, examples, step, stream)[0]
        drawn = inverse_cdf(weights(logits, torch.ones((), device=ids.device)), word)
        place = on_device[noised.layout.shape] & (noised.layout.level < levels)
        result = parents.clone()
        result[place] = torch.where(part.ids == ids[place], parents[place], drawn)
        return result

    def _labels(self, batch: Mapping[str, Tensor], draws: Draws) -> Tensor | None:
        if not self.num_classes:
            return None
        return drawn_labels(draws, batch["label"], self.num_classes, self.class_dropout)


def _weighted(nats: Tensor, noised: Tokens, alpha: Tensor, kinds: Tensor) -> Tensor:
    """Average tokens' losses [N] to one per shape [B].

    Masked noise: only masked tokens count, over the number expected to be masked (or 1, if that is
    less: one token seldom masked shall not count many times), so that every time has the same
    weight in expectation. Uniform noise: all tokens count.
    """
    layout = noised.layout
    sizes = torch.from_numpy(layout.counts).to(nats)  # [B, L]
    counts = (noised.ids == MASK) | (kinds == TRANSITIONS.index("uniform"))[layout.shape]
    total = torch.zeros(sizes.numel(), device=nats.device).index_add(0, layout.row, nats * counts)
    share = torch.where((kinds == 0)[:, None], 1 - alpha, 1.0)
    mean = total.view_as(sizes) / (sizes * share).clamp_min(1.0)
    weight = sizes.sqrt()
    result: Tensor = (mean * weight).sum(1) / weight.sum(1)
    return result
