"""The networks of NVIDIA's EDM, with the same parameter names.

``song`` is its SongUNet (DDPM++ and NCSN++ of Song et al., arXiv 2011.13456), ``dhariwal`` its
DhariwalUNet (ADM, arXiv 2105.05233); https://github.com/NVlabs/edm. They are what lies in its
EDMPrecond, whose scaling is ``prediction: edm`` here. Their weights load as they are, and in
float32 they compute what theirs do. What they know of augmentation is not there: sampling has none.
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
from .layers import (
    GroupNorm,
    KeyedDropout,
    Resampling,
    check_images,
    class_labels,
    timestep_embedding,
)

_MOST_GROUPS, _LEAST_WIDTH = 32, 4  # of the norms, and of a group
_HEAD_DIM = 64  # of dhariwal's attention; song's has one head


class ResampledConv(nn.Module):
    """A convolution after a filter that doubles or halves the feature map; either may be missing.

    ``filter_last``: the filter that halves comes after the convolution.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        resample: Resampling = "none",
        taps: Sequence[int] = (1, 1),
        filter_last: bool = False,
    ) -> None:
        super().__init__()
        self.resample, self.filter_last = resample, filter_last
        conv = nn.Conv2d(c_in, c_out, kernel) if kernel else None
        self.weight = conv.weight if conv is not None else None
        self.bias = conv.bias if conv is not None else None
        line = torch.tensor(taps, dtype=torch.float32)
        square = torch.outer(line, line)[None, None] / line.sum() ** 2
        self.register_buffer("resample_filter", square if resample != "none" else None)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, c_in, H, W] -> [B, c_out, H', W']."""
        if self.filter_last and self.weight is not None:
            edge = self.weight.shape[-1] // 2 + self._edge
            return self._filtered(F.conv2d(x, self.weight, padding=edge), 0, self.bias)
        if self.resample != "none":
            x = self._filtered(x, self._edge, None)
        if self.weight is None:
            return x
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)

    @property
    def _edge(self) -> int:
        return (cast(Tensor, self.resample_filter).shape[-1] - 1) // 2

    def _filtered(self, x: Tensor, padding: int, bias: Tensor | None) -> Tensor:
        kernel = cast(Tensor, self.resample_filter).to(x.dtype).expand(x.shape[1], -1, -1, -1)
        if self.resample == "up":
            return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=x.shape[1])
        return F.conv2d(x, kernel, bias, stride=2, padding=padding, groups=x.shape[1])


def _norm(channels: int, eps: float, activation: str | None = "silu") -> GroupNorm:
    groups = min(_MOST_GROUPS, channels // _LEAST_WIDTH)
    return GroupNorm(groups, channels, eps=eps, activation=activation)


class Block(nn.Module):
    """A residual block that may resample, and self-attention after it.

    ``song`` adds the time, halves the variance of every sum and has one head; the other scales and
    shifts by the time.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        song: bool,
        temb: int,
        dropout: float,
        taps: Sequence[int],
        layer: int,
        resample: Resampling = "none",
        attends: bool = False,
    ) -> None:
        super().__init__()
        self.c_in, self.song = c_in, song
        self.heads = 1 if song else max(c_out // _HEAD_DIM, 1)
        self.scale, eps = (math.sqrt(0.5), 1e-6) if song else (1.0, 1e-5)
        self.norm0 = _norm(c_in, eps)
        self.conv0 = ResampledConv(c_in, c_out, 3, resample=resample, taps=taps)
        self.affine = nn.Linear(temb, c_out if song else 2 * c_out)
        self.norm1 = _norm(c_out, eps, "silu" if song else None)
        self.dropout = KeyedDropout(dropout, layer)
        self.conv1 = ResampledConv(c_out, c_out, 3)
        self.skip: ResampledConv | None = None
        if c_in != c_out or resample != "none":
            kernel = 1 if song or c_in != c_out else 0
            self.skip = ResampledConv(c_in, c_out, kernel, resample=resample, taps=taps)
        self.norm2 = _norm(c_out, eps, None) if attends else None
        self.qkv = ResampledConv(c_out, 3 * c_out, 1) if attends else None
        self.proj = ResampledConv(c_out, c_out, 1) if attends else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x [B, c_in, H, W] and temb [B, temb] -> [B, c_out, H', W']."""
        h = self.conv0(self.norm0(x))
        time = self.affine(temb)
        if self.song:
            h = self.norm1(h, time)
        else:
            scale, shift = time[:, :, None, None].chunk(2, dim=1)
            h = F.silu(self.norm1(h) * (scale + 1) + shift)
        h = self.conv1(self.dropout(h))
        h = (h + (x if self.skip is None else self.skip(x))) * self.scale
        if self.qkv is None or self.norm2 is None or self.proj is None:
            return cast(Tensor, h)
        batch, channels, height, width = h.shape
        # Of a head's columns, query, key and value alternate.
        columns = self.qkv(self.norm2(h)).reshape(
            batch, self.heads, channels // self.heads, 3, height * width
        )
        q, k, v = (part.transpose(-1, -2) for part in columns.unbind(3))  # [B, heads, H W, D]
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(-1, -2).reshape(h.shape)) + h
        return out * self.scale


class FourierTime(nn.Module):
    """Sine and cosine of 2 pi times the time at random frequencies that the weights hold."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(dim // 2) * 16)

    def forward(self, t: Tensor) -> Tensor:
        """Times [B] -> float32 [B, dim]."""
        angle = t.to(torch.float32)[:, None] * cast(Tensor, self.freqs).float() * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class EdmUNet(nn.Module):
    """SongUNet or DhariwalUNet. The arguments are keys of :class:`ddimx.config.ModelConfig`."""

    def __init__(
        self,
        *,
        song: bool,
        image_size: int,
        in_channels: int = 3,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        num_classes: int = 0,
        null_class: bool = False,
        time_dim: int | None = None,
        noise_dim: int | None = None,
        fourier_time: bool = False,
        encoder: str = "standard",
        decoder: str = "standard",
        resample_filter: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        self.song, self.num_classes, self.null_class = song, num_classes, null_class
        self.noise_dim, temb = noise_dim or ch, time_dim or 4 * ch
        self._of_blocks = {"song": song, "temb": temb, "dropout": dropout, "taps": resample_filter}
        self._layers = 0
        self.map_noise = FourierTime(self.noise_dim) if fourier_time else None
        self.map_layer0 = nn.Linear(self.noise_dim, temb)
        self.map_layer1 = nn.Linear(temb, temb)
        self.map_label: nn.Linear | None = None
        if num_classes:
            wide = self.noise_dim if song else temb
            self.map_label = nn.Linear(num_classes, wide, bias=song)

        last = len(ch_mult) - 1
        sizes = [image_size >> level for level in range(last + 1)]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        width, aux, skips = ch if song else ch * ch_mult[0], in_channels, []
        for level, (size, factor) in enumerate(zip(sizes, ch_mult, strict=True)):
            name, attends = f"{size}x{size}", size in {*attn_resolutions}
            if level == 0:
                self.enc[f"{name}_conv"] = ResampledConv(in_channels, width, 3)
            else:
                self.enc[f"{name}_down"] = self._block(width, width, resample="down")
                if encoder == "skip":
                    self.enc[f"{name}_aux_down"] = ResampledConv(
                        aux, aux, 0, resample="down", taps=resample_filter
                    )
                    self.enc[f"{name}_aux_skip"] = ResampledConv(aux, width, 1)
                elif encoder == "residual":
                    self.enc[f"{name}_aux_residual"] = ResampledConv(
                        aux, width, 3, resample="down", taps=resample_filter, filter_last=True
                    )
                    aux = width
            skips.append(width)
            for i in range(num_res_blocks):
                self.enc[f"{name}_block{i}"] = self._block(width, ch * factor, attends=attends)
                width = ch * factor
                skips.append(width)
        for level in reversed(range(last + 1)):
            size, factor = sizes[level], ch_mult[level]
            name, attends = f"{size}x{size}", size in {*attn_resolutions}
            if level == last:
                self.dec[f"{name}_in0"] = self._block(width, width, attends=True)
                self.dec[f"{name}_in1"] = self._block(width, width)
            else:
                self.dec[f"{name}_up"] = self._block(width, width, resample="up")
            for i in range(num_res_blocks + 1):
                here = attends and (i == num_res_blocks or not song)
                entering = width + skips.pop()
                self.dec[f"{name}_block{i}"] = self._block(entering, ch * factor, attends=here)
                width = ch * factor
            if song and (decoder == "skip" or level == 0):
                if decoder == "skip" and level < last:
                    self.dec[f"{name}_aux_up"] = ResampledConv(
                        out_ch, out_ch, 0, resample="up", taps=resample_filter
                    )
                self.dec[f"{name}_aux_norm"] = _norm(width, 1e-6)
                self.dec[f"{name}_aux_conv"] = ResampledConv(width, out_ch, 3)
        if not song:
            self.out_norm = _norm(width, 1e-5)
            self.out_conv = ResampledConv(width, out_ch, 3)

    @classmethod
    def from_config(cls, config: Config) -> EdmUNet:
        """Build the network that ``config.model`` describes; its name is "song" or "dhariwal".

        Raises:
            UsageError: images that are not square or cannot be halved often enough, or widths that
                the norms do not divide.
        """
        m, (height, width) = config.model, config.data.sides
        if height != width:
            raise UsageError(
                f"data.image_size {config.data.image_size}: the network '{m.name}' takes squares"
            )
        check_images(config)
        widths = [m.ch * factor for factor in m.ch_mult]
        if any(isinstance(w, float) or w % min(_MOST_GROUPS, w // 4 or 1) for w in widths):
            raise UsageError(f"widths {widths} (model.ch times ch_mult) do not suit the norms")
        return cls(
            song=m.name == "song",
            image_size=height,
            in_channels=m.in_channels,
            out_ch=m.out_ch,
            ch=m.ch,
            ch_mult=[int(factor) for factor in m.ch_mult],
            num_res_blocks=m.num_res_blocks,
            attn_resolutions=m.attn_resolutions,
            dropout=m.dropout,
            num_classes=len(m.classes),
            null_class=m.null_class,
            time_dim=m.time_dim,
            noise_dim=m.noise_dim,
            fourier_time=m.fourier_time,
            encoder=m.encoder,
            decoder=m.decoder,
            resample_filter=m.resample_filter,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the raw output [B, out_ch, H, W] at x [B, in_channels, H, W] and times t [B].

        ``labels``: int64 [B]; ``num_classes`` means no class, and so does None.

        Raises:
            UsageError: no class for a network that has no prediction without one.
        """
        temb = self._embed(x, t, labels)
        h, aux = x, x
        skips: list[Tensor] = []
        for name, layer in self.enc.items():
            if "aux_down" in name:
                aux = layer(aux)
            elif "aux_skip" in name:
                h = skips[-1] = h + layer(aux)
            elif "aux_residual" in name:
                h = skips[-1] = aux = (h + layer(aux)) / math.sqrt(2)
            else:
                h = layer(h, temb) if isinstance(layer, Block) else layer(h)
                skips.append(h)
        total: Tensor | None = None
        features = h
        for name, layer in self.dec.items():
            if isinstance(layer, Block):
                if h.shape[1] != layer.c_in:
                    h = torch.cat([h, skips.pop()], dim=1)
                h = layer(h, temb)
            elif "aux_up" in name:
                total = layer(total)
            elif "aux_norm" in name:
                features = layer(h)
            else:
                part = layer(features)
                total = part if total is None else part + total
        if total is None:  # dhariwal has no images on its way up
            total = self.out_conv(self.out_norm(h))
        return total

    def _embed(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        if self.map_noise is not None:
            features = self.map_noise(t)
        else:
            shift = 1.0 if self.song else 0.0
            features = timestep_embedding(
                t, self.noise_dim, cosine_first=not self.song, freq_shift=shift
            )
        classes = torch.zeros((), dtype=dtype, device=t.device)
        if self.map_label is not None:
            labels = class_labels(labels, x, self.num_classes, null_class=self.null_class)
            # "No class" has no row: all numbers are 0, as in their training with label_dropout.
            row = F.one_hot(labels, self.num_classes + 1)[:, :-1].to(dtype)
            classes = self.map_label(row * math.sqrt(self.num_classes) if self.song else row)
        h = features.to(dtype)
        if self.song:
            return F.silu(self.map_layer1(F.silu(self.map_layer0(h + classes))))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(h))) + classes)

    def _block(
        self, c_in: int, c_out: int, *, resample: Resampling = "none", attends: bool = False
    ) -> Block:
        self._layers += 1
        return Block(
            c_in,
            c_out,
            layer=self._layers - 1,
            resample=resample,
            attends=attends,
            **self._of_blocks,  # type: ignore[arg-type]
        )
