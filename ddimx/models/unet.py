"""The UNet of DDPM as ermongroup/ddim writes it, with the same parameter names.

Two additions leave its weights alone: ``patch_size`` (pixels folded into channels before the
network and unfolded after it) and class conditioning (an embedding added to the time's). The other
arguments are what diffusers' UNet2DModel can be set to besides; by default they are the original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from .layers import (
    NORM_EPS,
    AttnBlock,
    Downsample,
    GroupNorm,
    Resampling,
    ResnetBlock,
    Upsample,
    class_labels,
    timestep_embedding,
)

# The keys of ``model`` that ermongroup/ddim's UNet does not have, but for classes and patches.
NOT_ORIGINAL = (
    *("predicts_variance", "attn_resolutions_up", "mid_block", "mid_norm_groups", "head_dim"),
    *("norm_eps", "activation", "scale_shift", "time_dim", "cosine_first", "freq_shift"),
    *("downsample_padding", "resblock_down", "resblock_up"),
)
# All keys of ``model`` that are arguments of :class:`UNet` under the same names.
UNET_KEYS = (
    *("in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout"),
    *("resamp_with_conv", "patch_size", "norm_groups", "null_class", *NOT_ORIGINAL),
)


class _Level(nn.Module):
    """The blocks of one resolution; ``attn`` is empty without attention."""

    def __init__(self, blocks: Sequence[nn.Module], attn: Sequence[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attn)
        self.downsample: Downsample | ResnetBlock | None = None
        self.upsample: Upsample | ResnetBlock | None = None

    def step(self, j: int, h: Tensor, temb: Tensor) -> Tensor:
        """Apply block j, and its attention where the level has one."""
        h = self.block[j](h, temb)
        return self.attn[j](h) if len(self.attn) else h


class _Middle(nn.Module):
    """Block, attention (or none), block at the coarsest resolution."""

    def __init__(self, block_1: ResnetBlock, attn_1: nn.Module, block_2: ResnetBlock) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = block_1, attn_1, block_2

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(h, temb)), temb)
        return out


class _TimeMlp(nn.Module):
    """Two dense layers after the sinusoidal embedding: [B, ch] -> [B, width]."""

    def __init__(self, ch: int, width: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList([nn.Linear(ch, width), nn.Linear(width, width)])

    def forward(self, embedding: Tensor) -> Tensor:
        out: Tensor = self.dense[1](F.silu(self.dense[0](embedding)))
        return out


def _levels(modules: nn.ModuleList) -> list[_Level]:
    return [m for m in modules if isinstance(m, _Level)]


def _apply(module: Downsample | Upsample | ResnetBlock, h: Tensor, temb: Tensor) -> Tensor:
    """Halve or double a feature map: convolutions know no time, residual blocks do."""
    out: Tensor = module(h, temb) if isinstance(module, ResnetBlock) else module(h)
    return out


class UNet(nn.Module):
    """Predict epsilon, x0 or v from a noisy image, its time and (optionally) its class.

    The arguments are the keys of :class:`ddimx.config.ModelConfig`, which explains them. With
    ``predicts_variance`` the last convolution has twice ``out_ch`` channels; nothing here uses the
    second half, which ``forward`` leaves out.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        in_channels: int = 3,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[float] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        patch_size: int = 1,
        norm_groups: int = 32,
        num_classes: int = 0,
        null_class: bool = True,
        predicts_variance: bool = False,
        attn_resolutions_up: Sequence[int] | None = None,
        mid_block: str = "attention",
        mid_norm_groups: int | None = None,
        head_dim: int | None = None,
        norm_eps: float = NORM_EPS,
        activation: str = "silu",
        scale_shift: bool = False,
        time_dim: int | None = None,
        cosine_first: bool = False,
        freq_shift: float = 1.0,
        downsample_padding: int = 0,
        resblock_down: Sequence[int] = (),
        resblock_up: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.ch = ch
        self.num_classes, self.null_class = num_classes, null_class
        self.out_ch = out_ch
        self._groups, self._eps, self._head_dim, self._layers = norm_groups, norm_eps, head_dim, 0
        self._time_dim = time_dim or 4 * ch
        self._of_blocks: dict[str, Any] = {
            "temb": self._time_dim,
            "dropout": dropout,
            "groups": norm_groups,
            "eps": norm_eps,
            "activation": activation,
            "scale_shift": scale_shift,
        }
        self._cosine_first, self._freq_shift = cosine_first, freq_shift
        self.temb = _TimeMlp(ch, self._time_dim)
        # The last row stands for "no class": guidance's unconditional prediction.
        rows = num_classes + null_class if num_classes else 0
        self.class_embedding = nn.Embedding(rows, self._time_dim) if rows else None

        widths = [round(ch * m) for m in ch_mult]
        # A level of images that are not square goes by its longer side.
        longer = image_size if isinstance(image_size, int) else max(image_size)
        sizes = [longer // patch_size // 2**i for i in range(len(widths))]
        attends = [size in set(attn_resolutions) for size in sizes]
        resolutions_up = attn_resolutions if attn_resolutions_up is None else attn_resolutions_up
        attends_up = [size in set(resolutions_up) for size in sizes]
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, ch, 3, padding=1)
        self.down = nn.ModuleList()
        skips = [ch]
        for i, width in enumerate(widths):
            level = self._down(skips, width, num_res_blocks, attends[i])
            if i < len(widths) - 1:
                level.downsample = (
                    self._block(width, width, "down")
                    if i in resblock_down
                    else Downsample(width, resamp_with_conv, downsample_padding)
                )
                skips.append(width)
            self.down.append(level)

        self.mid: _Middle | None = None
        if mid_block != "none":
            first, last = self._block(widths[-1], widths[-1]), self._block(widths[-1], widths[-1])
            groups = norm_groups if mid_norm_groups is None else mid_norm_groups
            attends_mid = mid_block == "attention"
            attention = self._attention(widths[-1], groups) if attends_mid else nn.Identity()
            self.mid = _Middle(first, attention, last)

        self.up = nn.ModuleList()
        entering = widths[-1]
        for i in reversed(range(len(widths))):
            level = self._up(entering, skips, widths[i], num_res_blocks, attends_up[i])
            if i > 0:
                level.upsample = (
                    self._block(widths[i], widths[i], "up")
                    if i in resblock_up
                    else Upsample(widths[i], resamp_with_conv)
                )
            self.up.insert(0, level)
            entering = widths[i]

        self.norm_out = GroupNorm(norm_groups, widths[0], eps=norm_eps, activation="silu")
        leaving = out_ch * (1 + predicts_variance) * patch_size**2
        self.conv_out = nn.Conv2d(widths[0], leaving, 3, padding=1)

    @classmethod
    def from_config(cls, config: Config) -> UNet:
        """Build the network that ``config.model`` describes."""
        model = config.model
        keys = {key: getattr(model, key) for key in UNET_KEYS}
        return cls(image_size=config.data.image_size, num_classes=len(model.classes), **keys)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the raw output [B, C, H, W].

        Args:
            x: [B, in_channels, H, W], the noisy images in the network's range.
            t: [B], real-valued times in units of training steps (the raw index, unscaled).
            labels: int64 [B]; ``num_classes`` means no class, and so does None.

        Raises:
            UsageError: no class, of a network that has no prediction without one.
        """
        temb = self._embed(x, t, labels)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch_size))
        skips = [h]
        for level in _levels(self.down):
            for j in range(len(level.block)):
                skips.append(h := level.step(j, h, temb))
            if level.downsample is not None:
                skips.append(h := _apply(level.downsample, h, temb))
        if self.mid is not None:
            h = self.mid(h, temb)
        for level in reversed(_levels(self.up)):
            for j in range(len(level.block)):
                h = level.step(j, torch.cat([h, skips.pop()], dim=1), temb)
            if level.upsample is not None:
                h = _apply(level.upsample, h, temb)
        out = F.pixel_shuffle(self.conv_out(self.norm_out(h)), self.patch_size)
        return out[:, : self.out_ch]

    def _embed(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        features = timestep_embedding(
            t, self.ch, cosine_first=self._cosine_first, freq_shift=self._freq_shift
        )
        temb: Tensor = self.temb(features.to(self.conv_in.weight.dtype))
        if self.class_embedding is None:
            return temb
        labels = class_labels(labels, x, self.num_classes, null_class=self.null_class)
        return temb + cast(Tensor, self.class_embedding(labels))

    def _block(self, c_in: int, c_out: int, resample: Resampling = "none") -> ResnetBlock:
        self._layers += 1
        layer = self._layers - 1
        return ResnetBlock(c_in, c_out, layer=layer, resample=resample, **self._of_blocks)

    def _attention(self, channels: int, groups: int) -> AttnBlock:
        return AttnBlock(channels, groups=groups, eps=self._eps, head_dim=self._head_dim)

    def _level(self, blocks: list[ResnetBlock], width: int, attends: bool) -> _Level:
        count = len(blocks) if attends else 0
        return _Level(blocks, [self._attention(width, self._groups) for _ in range(count)])

    def _down(self, skips: list[int], width: int, count: int, attends: bool) -> _Level:
        blocks = []
        for _ in range(count):
            blocks.append(self._block(skips[-1], width))
            skips.append(width)
        return self._level(blocks, width, attends)

    def _up(self, entering: int, skips: list[int], width: int, count: int, attends: bool) -> _Level:
        blocks = []
        for _ in range(count + 1):
            blocks.append(self._block(entering + skips.pop(), width))
            entering = width
        return self._level(blocks, width, attends)
