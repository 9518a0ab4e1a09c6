"""What segment attention refuses, before anything is launched."""

from __future__ import annotations

import torch
from torch import Tensor

from .segments import Segments

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check(
    q: Tensor, k: Tensor, v: Tensor, context_k: Tensor, context_v: Tensor, segments: Segments
) -> None:
    """Raise ValueError unless the tensors [rows, H, D] fit together and have the segments' rows."""
    if q.dim() != 3 or 0 in q.shape[1:]:
        raise ValueError(f"q has shape {tuple(q.shape)}, expected [queries, heads, columns]")
    if q.dtype not in DTYPES:
        raise ValueError(f"q has dtype {q.dtype}, expected {', '.join(map(str, DTYPES))}")
    tensors = {"k": k, "v": v, "context_k": context_k, "context_v": context_v}
    for name, tensor in tensors.items():
        if tensor.dim() != 3 or tensor.shape[1:] != q.shape[1:]:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, q {tuple(q.shape)}")
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype}, q {q.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}")
    for name, keys, values in (("v", k, v), ("context_v", context_k, context_v)):
        if keys.shape != values.shape:
            raise ValueError(f"{name} has {values.shape[0]} rows, its keys {keys.shape[0]}")
    if q.shape[0] != segments.n_queries:
        raise ValueError(f"q has {q.shape[0]} rows, the segments {segments.n_queries}")
    if k.shape[0] < segments.n_own:
        raise ValueError(f"k has {k.shape[0]} rows, the segments reach {segments.n_own}")
    if context_k.shape[0] < segments.n_context:
        raise ValueError(
            f"context_k has {context_k.shape[0]} rows, the segments reach {segments.n_context}"
        )
