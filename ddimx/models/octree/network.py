"""The network over octree tokens: a transformer in two streams that share their weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ...config import Config
from ...errors import UsageError
from ..layers import timestep_embedding
from .layers import Block, TokenEmbedding, centers, rotary_table
from .tokens import IDS, Cache, Condition, Counts, Tokens
from .visibility import visible_of

TIME_FEATURES = 64
CLEAN, NOISED = 0, 1


class OctreeNet(nn.Module):
    """Predict the clean tokens of a level from its noised ones and the clean coarser levels.

    ``encode`` turns clean levels into keys and values; ``forward`` denoises levels that attend to
    them. In training both run on all levels at once; in sampling a level is encoded once, when it
    is finished. Class, level, stream and kind of noise are added to every token; the time only to
    noised ones, so that the cache serves every step.
    """

    process = "discrete"

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        layers: int,
        heads: int,
        classes: int,
        steps: int,
        window: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depth, self.steps, self.window = depth, steps, window
        self.embed = TokenEmbedding(width, depth)
        self.level = nn.Embedding(depth, width)
        self.stream = nn.Embedding(2, width)
        self.transition = nn.Embedding(2, width)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(Block(width, heads, dropout, i) for i in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, IDS)
        self._initialize(layers)

    @classmethod
    def from_config(cls, config: Config) -> OctreeNet:
        """Build the network of a configuration.

        Raises:
            UsageError: sizes that do not fit one another.
        """
        model, depth = config.model, config.data.max_depth
        if depth is None:
            raise UsageError("an octree model needs data.max_depth")
        width, heads = model.hidden_dim or 256, model.num_heads or 8
        if width % heads or (width // heads) % 2:
            raise UsageError(
                f"model.hidden_dim {width} over model.num_heads {heads} gives no even head size"
            )
        return cls(
            depth=depth,
            width=width,
            layers=model.num_layers or 6,
            heads=heads,
            classes=len(model.classes),
            steps=config.diffusion.num_diffusion_timesteps,
            window=model.window,
            dropout=model.dropout,
        )

    def forward(
        self, noised: Tokens, clean: Tokens | None, condition: Condition, cache: Cache | None = None
    ) -> Tensor:
        """Return logits of the clean ids, [N, 256], for every noised token.

        Args:
            noised: the tokens to denoise, with their times.
            clean: the coarser levels of the same shapes; None where ``cache`` holds them.
            condition: class and kind of noise.
            cache: what :meth:`encode` returned for the coarser levels.
        """
        if cache is None and clean is not None and len(clean.layout):
            cache = self.encode(clean, condition)
        context_counts = noised.layout.counts[:, :0] if cache is None else cache.counts
        h, _ = self._run(noised, NOISED, condition, context_counts, cache)
        logits: Tensor = self.head(self.norm(h))
        return logits

    def encode(self, clean: Tokens, condition: Condition, cache: Cache | None = None) -> Cache:
        """Return keys and values of clean levels, after those of coarser levels in ``cache``."""
        counts = clean.layout.counts
        context_counts = counts if cache is None else cache.counts
        _, layers = self._run(clean, CLEAN, condition, context_counts, cache)
        new = Cache(tuple(layers), counts)
        return new if cache is None else cache.joined(new)

    def _run(
        self,
        tokens: Tokens,
        stream: int,
        condition: Condition,
        context_counts: Counts,
        cache: Cache | None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        layout = tokens.layout
        segments = visible_of(layout, context_counts, self.window)
        h = self.embed(layout, tokens.ids) + self._condition(tokens, stream, condition)[layout.row]
        head_dim = h.shape[1] // self.blocks[0].heads

        def table() -> tuple[Tensor, Tensor]:
            cos, sin = rotary_table(centers(layout, self.depth), head_dim)
            return cos.to(h.dtype), sin.to(h.dtype)

        rotary = layout.once(("rotary", self.depth, head_dim, h.dtype), table)
        layers = []
        for i, block in enumerate(self.blocks):
            context = None if cache is None else cache.layers[i]
            h, keys_values = block(h, rotary, segments, context, layout, stream)
            layers.append(keys_values)
        return h, layers

    def _condition(self, tokens: Tokens, stream: int, condition: Condition) -> Tensor:
        """Return what is added to every token of a (shape, level): [B * L, width]."""
        layout, device = tokens.layout, tokens.ids.device
        levels = torch.arange(layout.levels.start, layout.levels.stop, device=device)
        total = self.level(levels)[None] + self.transition(condition.transition)[:, None]
        total = total + self.stream.weight[stream]
        if self.label is not None and condition.label is not None:
            total = total + self.label(condition.label)[:, None]
        if tokens.t is not None:
            # DDPM's sinusoids are made for a thousand steps.
            thousandths = tokens.t.reshape(-1) * (1000.0 / self.steps)
            features = timestep_embedding(thousandths, TIME_FEATURES).to(total.dtype)
            total = total + self.time(features).view(*tokens.t.shape, -1)
        flat: Tensor = total.flatten(0, 1)
        return flat

    def _initialize(self, layers: int) -> None:
        """Small weights; the branches' last layers smaller, as there are 2 L of them (GPT-2)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            last = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if last else 0.02)


def cut(tokens: Tokens, levels: int, shapes: Tensor | None = None) -> Tokens:
    """Return the tokens of levels 0..levels-1 of a batch that starts at level 0.

    ``shapes``: bool [B] on the host, the shapes that stay, in their order; None is all of them.
    """
    layout = tokens.layout
    mask, shape = layout.level < levels, layout.shape
    counts, t = layout.counts[:, :levels], tokens.t
    if shapes is not None:
        counts, on_device = counts[shapes.numpy()], shapes.to(mask.device)
        mask, shape = mask & on_device[shape], (on_device.cumsum(0) - 1)[shape]
        t = None if t is None else t[on_device]
    part = replace(
        layout,
        keys=layout.keys[mask],
        level=layout.level[mask],
        shape=shape[mask],
        counts=counts,
    )
    return Tokens(part, tokens.ids[mask], None if t is None else t[:, :levels])
