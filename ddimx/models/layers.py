"""The building blocks of the UNet, named as in ermongroup/ddim so that its weights load."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.attention import attention
from ..noise import Noise, dropout_stream

NORM_EPS = 1e-6


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding, sine half first: t [B] (real-valued) -> float32 [B, dim].

    Frequencies fall from 1 to 1/10000 over dim // 2 - 1 intervals, as in DDPM's code.
    """
    half = dim // 2
    rate = math.log(10000.0) / max(half - 1, 1)
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -rate)
    angle = t.to(torch.float32)[:, None] * frequency[None, :]
    embedding = torch.cat([angle.sin(), angle.cos()], dim=1)
    return F.pad(embedding, (0, 1)) if dim % 2 else embedding


class Keyed(nn.Module):
    """A layer whose random mask is a function of (seed, example, step, layer), not of the batch.

    Training sets ``key`` before each step. Each 32-bit Philox word decides two elements, so the
    rate is exact to 2^-16.
    """

    def __init__(self, rate: float, layer: int = 0) -> None:
        super().__init__()
        self.rate = rate
        self.layer = layer
        self.key: tuple[Noise, Tensor, int] | None = None

    def kept(self, numel: int, device: torch.device) -> Tensor:
        """Return which of ``numel`` elements of every example stay, bool [B, numel] on a device.

        They are drawn there: masks that a CPU draws for a GPU made up most of a training step.
        """
        assert self.key is not None
        noise, positions, step = self.key
        shape, stream = ((numel + 1) // 2,), dropout_stream(self.layer)
        words = noise.integers(positions, shape, 2**32, row=step, stream=stream, device=device)
        halves = torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(1)[:, :numel]
        return halves >= round(self.rate * 65536)


class KeyedDropout(Keyed):
    """Dropout by a keyed mask; without a key (a user training the network alone) PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x [B, ...] and rescale the rest; the identity outside training."""
        if not self.training or self.rate == 0.0:
            return x
        if self.key is None:
            return F.dropout(x, self.rate)
        keep = self.kept(x[0].numel(), x.device).to(x.dtype).view(x.shape)
        return x * keep / (1.0 - self.rate)


class Downsample(nn.Module):
    """Halve H and W. The convolution pads right and below only, as the original does."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H/2, W/2]."""
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double H and W by repetition, then smooth with a convolution."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, 2H, 2W]."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x if self.conv is None else self.conv(x)


class ResnetBlock(nn.Module):
    """Two GroupNorm-SiLU-convolution layers, the embedded time added in between."""

    def __init__(
        self, c_in: int, c_out: int, *, temb: int, dropout: float, groups: int, layer: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.temb_proj = nn.Linear(temb, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=NORM_EPS)
        self.dropout = KeyedDropout(dropout, layer)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x [B, c_in, H, W] and temb [B, temb] -> [B, c_out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class AttnBlock(nn.Module):
    """Single-head self-attention over positions, scale C^-1/2, with a residual connection."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        h = self.norm(x)
        q, k, v = (self._tokens(layer(h)) for layer in (self.q, self.k, self.v))
        attention_output = attention(q, k, v)  # [B, H W, C], which is NHWC
        out: Tensor = x + self.proj_out(attention_output.transpose(1, 2).reshape(x.shape))
        return out

    @staticmethod
    def _tokens(x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)
