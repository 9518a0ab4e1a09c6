"""One row of a token plan: from logits to the next ids, by one launch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from .._dispatch import Impl, preferred, recorded
from .check import check
from .op import discrete_update_op, options, run
from .reference import COLUMNS
from .types import CLASSES, IDS, MASK, Drawn, TokenState, Transition, UpdateOptions

__all__ = [
    "CLASSES",
    "COLUMNS",
    "IDS",
    "MASK",
    "Drawn",
    "TokenState",
    "Transition",
    "UpdateOptions",
    "discrete_update",
    "preference",
]

_OLD_NAMES = {"Options": UpdateOptions, "Tokens": TokenState}  # until version 0.3


def __getattr__(name: str) -> Any:
    if name not in _OLD_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"{__name__}.{name} is now {_OLD_NAMES[name].__name__}"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return _OLD_NAMES[name]


def discrete_update(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    tokens: TokenState,
    seed: Tensor,
    fixed: UpdateOptions,
    *,
    uncond: Tensor | None = None,
    guidance: Tensor | None = None,
    impl: Impl = "auto",
) -> Drawn:
    """Draw a clean id for every token and route it (the formulas are in :mod:`ddimx.discrete`).

    For each token: z = uncond + g (logits - uncond) over the ids 1..255, whatever column 0 holds;
    x0 by the inverse CDF of softmax(z / temperature) at one uniform; and then, by another
    uniform, the token keeps its id, takes x0, or takes noise. Its noise is one Philox call with
    the counter (key, sample, row, stream): word 0 draws x0, word 1 the route, word 2 the noise id
    and word 3 the Gumbel noise of the confidence. So a token's result depends on its own logits,
    id, key and sample alone.

    With the absorbing transition a token that is not [MASK] is its own x0 (confidence 0: p = 1) and
    its logits are not read; without ``want_x0`` neither are those of tokens that take no x0.
    ``confidence`` is log softmax(z)[x0], at temperature 1, plus the row's ``gumbel`` times Gumbel
    noise. Logits without a softmax (NaN, +inf, all -inf) draw [MASK] with a confidence of NaN.

    Everything that changes from row to row is a tensor on the logits' device, so that a captured
    graph can be replayed for the next row after adding 1 to ``row``.

    Args:
        table: float [rows, 4], the columns ``COLUMNS`` (``ddimx.discrete.plan.TokenPlan.table``).
        row: 0-d int64, which row; also the row ordinal of the noise.
        logits: [N, 256] of any floating dtype, column = id; float64 for the reference only.
        tokens: the state.
        seed: the noise's 64-bit key as a 0-d int64 tensor (its bits).
        fixed: the transition, the stream and what is wanted.
        uncond, guidance: the unconditional logits [N, 256] and the 0-d weight g.
        impl: "auto", "triton" or "reference".

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a row outside the table where the
            host can know it (on an accelerator such a row gives [MASK]s and NaN).
        RuntimeError: an implementation that was asked for and is not there.
    """
    check(table, row, logits, tokens, seed, uncond, guidance, fixed)
    tensors = [t for t in (logits, table, uncond, guidance) if t is not None]
    call = discrete_update_op if recorded(*tensors) else run
    ids, x0, confidence = call(
        table,
        row,
        logits,
        tokens.ids,
        tokens.keys,
        tokens.samples,
        seed,
        uncond,
        guidance,
        fixed.transition,
        fixed.stream,
        fixed.route,
        fixed.want_x0,
        impl,
    )
    return Drawn(ids, *((x0, confidence) if fixed.want_x0 else (None, None)))


def preference(device: torch.device) -> tuple[Impl, str]:
    """Return what ``impl="auto"`` runs for float32 logits on a device, and why."""
    return preferred(options(device, torch.float32))
