"""Group normalization with SiLU in plain PyTorch: the definition, for any device and dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    add: Tensor | None,
) -> Tensor:
    """Return silu(group_norm(x + add)) in x's dtype, or without SiLU what it would be applied to.

    Args:
        x: [B, C, H, W] in any layout of memory; the result has the same.
        weight, bias: [C].
        add: [B, C], the same for all pixels, or None.

    PyTorch computes mean and variance in float32 at least, on a CPU also where x has 16 bits and
    the weights 32; elsewhere such a pair is computed in the wider dtype.
    """
    dtype = x.dtype
    if add is not None:
        x = torch.add(x, add[:, :, None, None]).to(dtype)
    on_cpu = x.device.type == "cpu"
    if _scalar_on_cpus(x, groups) if on_cpu else weight.dtype != dtype:
        wide = torch.promote_types(weight.dtype, torch.float32 if on_cpu else dtype)
        x, weight, bias = x.to(wide), weight.to(wide), bias.to(wide)
    out = F.group_norm(x, groups, weight, bias, eps).to(dtype)
    if silu:  # in place where no gradient needs the input: one tensor less
        out = F.silu(out, inplace=not out.requires_grad)
    return out


def _scalar_on_cpus(x: Tensor, groups: int) -> bool:
    """Return whether PyTorch's norm for 16 bits goes through x value by value.

    On a CPU it does so in NHWC where a group's channels fill no vector, below 1024 pixels, and
    backward for any. In float32, with both conversions, it is then 1.8 times as fast forward and
    backward (24 x 40 x 16 x 16), forward 2 to 8 times (256 channels, 8 x 8 and 16 x 16).
    """
    return (
        x.element_size() == 2
        and x.shape[1] // groups % 16 != 0
        and (x.requires_grad or x.shape[2] * x.shape[3] < 1024)
        and x.is_contiguous(memory_format=torch.channels_last)
    )
