"""Group normalization, SiLU after it and an embedding added before it, for feature maps."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import Impl, choose, preferred
from . import reference
from .check import check
from .op import options

__all__ = ["group_norm_silu", "preference"]


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    *,
    silu: bool = True,
    add: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Return silu(group_norm(x + add)), [B, C, H, W] in x's dtype and layout of memory.

    Args:
        x: [B, C, H, W], one of float32, float16, bfloat16, float64.
        weight, bias: [C], of one floating dtype, which may be wider than x's.
        groups: how many groups of neighboring channels share a mean and a variance.
        eps: added to the variance.
        silu: False leaves the SiLU out.
        add: [B, C], added to x before the norm, the same for all pixels: an embedded time.
        impl: "auto" or "reference".

    Mean and variance are float32 at least. All implementations can be differentiated. Traced by
    torch.compile for a CPU it is made of PyTorch's operators, which the compiler fuses.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        RuntimeError: the requested implementation cannot run.
    """
    check(x, weight, bias, groups, add)
    choose("group_norm_silu", impl, options(x.device))
    return reference.group_norm_silu(x, weight, bias, groups, eps, silu, add)


def preference(device: torch.device) -> tuple[Impl, str]:
    """Return what ``impl="auto"`` runs for a bfloat16 feature map in NHWC, and why."""
    return preferred(options(device))
