"""Attention over ragged batches: every row of a table joins some queries with some keys."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import Impl, autocast, choose, preferred, recorded
from . import loop, reference
from .check import check
from .op import kernel_forward, kernel_op, loop_op, options
from .segments import Segments

__all__ = ["Segments", "preference", "segment_attention"]


def segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    context_k: Tensor | None = None,
    context_v: Tensor | None = None,
    *,
    scale: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Return softmax(scale q k^T) v over each query's own and context keys, [Nq, H, D].

    Args:
        q: [Nq, H, D], one of float32, float16, bfloat16, float64.
        k, v: [Nk, H, D], the own keys, in q's dtype on q's device.
        segments: which queries attend to which own and context keys.
        context_k, context_v: [Nc, H, D], the context keys (such as cached clean coarser levels),
            both or neither.
        scale: factor of the scores, by default D^-1/2.
        impl: "auto", "triton" (heads of 16, 32, 64 or 128 columns, not float64), "loop" (products
            per segment, launched by the host), or "reference" (the definition, slow to
            differentiate). "auto" is Triton on a GPU, the loop elsewhere.

    The tensors may have any strides; a last dimension that is not contiguous is copied for the
    kernels. The output is contiguous. Keys that no query reads get gradients of zero. Under
    autocast the inputs are cast as PyTorch casts its own attention's. What a segment gets does not
    depend on the segments that share no keys with it, to the last bit. "triton" and "loop" cannot
    be differentiated twice; the attempt raises RuntimeError.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or rows that the segments lack.
        RuntimeError: the requested implementation cannot run.
    """
    if (context_k is None) != (context_v is None):
        raise ValueError("context_k and context_v come together")
    context_k = k.new_empty((0, *k.shape[1:])) if context_k is None else context_k
    context_v = v.new_empty((0, *v.shape[1:])) if context_v is None else context_v
    check(q, k, v, context_k, context_v, segments)
    q, k, v, context_k, context_v = autocast(q, k, v, context_k, context_v)
    choice = choose("segment_attention", impl, options(q.device, q.dtype, q.shape[-1]))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if choice == "reference":
        return reference.segment_attention(q, k, v, context_k, context_v, segments, scale)
    inputs, plain = (q, k, v, context_k, context_v), not recorded(q, k, v, context_k, context_v)
    out: Tensor
    if choice == "loop":
        run = loop.forward if plain else loop_op
        out = run(*inputs, segments.groups, segments.masks, scale)
    else:
        start = kernel_forward if plain else kernel_op
        out = start(*inputs, segments.tables(q.device), scale)[0]
    return out


def preference(device: torch.device) -> tuple[Impl, str]:
    """Return what ``impl="auto"`` runs for heads of 32 columns in bfloat16, and why."""
    return preferred(options(device, torch.bfloat16, 32))
