"""Group normalization, SiLU after it and an embedding added before it, for feature maps."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .._dispatch import Impl, choose, preferred
from . import reference
from .check import check
from .op import normalized, options

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
        impl: "auto", "triton" (not float64) or "reference". "auto" is Triton for feature maps in
            NHWC on a GPU, elsewhere PyTorch's own.

    Mean and variance are float32 at least. With "triton" the result lies in NHWC, its bits do not
    depend on the batch, and it can be differentiated once. Traced by torch.compile for a CPU the
    reference is made of PyTorch's operators, which the compiler fuses.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        RuntimeError: the requested implementation cannot run.
    """
    check(x, weight, bias, groups, add)
    # Only on a GPU does the choice depend on the layout, which takes time to ask for.
    nhwc = x.device.type != "cuda" or x.is_contiguous(memory_format=torch.channels_last)
    facts = x.device, x.dtype, nhwc, x.shape[1] // groups, x.shape[1] * x.shape[2] * x.shape[3]
    if impl == "auto" and not torch.compiler.is_compiling():
        impl = _automatic(*facts)
    else:
        impl = choose("group_norm_silu", impl, options(*facts))
    if impl == "triton":
        return normalized(x, weight, bias, add, groups, eps, silu)
    return reference.group_norm_silu(x, weight, bias, groups, eps, silu, add)


def preference(device: torch.device) -> tuple[Impl, str]:
    """Return what ``impl="auto"`` runs for a bfloat16 feature map in NHWC, and why."""
    return preferred(options(device, torch.bfloat16, True, 4, 2**17))


@cache
def _automatic(device: torch.device, dtype: torch.dtype, nhwc: bool, width: int, size: int) -> Impl:
    """Return what "auto" means: a network asks some dozen times per pass, always the same."""
    return choose("group_norm_silu", "auto", options(device, dtype, nhwc, width, size))
