"""What group normalization refuses, before anything is launched."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check(x: Tensor, weight: Tensor, bias: Tensor, groups: int, add: Tensor | None) -> None:
    """Raise ValueError unless x [B, C, H, W], weight, bias [C] and add [B, C] fit together."""
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, expected [B, C, H, W] with at least one channel and "
            "one pixel"
        )
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide x's {channels} channels")
    if x.dtype not in DTYPES:
        raise ValueError(f"x has dtype {x.dtype}, expected {', '.join(map(str, DTYPES))}")
    shapes = (("weight", weight, (channels,)), ("bias", bias, (channels,)))
    for name, tensor, shape in (*shapes, ("add", add, (x.shape[0], channels))):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, which does not fit x's {tuple(x.shape)}"
            )
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} has dtype {tensor.dtype}, expected a floating one")
    if bias.dtype != weight.dtype:
        raise ValueError(f"bias has dtype {bias.dtype}, weight {weight.dtype}")
