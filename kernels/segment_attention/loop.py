"""Segment attention as a loop over groups of rows on the host, in products of plain PyTorch.

Autograd must not slice here: the gradient of a slice is a tensor of zeros of the whole size, once
per segment. So the gradients have formulas of their own and are written where they belong.
Scores and softmax are float32 at least; the other products take the inputs' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The slices of one group: queries, own keys, context keys, and the mask or None.

    The mask is 0 where a query looks and -inf where it must not: [queries, keys], in the dtype of
    the scores.
    """

    queries: slice
    own: slice
    context: slice
    mask: Tensor | None

    def keys(self, own: Tensor, context: Tensor, room: Tensor) -> Tensor:
        """Return the group's keys or values of both kinds as [H, keys, D], own ones first.

        Both kinds are copied together into ``room``, and so is one kind whose dtype is another than
        that of ``room``, which has space for [keys, H, D] of the largest group.
        """
        parts = [part for part in (own[self.own], context[self.context]) if part.shape[0]]
        if len(parts) == 1 and own.dtype == room.dtype:
            return parts[0].transpose(0, 1)
        out = _part(room, sum(part.shape[0] for part in parts), *own.shape[1:])
        return torch.cat(parts, out=out).transpose(0, 1)

    def add(self, gradient: Tensor, own: Tensor, context: Tensor) -> None:
        """Add a gradient [H, keys, D] to those of the own and the context keys."""
        count = self.own.stop - self.own.start
        if count:
            own[self.own].transpose(0, 1).add_(gradient[:, :count])
        if gradient.shape[1] > count:
            context[self.context].transpose(0, 1).add_(gradient[:, count:])


class Rooms:
    """Memory for the largest group's tensors: allocated once, it stays in the cache.

    A tensor of its own for every group costs page faults, a tenth of the time on a CPU.
    """

    def __init__(self, q: Tensor, groups: Tensor) -> None:
        counts = groups[:, 1:6:2] - groups[:, 0:6:2]
        keys = counts[:, 1] + counts[:, 2]
        scores, most_keys = (
            int(n.max()) * q.shape[1] if len(groups) else 0 for n in (counts[:, 0] * keys, keys)
        )
        wide = torch.promote_types(q.dtype, torch.float32)
        self.scores = q.new_empty(scores, dtype=wide)
        self.weights = self.scores if wide == q.dtype else q.new_empty(scores)
        self.keys = q.new_empty(most_keys * q.shape[2], dtype=wide)
        self.values = q.new_empty(most_keys * q.shape[2])


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
    rooms = Rooms(q, groups)
    for group in _groups(groups, masks.to(q.device, rooms.scores.dtype)):
        queries = q[group.queries].transpose(0, 1)
        keys = group.keys(k, context_k, rooms.keys)
        weights = _weights(rooms.scores, queries, keys, group.mask, scale)
        if rooms.weights is not rooms.scores:
            weights = _part(rooms.weights, *weights.shape).copy_(weights)
        product = torch.bmm(weights, group.keys(v, context_v, rooms.values))
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
    rooms = Rooms(q, groups)
    slopes, plain_keys = torch.empty_like(rooms.scores), torch.empty_like(rooms.values)
    nothing = q.new_zeros(1)
    for group in _groups(groups, masks.to(q.device, wide)):
        queries, d_out = q[group.queries].transpose(0, 1), grad[group.queries].transpose(0, 1)
        keys = group.keys(k, context_k, plain_keys)
        values = group.keys(v, context_v, rooms.values)
        weights = _weights(rooms.scores, queries, keys.to(wide), group.mask, scale)
        d_weights = _product(slopes, d_out, values.mT)
        d_scores = d_weights.sub_(delta[:, group.queries]).mul_(weights).to(q.dtype)
        by_queries = torch.baddbmm(nothing, d_scores, keys, beta=0, alpha=scale)
        d_q[group.queries].transpose(0, 1).copy_(by_queries)
        by_keys = torch.baddbmm(nothing, d_scores.mT, queries, beta=0, alpha=scale)
        group.add(by_keys, d_k, d_ck)
        group.add(torch.bmm(weights.to(q.dtype).mT, d_out), d_v, d_cv)
    return d_q, d_k.to(q.dtype), d_v.to(q.dtype), d_ck.to(q.dtype), d_cv.to(q.dtype)


def _groups(groups: Tensor, masks: Tensor) -> Iterator[Group]:
    for q_start, q_end, own_start, own_end, ctx_start, ctx_end, place in groups.tolist():
        queries, own, context = q_end - q_start, own_end - own_start, ctx_end - ctx_start
        mask = None
        if place >= 0:
            end = place + queries * (own + context)
            mask = masks[place:end].view(queries, own + context)
        yield Group(
            slice(q_start, q_end), slice(own_start, own_end), slice(ctx_start, ctx_end), mask
        )


def _weights(
    space: Tensor, queries: Tensor, keys: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Return softmax(scale queries keys^T + mask), [H, queries, keys] in ``space``."""
    # Products of two 16-bit inputs are exact in float32, and their sums stay so.
    queries, out = queries.to(space.dtype), _part(space, *queries.shape[:2], keys.shape[1])
    # The mask as what the product is added to: filling the scores afterwards takes as long as it.
    start, beta = (out, 0) if mask is None else (mask.expand(out.shape), 1)
    scores = torch.baddbmm(start, queries, keys.mT, beta=beta, alpha=scale, out=out)
    return torch.softmax(scores, dim=-1, out=scores)


def _product(space: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, [H, rows, columns], at the beginning of ``space``."""
    out = _part(space, a.shape[0], a.shape[1], b.shape[2])
    return torch.bmm(a, b, out=out) if a.dtype == space.dtype else out.copy_(torch.bmm(a, b))


def _part(space: Tensor, *shape: int) -> Tensor:
    """Return the beginning of ``space`` as a tensor of this shape."""
    return space[: math.prod(shape)].view(shape)
