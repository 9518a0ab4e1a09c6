"""The UNet of DDPM as ermongroup/ddim writes it, with the same parameter names.

Two additions leave its weights alone: ``patch_size`` (pixels folded into channels before the
network and unfolded after it) and class conditioning (an embedding added to the time's).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from .layers import (
    NORM_EPS,
    AttnBlock,
    Downsample,
    KeyedDropout,
    ResnetBlock,
    Upsample,
    timestep_embedding,
)


class _Level(nn.Module):
    """The blocks of one resolution; ``attn`` is empty without attention."""

    def __init__(self, blocks: Sequence[nn.Module], attn: Sequence[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attn)
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def step(self, j: int, h: Tensor, temb: Tensor) -> Tensor:
        """Apply block j, and its attention where the level has one."""
        h = self.block[j](h, temb)
        return self.attn[j](h) if len(self.attn) else h


class _Middle(nn.Module):
    """Block, attention, block at the coarsest resolution."""

    def __init__(self, block_1: ResnetBlock, attn_1: AttnBlock, block_2: ResnetBlock) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = block_1, attn_1, block_2

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(h, temb)), temb)
        return out


class _TimeMlp(nn.Module):
    """Two dense layers after the sinusoidal embedding: [B, ch] -> [B, 4 ch]."""

    def __init__(self, ch: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])

    def forward(self, embedding: Tensor) -> Tensor:
        out: Tensor = self.dense[1](F.silu(self.dense[0](embedding)))
        return out


def _levels(modules: nn.ModuleList) -> list[_Level]:
    return [m for m in modules if isinstance(m, _Level)]


class UNet(nn.Module):
    """Predict epsilon, x0 or v from a noisy image, its time and (optionally) its class."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        in_channels: int = 3,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        patch_size: int = 1,
        norm_groups: int = 32,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.ch = ch
        self.num_classes = num_classes
        self._groups, self._dropout, self._layers = norm_groups, dropout, 0
        self.temb = _TimeMlp(ch)
        # The last row stands for "no class": guidance's unconditional prediction.
        self.class_embedding = nn.Embedding(num_classes + 1, 4 * ch) if num_classes else None

        widths = [ch * m for m in ch_mult]
        # A level of images that are not square goes by its longer side.
        longer = image_size if isinstance(image_size, int) else max(image_size)
        sizes = [longer // patch_size // 2**i for i in range(len(widths))]
        attends = [size in set(attn_resolutions) for size in sizes]
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, ch, 3, padding=1)
        self.down = nn.ModuleList()
        skips = [ch]
        for i, width in enumerate(widths):
            level = self._down(skips, width, num_res_blocks, attends[i])
            if i < len(widths) - 1:
                level.downsample = Downsample(width, resamp_with_conv)
                skips.append(width)
            self.down.append(level)

        first, last = self._block(widths[-1], widths[-1]), self._block(widths[-1], widths[-1])
        self.mid = _Middle(first, AttnBlock(widths[-1], groups=norm_groups), last)

        self.up = nn.ModuleList()
        entering = widths[-1]
        for i in reversed(range(len(widths))):
            level = self._up(entering, skips, widths[i], num_res_blocks, attends[i])
            if i > 0:
                level.upsample = Upsample(widths[i], resamp_with_conv)
            self.up.insert(0, level)
            entering = widths[i]

        self.norm_out = nn.GroupNorm(norm_groups, widths[0], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], out_ch * patch_size**2, 3, padding=1)

    @classmethod
    def from_config(cls, config: Config) -> UNet:
        """Build the network that ``config.model`` describes."""
        m = config.model
        return cls(
            image_size=config.data.image_size,
            in_channels=m.in_channels,
            out_ch=m.out_ch,
            ch=m.ch,
            ch_mult=m.ch_mult,
            num_res_blocks=m.num_res_blocks,
            attn_resolutions=m.attn_resolutions,
            dropout=m.dropout,
            resamp_with_conv=m.resamp_with_conv,
            patch_size=m.patch_size,
            norm_groups=m.norm_groups,
            num_classes=len(m.classes),
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the raw output.

        Args:
            x: [B, in_channels, H, W], the noisy images in the network's range.
            t: [B], real-valued times in units of training steps (the raw index, unscaled).
            labels: int64 [B]; ``num_classes`` means no class, and so does None.
        """
        temb = self._embed(x, t, labels)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch_size))
        skips = [h]
        for level in _levels(self.down):
            for j in range(len(level.block)):
                skips.append(h := level.step(j, h, temb))
            if level.downsample is not None:
                skips.append(h := level.downsample(h))
        h = self.mid(h, temb)
        for level in reversed(_levels(self.up)):
            for j in range(len(level.block)):
                h = level.step(j, torch.cat([h, skips.pop()], dim=1), temb)
            if level.upsample is not None:
                h = level.upsample(h)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch_size)

    def _embed(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        temb: Tensor = self.temb(timestep_embedding(t, self.ch).to(self.conv_in.weight.dtype))
        if self.class_embedding is None:
            return temb
        if labels is None:
            labels = torch.full((x.shape[0],), self.num_classes, device=x.device)
        return temb + cast(Tensor, self.class_embedding(labels))

    def _block(self, c_in: int, c_out: int) -> ResnetBlock:
        self._layers += 1
        return ResnetBlock(
            c_in,
            c_out,
            temb=4 * self.ch,
            dropout=self._dropout,
            groups=self._groups,
            layer=self._layers - 1,
        )

    def _attention(self, channels: int, count: int, present: bool) -> list[AttnBlock]:
        return [AttnBlock(channels, groups=self._groups) for _ in range(count if present else 0)]

    def _down(self, skips: list[int], width: int, count: int, attends: bool) -> _Level:
        blocks = []
        for _ in range(count):
            blocks.append(self._block(skips[-1], width))
            skips.append(width)
        return _Level(blocks, self._attention(width, count, attends))

    def _up(self, entering: int, skips: list[int], width: int, count: int, attends: bool) -> _Level:
        blocks = []
        for _ in range(count + 1):
            blocks.append(self._block(entering + skips.pop(), width))
            entering = width
        return _Level(blocks, self._attention(width, count + 1, attends))

    def dropouts(self) -> list[KeyedDropout]:
        """Return the dropout layers, whose ``key`` the training loop sets."""
        return [m for m in self.modules() if isinstance(m, KeyedDropout)]
