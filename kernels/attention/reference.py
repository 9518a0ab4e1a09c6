"""Attention in plain PyTorch: the definition, for any device and floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return softmax(scale q k^T) v [B, N, D] and the scores' logsumexp [B, N].

    Args:
        q: [B, N, D]; k, v: [B, M, D] in q's dtype.

    Scores and softmax are computed in float32 at least; the second product takes the weights in
    v's dtype, as every 16-bit implementation does. The logsumexp is natural, in the scores' dtype.
    """
    scores = _scores(q, k, scale)
    weights = torch.softmax(scores, dim=-1)
    return weights.to(v.dtype) @ v, torch.logsumexp(scores, dim=-1)


def products(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Return the same output [B, N, D] by as few passes over the scores as PyTorch can make.

    The scale goes into the first product, and 16-bit scores become 16-bit weights in one kernel
    that computes in float32: a quarter of the bytes that the definition moves, and its roundings.
    """
    empty = q.new_empty(())
    scores = torch.baddbmm(empty, q, k.mT, beta=0, alpha=scale)
    return torch.softmax(scores, dim=-1) @ v


def gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v from that of the output, grad [B, N, D].

    With P the weights and dP = grad v^T: dV = P^T grad, dS = P (dP - sum_j P dP), dQ = scale dS k,
    dK = scale dS^T q. The weights are computed again, so that the forward pass keeps none.
    """
    weights = torch.softmax(_scores(q, k, scale), dim=-1)  # [B, N, M]
    d_weights = (grad @ v.mT).to(weights.dtype)
    inner = (weights * d_weights).sum(dim=-1, keepdim=True)
    d_scores = (scale * weights * (d_weights - inner)).to(q.dtype)
    return d_scores @ k, d_scores.mT @ q, weights.to(v.dtype).mT @ grad


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    scores = q @ k.mT
    return scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
