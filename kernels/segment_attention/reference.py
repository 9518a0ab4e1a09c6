"""Segment attention in plain PyTorch: the definition, for any device and floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from .segments import Segments


def segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    segments: Segments,
    scale: float,
) -> Tensor:
    """Return, row by row of the segments, softmax(scale q k^T) v over the row's keys, [Nq, H, D].

    Scores and softmax are computed in float32 at least; the second product takes the weights in
    v's dtype, as every 16-bit implementation does. Differentiable by autograd.
    """
    out = [q[:0]]
    for q_start, q_end, own_start, own_end, ctx_start, ctx_end in segments.rows.tolist():
        keys = torch.cat((k[own_start:own_end], context_k[ctx_start:ctx_end]))
        values = torch.cat((v[own_start:own_end], context_v[ctx_start:ctx_end]))
        scores = torch.einsum("nhd,mhd->hnm", q[q_start:q_end], keys)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
        weights = torch.softmax(scores, dim=-1).to(v.dtype)
        out.append(torch.einsum("hnm,mhd->nhd", weights, values))
    return torch.cat(out)
