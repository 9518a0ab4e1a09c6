"""Segment attention as a loop over groups of rows on the host, in products of plain PyTorch.

Autograd must not slice here: the gradient of a slice is a tensor of zeros of the whole size, once
per segment. So the gradients have formulas of their own and are written where they belong.
Scores and softmax are float32 at least; the other products take the inputs' dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The slices of one group: queries, own keys, context keys, and the mask or None."""

    queries: slice
    own: slice
    context: slice
    mask: Tensor | None

    def keys(self, own: Tensor, context: Tensor) -> Tensor:
        """Return the group's keys or values of both kinds as [H, keys, D], own ones first."""
        own, context = own[self.own], context[self.context]
        if not context.shape[0]:
            return own.transpose(0, 1)
        if not own.shape[0]:
            return context.transpose(0, 1)
        return torch.cat((own, context)).transpose(0, 1)

    def add(self, gradient: Tensor, own: Tensor, context: Tensor) -> None:
        """Add a gradient [H, keys, D] to those of the own and the context keys."""
        count = self.own.stop - self.own.start
        if count:
            own[self.own].transpose(0, 1).add_(gradient[:, :count])
        if gradient.shape[1] > count:
            context[self.context].transpose(0, 1).add_(gradient[:, count:])


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    groups: Tensor,
    masks: Tensor,
    scale: float,
) -> Tensor:
    """Return the output [Nq, H, D], contiguous.

    Args:
        q: [Nq, H, D]; k, v: [Nk, H, D]; context_k, context_v: [Nc, H, D].
        groups, masks: as :func:`.groups.grouped` makes them.
    """
    out = q.new_empty(q.shape)
    scores = _workspace(q, groups)
    for group in _groups(groups, masks, q.device):
        queries = q[group.queries].transpose(0, 1)
        values = group.keys(v, context_v)
        weights = _weights(scores, queries, group.keys(k, context_k), group.mask, scale)
        product = torch.bmm(weights.to(values.dtype), values)
        out[group.queries].transpose(0, 1).copy_(product)
    return out


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    out: Tensor,
    groups: Tensor,
    masks: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, context_k and context_v from the output's, grad [Nq, H, D].

    With P the weights and dP = grad v^T: dV = P^T grad, dS = P (dP - delta) with delta the row sums
    of grad * out, dQ = scale dS k, dK = scale dS^T q. Keys gather their readers' gradients in
    float32 at least. The weights are computed again, so that the forward pass keeps none.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    delta = (grad.to(wide) * out.to(wide)).sum(dim=-1).t().unsqueeze(-1)  # [H, Nq, 1]
    d_q = q.new_empty(q.shape)
    inputs = (k, v, context_k, context_v)
    d_k, d_v, d_ck, d_cv = (t.new_zeros(t.shape, dtype=wide) for t in inputs)
    scores, slopes = _workspace(q, groups), _workspace(q, groups)
    nothing = q.new_zeros(1)
    for group in _groups(groups, masks, q.device):
        queries, d_out = q[group.queries].transpose(0, 1), grad[group.queries].transpose(0, 1)
        keys, values = group.keys(k, context_k), group.keys(v, context_v)
        weights = _weights(scores, queries, keys, group.mask, scale)
        d_weights = _product(slopes, d_out, values.mT)
        d_scores = d_weights.sub_(delta[:, group.queries]).mul_(weights).to(q.dtype)
        by_queries = torch.baddbmm(nothing, d_scores, keys, beta=0, alpha=scale)
        d_q[group.queries].transpose(0, 1).copy_(by_queries)
        by_keys = torch.baddbmm(nothing, d_scores.mT, queries, beta=0, alpha=scale)
        group.add(by_keys, d_k, d_ck)
        group.add(torch.bmm(weights.to(q.dtype).mT, d_out), d_v, d_cv)
    return d_q, d_k.to(q.dtype), d_v.to(q.dtype), d_ck.to(q.dtype), d_cv.to(q.dtype)


def _groups(groups: Tensor, masks: Tensor, device: torch.device) -> Iterator[Group]:
    masks = masks.to(device)
    for q_start, q_end, own_start, own_end, ctx_start, ctx_end, place in groups.tolist():
        queries, own, context = q_end - q_start, own_end - own_start, ctx_end - ctx_start
        mask = None
        if place >= 0:
            end = place + queries * (own + context)
            mask = masks[place:end].view(queries, own + context)
        yield Group(
            slice(q_start, q_end), slice(own_start, own_end), slice(ctx_start, ctx_end), mask
        )


def _workspace(q: Tensor, groups: Tensor) -> Tensor:
    """Return room for the largest group's scores: allocated once, it stays in the cache."""
    counts = groups[:, 1:6:2] - groups[:, 0:6:2]
    most = int((counts[:, 0] * (counts[:, 1] + counts[:, 2])).max()) if len(groups) else 0
    return q.new_empty(most * q.shape[1], dtype=torch.promote_types(q.dtype, torch.float32))


def _weights(
    space: Tensor, queries: Tensor, keys: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Return softmax(scale queries keys^T), [H, queries, keys] in ``space``."""
    # Products of two 16-bit inputs are exact in float32, and their sums stay so.
    scores = _product(space, queries.to(space.dtype), keys.to(space.dtype).mT, scale)
    if mask is not None:
        scores.masked_fill_(mask, float("-inf"))
    return torch.softmax(scores, dim=-1, out=scores)


def _product(space: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """Return scale a @ b, [H, rows, columns], at the beginning of ``space``."""
    shape = a.shape[0], a.shape[1], b.shape[2]
    out = space[: shape[0] * shape[1] * shape[2]].view(shape)
    if a.dtype != space.dtype:
        return out.copy_(torch.bmm(a, b))
    return torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)
