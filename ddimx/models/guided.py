"""The UNet of OpenAI's improved-diffusion and guided-diffusion, with the same parameter names.

Improved DDPM: arXiv 2102.09672; guided diffusion: 2105.05233; https://github.com/openai/guided-diffusion.
Its weights load as they are, and in float32 it computes what theirs does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import UsageError
from .layers import GroupNorm, KeyedDropout, check_images, class_labels, timestep_embedding

GROUPS = 32  # of every norm, with PyTorch's epsilon


class ResBlock(nn.Module):
    """Two norm-SiLU-convolution layers; the time is added between them, or scales and shifts.

    ``resample`` 2 doubles and 0.5 halves the feature map before the first convolution.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        temb: int,
        dropout: float,
        scale_shift: bool,
        layer: int,
        resample: float = 1.0,
    ) -> None:
        super().__init__()
        self.resample, self.scale_shift = resample, scale_shift
        first = nn.Conv2d(c_in, c_out, 3, padding=1)
        # A norm's SiLU is its own; the empty layer keeps the numbers of those that follow.
        self.in_layers = nn.Sequential(
            GroupNorm(GROUPS, c_in, activation="silu"), nn.Identity(), first
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(temb, c_out * (1 + scale_shift)))
        self.out_layers = nn.Sequential(
            GroupNorm(GROUPS, c_out, activation=None if scale_shift else "silu"),
            nn.SiLU() if scale_shift else nn.Identity(),
            KeyedDropout(dropout, layer),
            nn.Conv2d(c_out, c_out, 3, padding=1),
        )
        self.skip_connection = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x [B, c_in, H, W] and temb [B, temb] -> [B, c_out, H', W']."""
        norm, _, conv = self.in_layers
        h = conv(self._resampled(norm(x)))
        skip = self.skip_connection(self._resampled(x))
        time = self.emb_layers(temb)
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = time[:, :, None, None].chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h, time)
        for layer in rest:
            h = layer(h)
        return cast(Tensor, skip + h)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == 1.0:
            return x
        if self.resample < 1:
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class AttentionBlock(nn.Module):
    """Self-attention of several heads with a residual connection.

    ``new_order``: the 3 C columns of ``qkv`` are all queries, all keys, all values; else each
    head's queries, keys and values follow one another.
    """

    def __init__(self, channels: int, heads: int, *, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        batch, channels, height, width = x.shape
        flat = x.flatten(2)
        columns = self.qkv(self.norm(x).flatten(2))
        order = (3, self.heads) if self.new_order else (self.heads, 3)
        split = columns.reshape(batch, *order, channels // self.heads, height * width)
        q, k, v = split.transpose(-1, -2).unbind(1 if self.new_order else 2)
        mixed = F.scaled_dot_product_attention(q, k, v)  # [B, heads, H W, D]
        out: Tensor = flat + self.proj_out(mixed.transpose(-1, -2).flatten(1, 2))
        return out.reshape(batch, channels, height, width)


class Downsample(nn.Module):
    """Halve H and W by a convolution, or by averaging."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.op = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) if with_conv else nn.AvgPool2d(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H/2, W/2]."""
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Double H and W by repetition, then, with ``with_conv``, a convolution."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, 2H, 2W]."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class GuidedUNet(nn.Module):
    """Predict epsilon, x0, v, a flow's or EDM's output from a noisy image, its time and its class.

    The arguments are keys of :class:`ddimx.config.ModelConfig`, which explains them. With
    ``predicts_variance`` the last convolution has twice ``out_ch`` channels; nothing here uses the
    second half, which ``forward`` leaves out.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int = 3,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[float] = (1, 2, 3, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16, 8),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        num_classes: int = 0,
        null_class: bool = False,
        predicts_variance: bool = False,
        heads: int | None = None,
        heads_up: int | None = None,
        head_dim: int | None = None,
        scale_shift: bool = False,
        resblock_updown: bool = False,
        new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        self.ch, self.out_ch = ch, out_ch
        self.num_classes, self.null_class = num_classes, null_class
        self._heads, self._heads_up, self._head_dim = heads or 1, heads_up or heads or 1, head_dim
        self._new_order, self._layers = new_attention_order, 0
        self._of_blocks = {"temb": 4 * ch, "dropout": dropout, "scale_shift": scale_shift}
        self.time_embed = nn.Sequential(nn.Linear(ch, 4 * ch), nn.SiLU(), nn.Linear(4 * ch, 4 * ch))
        rows = num_classes + null_class if num_classes else 0
        self.label_emb = nn.Embedding(rows, 4 * ch) if rows else None

        widths = [round(ch * m) for m in ch_mult]
        attends = [image_size // 2**level in {*attn_resolutions} for level in range(len(widths))]
        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(in_channels, widths[0], 3, padding=1)])]
        )
        width, skips = widths[0], [widths[0]]
        for level, level_width in enumerate(widths):
            for _ in range(num_res_blocks):
                block = self._block(width, level_width)
                width = level_width
                attention = [self._attention(width, self._heads)] if attends[level] else []
                self.input_blocks.append(nn.ModuleList([block, *attention]))
                skips.append(width)
            if level < len(widths) - 1:
                down = (
                    self._block(width, width, 0.5)
                    if resblock_updown
                    else Downsample(width, resamp_with_conv)
                )
                self.input_blocks.append(nn.ModuleList([down]))
                skips.append(width)
        self.middle_block = nn.ModuleList(
            [
                self._block(width, width),
                self._attention(width, self._heads),
                self._block(width, width),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(num_res_blocks + 1):
                layers: list[nn.Module] = [self._block(width + skips.pop(), widths[level])]
                width = widths[level]
                if attends[level]:
                    layers.append(self._attention(width, self._heads_up))
                if level and i == num_res_blocks:
                    layers.append(
                        self._block(width, width, 2.0)
                        if resblock_updown
                        else Upsample(width, resamp_with_conv)
                    )
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(
            GroupNorm(GROUPS, width, activation="silu"),
            nn.Identity(),
            nn.Conv2d(width, out_ch * (1 + predicts_variance), 3, padding=1),
        )

    @classmethod
    def from_config(cls, config: Config) -> GuidedUNet:
        """Build the network that ``config.model`` describes.

        Raises:
            UsageError: widths that the norms' groups or the heads do not divide, or sides that
                cannot be halved often enough.
        """
        m = config.model
        parts = [GROUPS, m.head_dim or m.heads or 1, m.head_dim or m.heads_up or m.heads or 1]
        bad = [w for w in m.widths if w < 1 or any(w % part for part in parts)]
        if bad:
            raise UsageError(
                f"widths {bad} (model.ch times ch_mult) are not divisible by the {GROUPS} groups "
                "of the norms and by model.heads or head_dim"
            )
        check_images(config)
        return cls(
            image_size=max(config.data.sides),
            in_channels=m.in_channels,
            out_ch=m.out_ch,
            ch=m.ch,
            ch_mult=m.ch_mult,
            num_res_blocks=m.num_res_blocks,
            attn_resolutions=m.attn_resolutions,
            dropout=m.dropout,
            resamp_with_conv=m.resamp_with_conv,
            num_classes=len(m.classes),
            null_class=m.null_class,
            predicts_variance=m.predicts_variance,
            heads=m.heads,
            heads_up=m.heads_up,
            head_dim=m.head_dim,
            scale_shift=m.scale_shift,
            resblock_updown=m.resblock_updown,
            new_attention_order=m.new_attention_order,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the raw output [B, out_ch, H, W] for x [B, in_channels, H, W].

        Args:
            x: the noisy images.
            t: [B], real-valued times.
            labels: int64 [B]; ``num_classes`` means no class, and so does None.

        Raises:
            UsageError: no class for a network that has no prediction without one.
        """
        dtype = next(self.parameters()).dtype
        features = timestep_embedding(t, self.ch, cosine_first=True, freq_shift=0.0)
        temb = self.time_embed(features.to(dtype))
        if self.label_emb is not None:
            labels = class_labels(labels, x, self.num_classes, null_class=self.null_class)
            temb = temb + self.label_emb(labels)
        h, skips = x, []
        for block in self.input_blocks:
            h = _through(cast(nn.ModuleList, block), h, temb)
            skips.append(h)
        h = _through(self.middle_block, h, temb)
        for block in self.output_blocks:
            h = _through(cast(nn.ModuleList, block), torch.cat([h, skips.pop()], dim=1), temb)
        out: Tensor = self.out(h)
        return out[:, : self.out_ch]

    def _block(self, c_in: int, c_out: int, resample: float = 1.0) -> ResBlock:
        self._layers += 1
        layer = self._layers - 1
        return ResBlock(c_in, c_out, layer=layer, resample=resample, **self._of_blocks)  # type: ignore[arg-type]

    def _attention(self, channels: int, heads: int) -> AttentionBlock:
        heads = channels // self._head_dim if self._head_dim else heads
        return AttentionBlock(channels, heads, new_order=self._new_order)


def _through(layers: nn.ModuleList, h: Tensor, temb: Tensor) -> Tensor:
    for layer in layers:
        h = layer(h, temb) if isinstance(layer, ResBlock) else layer(h)
    return h
