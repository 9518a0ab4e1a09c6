"""The UNet of lucidrains' denoising-diffusion-pytorch, with the same parameter names.

https://github.com/lucidrains/denoising-diffusion-pytorch (version 2.3). Its weights load as they
are, and in float32 it computes what theirs does. Every level attends: the last one to all
positions, the others by linear attention (arXiv 2006.16236), unless the configuration says
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import UsageError
from .layers import KeyedDropout, check_images, timestep_embedding

HEADS, HEAD_DIM = 4, 32  # of attention, where a configuration says nothing
MEMORY = 4  # learned keys and values beside those of the positions


class RmsNorm(nn.Module):
    """Scale each position's channels to unit mean square, then by a learned ``g``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        return F.normalize(x, dim=1) * self.g * math.sqrt(x.shape[1])


class SinusoidalTime(nn.Module):
    """Sinusoidal embedding of the time, sine half first: [B] -> [B, dim]."""

    def __init__(self, dim: int, theta: float) -> None:
        super().__init__()
        self.dim, self.theta = dim, theta

    def forward(self, t: Tensor) -> Tensor:
        """Frequencies fall from 1 to 1 / theta."""
        return timestep_embedding(t, self.dim, theta=self.theta)


class FourierTime(nn.Module):
    """The time itself, and sine and cosine of 2 pi times it at learned or random frequencies."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim // 2))

    def forward(self, t: Tensor) -> Tensor:
        """Times [B] -> float32 [B, dim + 1]."""
        time = t.to(torch.float32)[:, None]
        angle = time * self.weights.to(torch.float32) * (2 * math.pi)
        return torch.cat([time, angle.sin(), angle.cos()], dim=1)


class Block(nn.Module):
    """Convolution, norm, scale and shift by the time, SiLU."""

    def __init__(self, c_in: int, c_out: int, dropout: float = 0.0, layer: int = 0) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm = RmsNorm(c_out)
        self.dropout = KeyedDropout(dropout, layer)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, ...] | None = None) -> Tensor:
        """x [B, c_in, H, W] -> [B, c_out, H, W]."""
        h = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            h = h * (scale + 1) + shift
        out: Tensor = self.dropout(F.silu(h))
        return out


class ResnetBlock(nn.Module):
    """Two blocks with a residual connection; the time enters the first."""

    def __init__(self, c_in: int, c_out: int, *, temb: int, dropout: float, layer: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(temb, 2 * c_out))
        self.block1 = Block(c_in, c_out, dropout, layer)
        self.block2 = Block(c_out, c_out)
        self.res_conv = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x [B, c_in, H, W] and temb [B, temb] -> [B, c_out, H, W]."""
        h = self.block1(x, self.mlp(temb)[:, :, None, None].chunk(2, dim=1))
        out: Tensor = self.block2(h) + self.res_conv(x)
        return out


