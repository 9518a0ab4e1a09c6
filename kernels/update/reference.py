"""One row of a plan in plain PyTorch: the ground truth for every faster implementation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.profiler import record_function

from .. import philox
from .columns import TABLE
from .types import Extras, Stepped


def update(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None,
    extras: Extras,
) -> Stepped:
    """Apply row ``row`` to x [B, ...]; arguments as :func:`ddimx.kernels.update.update`."""
    values = table.index_select(0, row.reshape(1))[0]
    k = dict(zip(TABLE, values.to(x.dtype).unbind()[: len(TABLE)], strict=True))
    b, q = values[len(TABLE) :].to(x.dtype).chunk(2)
    x_to = k["a"] * x
    x0 = None
    predictions: list[Tensor] = []
    if out is not None:
        out = out.to(y.dtype)
        if extras.uncond is not None and extras.guidance is not None:
            uncond = extras.uncond.to(y.dtype)
            weight = k["g"] * extras.guidance.to(y.dtype) + (1 - k["g"])
            out = uncond + weight * (out - uncond)
        x0 = k["r"] * y + k["s"] * out
        if extras.clip is not None:
            x0 = x0.clamp(-extras.clip, extras.clip)
        current = x0 if extras.history_is_x0 else k["u"] * y + k["v"] * out
        predictions = [current, *_remember(history, values[TABLE.index("calls")], current)]
        x_to = x_to + k["w"] * x0 + _weighted_sum(b, predictions)
    if extras.z is not None:
        x_to = x_to + k["c"] * extras.z.to(x.dtype)
    elif extras.step_stream is not None:
        x_to = x_to + k["c"] * _normal(x, row, extras, extras.step_stream)
    if extras.known is not None:
        assert extras.mask is not None
        assert extras.known_stream is not None
        noise = _normal(x, row, extras, extras.known_stream)
        known = k["known_signal"] * extras.known.to(x.dtype) + k["known_sigma"] * noise
        mask = extras.mask.to(x.dtype)
        x_to = mask * known + (1 - mask) * x_to
    if extras.same_point:
        return Stepped(x_to, x_to, x0)
    point = k["p"] * x_to + _weighted_sum(q, predictions) if predictions else k["p"] * x_to
    return Stepped(x_to, point, x0)


def _remember(history: Tensor | None, calls: Tensor, current: Tensor) -> tuple[Tensor, ...]:
    """Return the earlier predictions, newest first, and put the current one over the oldest.

    ``history``: [depth - 1, B, ...], or None at depth 1; ``calls``: 0-d, how many came before.
    """
    if history is None:
        return ()
    slot = calls.to(torch.int64) % len(history)
    ages = torch.arange(1, len(history) + 1, device=history.device)
    earlier = history.index_select(0, (slot - ages) % len(history))
    history.index_copy_(0, slot.reshape(1), current.unsqueeze(0))
    return earlier.unbind()


def _weighted_sum(weights: Tensor, predictions: Sequence[Tensor]) -> Tensor:
    """Return sum_j weights[j] predictions[j], [depth] and [B, ...] each -> [B, ...]."""
    terms = [weight * m for weight, m in zip(weights.unbind(), predictions, strict=True)]
    # Added one by one: a reduction's order, and so its last bits, may depend on the batch.
    return reduce(torch.add, terms)


def _normal(like: Tensor, row: Tensor, extras: Extras, stream: int) -> Tensor:
    """Return the row's unit noise of a stream, in the shape and dtype of ``like`` [B, ...]."""
    assert extras.seed is not None
    assert extras.samples is not None
    numel = like[0].numel()
    with record_function("ddimx: noise"):  # so that a trace of a run can tell it from the rest
        flat = philox.normal(extras.seed, extras.samples, row, stream, numel, dtype=like.dtype)
    return flat.view(like.shape)
