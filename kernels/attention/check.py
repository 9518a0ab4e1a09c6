"""What attention refuses, before anything is launched."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless q [B, N, D], k and v [B, M, D] fit together."""
    if q.dim() != 3 or 0 in k.shape[1:]:
        raise ValueError(
            f"q and k have shapes {tuple(q.shape)} and {tuple(k.shape)}, expected [B, N, D] and "
            "[B, M, D] with at least one key and one column"
        )
    if k.shape != (q.shape[0], *k.shape[1:2], q.shape[2]):
        raise ValueError(f"k has shape {tuple(k.shape)}, which does not fit q's {tuple(q.shape)}")
    if v.shape != k.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}, k {tuple(k.shape)}")
    if q.dtype not in DTYPES:
        raise ValueError(f"q has dtype {q.dtype}, expected {', '.join(map(str, DTYPES))}")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype}, q {q.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}")
