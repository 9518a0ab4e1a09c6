"""Bytes to the network's range and back, as the original's data section describes it."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import DataConfig

LOGIT_MARGIN = 1e-6
PICTURES = DataConfig(dataset="FOLDER", image_size=1, channels=3)  # of any size, in [-1, 1]


def to_network(pixels: Tensor, data: DataConfig, dequantize: Tensor | None = None) -> Tensor:
    """Map uint8 pixels [B, H, W, C] to float32 [B, C, H, W] in the network's range.

    ``rescaled`` gives [-1, 1]. ``dequantize`` is unit noise of the output's shape: uniform in
    [0, 1) for ``uniform_dequantization``, normal for ``gaussian_dequantization``.
    """
    x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0
    if dequantize is not None and data.uniform_dequantization:
        x = x / 256.0 * 255.0 + dequantize / 256.0
    if dequantize is not None and data.gaussian_dequantization:
        x = x + dequantize * 0.01
    if data.rescaled:
        return 2.0 * x - 1.0
    if data.logit_transform:
        squeezed = LOGIT_MARGIN + (1 - 2 * LOGIT_MARGIN) * x
        return torch.logit(squeezed)
    return x


def to_unit(x: Tensor, data: DataConfig) -> Tensor:
    """Map the network's range to [0, 1], clamped; the shape stays."""
    if data.rescaled:
        x = (x + 1.0) / 2.0
    elif data.logit_transform:
        x = torch.sigmoid(x)
    return x.clamp(0.0, 1.0)


def to_bytes(x: Tensor, data: DataConfig) -> Tensor:
    """Map samples [B, C, H, W] to uint8 pixels [B, H, W, C], rounding half up."""
    unit = to_unit(x.to(torch.float32), data)
    return (unit * 255.0 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