class LinearAttention(nn.Module):
    """Attention whose cost grows with the number of positions, not with its square."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RmsNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, head_dim, MEMORY))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(heads * head_dim, channels, 1), RmsNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        batch, _, height, width = x.shape
        columns = self.to_qkv(self.norm(x)).reshape(batch, 3, self.heads, -1, height * width)
        q, k, v = columns.unbind(1)  # [B, heads, D, H W]
        memory = self.mem_kv[:, None].expand(-1, batch, -1, -1, -1)
        k, v = torch.cat([memory[0], k], dim=-1), torch.cat([memory[1], v], dim=-1)
        q = q.softmax(dim=-2) * q.shape[-2] ** -0.5
        context = k.softmax(dim=-1) @ v.transpose(-1, -2)  # [B, heads, D of keys, D of values]
        mixed = context.transpose(-1, -2) @ q
        out: Tensor = self.to_out(mixed.reshape(batch, -1, height, width))
        return out


class Attention(nn.Module):
    """Attention of several heads over all positions."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RmsNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, MEMORY, head_dim))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        batch, _, height, width = x.shape
        columns = self.to_qkv(self.norm(x)).reshape(batch, 3, self.heads, -1, height * width)
        q, k, v = columns.transpose(-1, -2).unbind(1)  # [B, heads, H W, D]
        memory = self.mem_kv[:, None].expand(-1, batch, -1, -1, -1)
        k, v = torch.cat([memory[0], k], dim=-2), torch.cat([memory[1], v], dim=-2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out(mixed.transpose(-1, -2).reshape(batch, -1, height, width))
        return out


class LucidrainsUNet(nn.Module):
    """Predict epsilon, x0, v or EDM's output from a noisy image and its time; without classes.

    The arguments are keys of :class:`ddimx.config.ModelConfig`, which explains them.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_ch: int = 3,
        ch: int = 64,
        ch_mult: Sequence[float] = (1, 2, 4, 8),
        dropout: float = 0.0,
        predicts_variance: bool = False,
        heads: int = HEADS,
        head_dim: int = HEAD_DIM,
        full_attention: Sequence[int] | None = None,
        init_dim: int | None = None,
        fourier_dim: int | None = None,
        embedding_theta: float = 10000.0,
    ) -> None:
        super().__init__()
        self.out_ch, self._layers = out_ch, 0
        temb = 4 * ch
        self._of_blocks = {"temb": temb, "dropout": dropout}
        widths = [init_dim or ch, *(round(ch * m) for m in ch_mult)]
        last = len(ch_mult) - 1
        full = {last} if full_attention is None else {*full_attention}
        self.init_conv = nn.Conv2d(in_channels, widths[0], 7, padding=3)
        embedding = FourierTime(fourier_dim) if fourier_dim else SinusoidalTime(ch, embedding_theta)
        features = fourier_dim + 1 if fourier_dim else ch
        self.time_mlp = nn.Sequential(
            embedding, nn.Linear(features, temb), nn.GELU(), nn.Linear(temb, temb)
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level in range(last + 1):
            width, leaving = widths[level], widths[level + 1]
            attention = Attention if level in full else LinearAttention
            halve = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * width, leaving, 1))
            keep = nn.Conv2d(width, leaving, 3, padding=1)
            self.downs.append(
                nn.ModuleList(
                    [
                        self._block(width, width),
                        self._block(width, width),
                        attention(width, heads, head_dim),
                        halve if level < last else keep,
                    ]
                )
            )
        self.mid_block1 = self._block(widths[-1], widths[-1])
        self.mid_attn = Attention(widths[-1], heads, head_dim)
        self.mid_block2 = self._block(widths[-1], widths[-1])
        for level in reversed(range(last + 1)):
            leaving, width = widths[level], widths[level + 1]
            attention = Attention if level in full else LinearAttention
            double = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(width, leaving, 3, padding=1),
            )
            keep = nn.Conv2d(width, leaving, 3, padding=1)
            self.ups.append(
                nn.ModuleList(
                    [
                        self._block(width + leaving, width),
                        self._block(width + leaving, width),
                        attention(width, heads, head_dim),
                        double if level else keep,
                    ]
                )
            )
        self.final_res_block = self._block(2 * widths[0], widths[0])
        self.final_conv = nn.Conv2d(widths[0], out_ch * (1 + predicts_variance), 1)

    @classmethod
    def from_config(cls, config: Config) -> LucidrainsUNet:
        """Build the network that ``config.model`` describes.

        Raises:
            UsageError: classes, which it does not have, or sides that cannot be halved so often.
        """
        m = config.model
        if m.classes:
            raise UsageError("model.classes: the network 'lucidrains' has no classes")
        check_images(config)
        return cls(
            in_channels=m.in_channels,
            out_ch=m.out_ch,
            ch=m.ch,
            ch_mult=m.ch_mult,
            dropout=m.dropout,
            predicts_variance=m.predicts_variance,
            heads=m.heads or HEADS,
            head_dim=m.head_dim or HEAD_DIM,
            full_attention=m.full_attention,
            init_dim=m.init_dim,
            fourier_dim=m.fourier_dim,
            embedding_theta=m.embedding_theta,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the raw output [B, out_ch, H, W] at x [B, in_channels, H, W] and times t [B]."""
        h = first = self.init_conv(x)
        embed, *rest = self.time_mlp
        temb = embed(t).to(first.dtype)
        for layer in rest:
            temb = layer(temb)
        skips = []
        for level in self.downs:
            block1, block2, attention, resample = cast(nn.ModuleList, level)
            skips.append(h := block1(h, temb))
            h = block2(h, temb)
            skips.append(h := attention(h) + h)
            h = resample(h)
        h = self.mid_block1(h, temb)
        h = self.mid_block2(self.mid_attn(h) + h, temb)
        for level in self.ups:
            block1, block2, attention, resample = cast(nn.ModuleList, level)
            h = block1(torch.cat([h, skips.pop()], dim=1), temb)
            h = block2(torch.cat([h, skips.pop()], dim=1), temb)
            h = resample(attention(h) + h)
        out: Tensor = self.final_conv(self.final_res_block(torch.cat([h, first], dim=1), temb))
        return out[:, : self.out_ch]

    def _block(self, c_in: int, c_out: int) -> ResnetBlock:
        self._layers += 1
        return ResnetBlock(c_in, c_out, layer=self._layers - 1, **self._of_blocks)  # type: ignore[arg-type]
