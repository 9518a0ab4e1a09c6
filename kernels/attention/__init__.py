"""Single-head attention: softmax(scale q k^T) v for the UNet's wide heads."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .._dispatch import Impl, autocast, choose, preferred
from . import reference
from .check import check
from .op import attention_op, options

__all__ = ["Backward", "attention", "preference"]

Backward = Literal["auto", "triton", "torch"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    impl: Impl = "auto",
    backward: Backward = "auto",
) -> Tensor:
    """Return softmax(scale q k^T) v, [B, N, D] in the dtype of the inputs.

    Args:
        q: [B, N, D], one of float32, float16, bfloat16, float64, of any strides: the tokens of a
            feature map, ``x.flatten(2).transpose(1, 2)``, are read where they lie.
        k, v: [B, M, D] in q's dtype on q's device; M >= 1 need not be N. Several heads are folded
            into B by the caller.
        scale: factor of the scores, by default D^-1/2.
        impl: "auto", "triton" (not float64), "sdpa" (PyTorch's scaled_dot_product_attention),
            "products" (two matrix products, the scores in memory) or "reference". "auto" takes
            PyTorch's, on a GPU above 256 columns the products, and for more than 2^24 scores of a
            sample Triton's where gradients are wanted: what was fastest where it was measured.
        backward: what differentiates the Triton kernel: "triton" its own kernels, "torch" matrix
            products of PyTorch. "auto" is "torch", the faster one on an H200. The other
            implementations are differentiated by PyTorch and take only "auto" and "torch".

    The output is contiguous, so that ``out.transpose(1, 2).reshape(B, D, H, W)`` is a view: a
    feature map in channels_last. Under autocast the inputs are cast as PyTorch casts its own
    attention's. "triton" cannot be differentiated twice; the attempt raises RuntimeError.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, no keys, no columns.
        RuntimeError: the requested implementation cannot run.
    """
    check(q, k, v)
    q, k, v = autocast(q, k, v)
    if backward not in get_args(Backward):
        raise ValueError(f"backward '{backward}' is not one of {', '.join(get_args(Backward))}")
    differentiates = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    shape = q.shape[1], k.shape[1], q.shape[2]
    impl = choose(
        "attention", impl, options(q.device, q.dtype, *shape, differentiates=differentiates)
    )
    if backward == "triton" and impl != "triton":
        raise RuntimeError(f"attention: backward 'triton' needs impl 'triton', not '{impl}'")
    if impl == "sdpa":
        if q.is_meta:
            # Without data PyTorch takes it apart and makes all scores; with data it does not.
            return torch.empty_like(q, memory_format=torch.contiguous_format)
        # One head of four dimensions: with three, PyTorch does not take its fused kernels.
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        return F.scaled_dot_product_attention(q, k, v, scale=scale).squeeze(1).contiguous()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if impl == "products":
        return reference.products(q, k, v, scale).contiguous()
    if impl == "reference":
        return reference.attention(q, k, v, scale)[0].contiguous()
    out: Tensor = attention_op(q, k, v, scale, backward == "triton")[0]
    return out


def preference(device: torch.device) -> tuple[Impl, str]:
    """Return what ``impl="auto"`` runs for the UNet's 256 tokens and columns, and why."""
    return preferred(options(device, torch.bfloat16, 256, 256, 256))
