"""The blocks of the UNet, named as in ermongroup/ddim so that its weights load, and what all share.

Every block's argument with a default is a setting of diffusers' UNet2DModel; the default is the
original's. The other networks of images use what is no block: checks, times, classes, dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import UsageError
from ..kernels import philox
from ..kernels.attention import attention
from ..kernels.group_norm_silu import group_norm_silu
from ..noise import Noise, dropout_stream

NORM_EPS = 1e-6
Resampling = Literal["none", "down", "up"]
# The names of ``model.activation``. GELU is the exact one, not the approximation by tanh.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}


def check_images(config: Config) -> None:
    """Refuse images that a network's levels cannot halve, or of other channels than the network's.

    Raises:
        UsageError: such images.
    """
    model, halvings = config.model, len(config.model.ch_mult) - 1
    if any(side % 2**halvings for side in config.data.sides):
        raise UsageError(
            f"data.image_size {config.data.image_size} cannot be halved {halvings} times, for "
            "model.ch_mult"
        )
    if {model.in_channels, model.out_ch} != {config.data.channels}:
        raise UsageError(
            f"model.in_channels {model.in_channels} and out_ch {model.out_ch}: data.channels is "
            f"{config.data.channels}"
        )


def class_labels(labels: Tensor | None, x: Tensor, num_classes: int, *, null_class: bool) -> Tensor:
    """Return the classes int64 [B] of images x [B, ...]; None means no class, ``num_classes``.

    Raises:
        UsageError: no class for a network that has no prediction without one.
    """
    if labels is not None:
        return labels
    if not null_class:
        raise UsageError(
            "the network was trained with a class for every image (model.null_class false), so it "
            "has no prediction without one: name a class"
        )
    return torch.full((len(x),), num_classes, device=x.device)


def timestep_embedding(
    t: Tensor,
    dim: int,
    *,
    cosine_first: bool = False,
    freq_shift: float = 1.0,
    theta: float = 10000.0,
) -> Tensor:
    """Sinusoidal embedding, sine half first: t [B] (real-valued) -> float32 [B, dim].

    Frequencies fall from 1 to 1 / ``theta`` over dim // 2 - 1 intervals, as in DDPM's code; with
    another ``freq_shift`` over dim // 2 - freq_shift. ``cosine_first`` puts the cosine half before.
    """
    half = dim // 2
    rate = math.log(theta) / (half - freq_shift if half > freq_shift else 1)
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -rate)
    angle = t.to(torch.float32)[:, None] * frequency[None, :]
    halves = [angle.sin(), angle.cos()]
    embedding = torch.cat(halves[::-1] if cosine_first else halves, dim=1)
    return F.pad(embedding, (0, 1)) if dim % 2 else embedding


class Keyed(nn.Module):
    """A layer whose random mask is a function of (seed, example, step, layer), not of the batch.

    Training calls :func:`set_dropout_key` before each step. Each 32-bit Philox word decides two
    elements, so the rate is exact to 2^-16.
    """

    def __init__(self, rate: float, layer: int = 0) -> None:
        super().__init__()
        self.rate = rate
        self.layer = layer
        self.key: tuple[Noise, Tensor, int] | None = None
        self.numel = 0  # elements of an example in the last mask that this layer drew itself
        self.mask: Tensor | None = None  # for ``key``, if it was drawn with those of other layers

    def kept(self, numel: int, device: torch.device) -> Tensor:
        """Return which of ``numel`` elements of every example stay, bool [B, numel] on a device.

        They are drawn there: masks that a CPU draws for a GPU made up most of a training step.
        """
        if self.mask is not None and self.mask.shape[1] == numel:
            return self.mask
        assert self.key is not None
        self.numel = numel
        noise, positions, step = self.key
        return _masks(noise, positions.to(device), step, [self])[0]


def set_dropout_key(network: nn.Module, key: tuple[Noise, Tensor, int]) -> None:
    """Give a network's keyed layers the address of a step's draws: seed, examples int64 [B], step.

    The masks of all layers whose size an earlier step has shown are drawn at once, where the
    examples' positions are: on a GPU a draw is a hundred launches, whatever its size.
    """
    noise, positions, step = key
    layers = [module for module in network.modules() if isinstance(module, Keyed)]
    for layer in layers:
        layer.key, layer.mask = key, None
    layers = [layer for layer in layers if layer.numel and layer.rate > 0]
    if layers and network.training:
        for layer, mask in zip(layers, _masks(noise, positions, step, layers), strict=True):
            layer.mask = mask


# Counters that are drawn together: their words and what is computed of them stay in a CPU's cache,
# and on a GPU in some hundred megabytes.
_COUNTERS = {"cpu": 1 << 16}
_COUNTERS_ELSEWHERE = 1 << 22


def _masks(noise: Noise, positions: Tensor, step: int, layers: Sequence[Keyed]) -> list[Tensor]:
    """Return the layers' masks, bool [B, numel] each, on the device of ``positions`` int64 [B]."""
    device = positions.device
    sizes = [(layer.numel + 7) // 8 for layer in layers]  # a counter has words for 8 elements
    block = torch.cat([torch.arange(size, device=device) for size in sizes])
    streams = [dropout_stream(layer.layer) for layer in layers]
    stream = torch.cat(
        [torch.full((n,), s, device=device) for n, s in zip(sizes, streams, strict=True)]
    )
    most = _COUNTERS.get(device.type, _COUNTERS_ELSEWHERE)
    parts = []
    for sample in torch.split(positions, max(1, most // len(block))):
        words = philox.philox_words(noise.seed, block, sample[:, None], step, stream)
        # The low and the high half of a word, in this order, as signed numbers.
        parts.append(torch.stack(words, dim=-1).to(torch.int32).view(torch.int16))
    masks = []
    for layer, halves in zip(layers, torch.split(torch.cat(parts), sizes, dim=1), strict=True):
        halves = halves.flatten(1)[:, : layer.numel]
        least = round(layer.rate * 65536)
        # Compared as unsigned numbers, which PyTorch has no comparison of: 2^15 is taken off both.
        masks.append((halves ^ -32768) > least - 32769 if least else torch.ones_like(halves) > 0)
    return masks


class KeyedDropout(Keyed):
    """Dropout by a keyed mask; without a key (a user training the network alone) PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x [B, ...] and rescale the rest; the identity outside training."""
        if not self.training or self.rate == 0.0:
            return x
        if self.key is None:
            return F.dropout(x, self.rate)
        mask = self.kept(x[0].numel(), x.device).view(x.shape)
        # In the memory layout of x, where the product is three times as fast as across layouts.
        return (x * torch.empty_like(x, requires_grad=False).copy_(mask)).div_(1.0 - self.rate)


class Downsample(nn.Module):
    """Halve H and W. The convolution pads right and below only, or (1) on all sides alike."""

    def __init__(self, channels: int, with_conv: bool, padding: int = 0) -> None:
        super().__init__()
        self.padding = (1, 1, 1, 1) if padding else (0, 1, 0, 1)
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H/2, W/2]."""
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        out: Tensor = self.conv(F.pad(x, self.padding))
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


class GroupNorm(nn.GroupNorm):
    """PyTorch's group normalization, with an activation after it and an embedding before it.

    ``activation``: a name of ``ACTIVATIONS``, or None. SiLU is computed together with the norm.
    """

    def __init__(
        self, groups: int, channels: int, *, eps: float = 1e-5, activation: str | None = None
    ) -> None:
        super().__init__(groups, channels, eps=eps)
        self.activation = activation

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """x [B, C, H, W] -> the same shape; ``add`` [B, C] is added to every pixel before."""
        silu = self.activation == "silu"
        h = group_norm_silu(
            x, self.weight, self.bias, self.num_groups, self.eps, silu=silu, add=add
        )
        return h if silu or self.activation is None else ACTIVATIONS[self.activation](h)


class ResnetBlock(nn.Module):
    """Two norm-activation-convolution layers, told the time in between.

    The embedded time is added before the second norm, or (``scale_shift``) scales and shifts what
    that norm returns, as in arXiv 2105.05233. ``resample`` halves or doubles H and W, without
    weights, after the first activation and in the shortcut.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        temb: int,
        dropout: float,
        groups: int,
        layer: int,
        eps: float = NORM_EPS,
        activation: str = "silu",
        scale_shift: bool = False,
        resample: Resampling = "none",
    ) -> None:
        super().__init__()
        self.activation, self.scale_shift = ACTIVATIONS[activation], scale_shift
        self.resample = resample
        self.norm1 = GroupNorm(groups, c_in, eps=eps, activation=activation)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.temb_proj = nn.Linear(temb, c_out * 2 if scale_shift else c_out)
        after = None if scale_shift else activation
        self.norm2 = GroupNorm(groups, c_out, eps=eps, activation=after)
        self.dropout = KeyedDropout(dropout, layer)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x [B, c_in, H, W] and temb [B, temb] -> [B, c_out, H', W'], by default H and W."""
        h = self.norm1(x)
        if self.resample == "down":
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        elif self.resample == "up":
            x, h = (F.interpolate(value, scale_factor=2.0, mode="nearest") for value in (x, h))
        h = self.conv1(h)
        embedding = self.temb_proj(self.activation(temb))
        if self.scale_shift:
            scale, shift = embedding[:, :, None, None].chunk(2, dim=1)
            h = self.activation(self.norm2(h) * (1 + scale) + shift)
        else:
            h = self.norm2(h, embedding)
        h = self.conv2(self.dropout(h))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class AttnBlock(nn.Module):
    """Self-attention over positions with a residual connection.

    By default with one head as wide as x; else with as many heads of ``head_dim`` columns as fit
    into C, each with the scale head_dim^-1/2. ``groups`` 0 leaves the norm out.
    """

    def __init__(
        self, channels: int, *, groups: int, eps: float = NORM_EPS, head_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads = channels // (head_dim or channels)
        inner = self.heads * (head_dim or channels)
        self.norm = GroupNorm(groups, channels, eps=eps) if groups else nn.Identity()
        self.q = nn.Conv2d(channels, inner, 1)
        self.k = nn.Conv2d(channels, inner, 1)
        self.v = nn.Conv2d(channels, inner, 1)
        self.proj_out = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        batch, _, height, width = x.shape
        h = self.norm(x)
        q, k, v = (self._tokens(layer(h)) for layer in (self.q, self.k, self.v))
        mixed = attention(q, k, v)  # [B heads, H W, D]
        if self.heads > 1:
            by_head = mixed.view(batch, self.heads, *mixed.shape[1:])
            mixed = by_head.transpose(1, 2).flatten(2)
        # [B, H W, heads D], which is NHWC
        out: Tensor = x + self.proj_out(mixed.transpose(1, 2).reshape(batch, -1, height, width))
        return out

    def _tokens(self, x: Tensor) -> Tensor:
        """Return [B, heads D, H, W] as [B heads, H W, D]; the heads follow one another."""
        return x.reshape(x.shape[0] * self.heads, -1, x.shape[2] * x.shape[3]).transpose(1, 2)
