"""One row of a plan in plain PyTorch: the ground truth for every faster implementation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..philox import reference as philox
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
    """Apply row ``row`` of ``table``; arguments as :func:`ddimx.kernels.update.update`."""
    values = table.index_select(0, row.reshape(1))[0]
    k = dict(zip(TABLE, values.to(x.dtype).unbind()[: len(TABLE)], strict=True))
    b, q = values[len(TABLE) :].to(x.dtype).chunk(2)
    moved = k["a"] * x
    x0 = None
    predictions: list[Tensor] = []
    if out is not None:
        x0, epsilon = _predictions(k, y, out, extras)
        current = x0 if extras.history_is_x0 else epsilon
        predictions = [current, *_remembered(history, values[TABLE.index("calls")], current)]
        moved = moved + k["w"] * x0 + _weighted(b, predictions)
    if extras.step_stream is not None or extras.z is not None:
        moved = moved + k["c"] * _step_noise(x, row, extras)
    if extras.known is not None:
        moved = _with_known(k, moved, row, extras)
    if extras.same_point:
        return Stepped(moved, moved, x0)
    point = k["p"] * moved + _weighted(q, predictions) if predictions else k["p"] * moved
    return Stepped(moved, point, x0)


def _predictions(
    k: dict[str, Tensor], y: Tensor, out: Tensor, extras: Extras
) -> tuple[Tensor, Tensor]:
    out = out.to(y.dtype)
    if extras.uncond is not None and extras.guidance is not None:
        uncond = extras.uncond.to(y.dtype)
        out = uncond + extras.guidance.to(y.dtype) * (out - uncond)
    x0 = k["r"] * y + k["s"] * out
    if extras.clip is not None:
        x0 = x0.clamp(-extras.clip, extras.clip)
    return x0, k["u"] * y + k["v"] * out


def _remembered(history: Tensor | None, calls: Tensor, current: Tensor) -> tuple[Tensor, ...]:
    """Return the earlier predictions, newest first, and put the current one over the oldest."""
    if history is None:
        return ()
    slot = calls.to(torch.int64) % len(history)
    back = torch.arange(1, len(history) + 1, device=history.device)
    earlier = history.index_select(0, (slot - back) % len(history))
    history.index_copy_(0, slot.reshape(1), current.unsqueeze(0))
    return earlier.unbind()


def _weighted(weights: Tensor, predictions: Sequence[Tensor]) -> Tensor:
    terms = [weight * m for weight, m in zip(weights.unbind(), predictions, strict=True)]
    # Added one by one: a reduction's order, and so its last bits, may depend on the batch.
    return reduce(torch.add, terms)


def _step_noise(x: Tensor, row: Tensor, extras: Extras) -> Tensor:
    if extras.z is not None:
        return extras.z.to(x.dtype)
    assert extras.step_stream is not None
    return _normal(x, row, extras, extras.step_stream)


def _with_known(k: dict[str, Tensor], moved: Tensor, row: Tensor, extras: Extras) -> Tensor:
    assert extras.known is not None
    assert extras.mask is not None
    assert extras.known_stream is not None
    noise = _normal(moved, row, extras, extras.known_stream)
    known = k["known_signal"] * extras.known.to(moved.dtype) + k["known_sigma"] * noise
    mask = extras.mask.to(moved.dtype)
    return mask * known + (1 - mask) * moved


def _normal(like: Tensor, row: Tensor, extras: Extras, stream: int) -> Tensor:
    assert extras.seed is not None
    assert extras.samples is not None
    numel = like[0].numel()
    flat = philox.normal(extras.seed, extras.samples, row, stream, numel, dtype=like.dtype)
    return flat.view(like.shape)
