"""Which tokens see which, as segments: rows (queries, own keys, context keys) of the attention.

The rule (DESIGN section 6): a clean token of level d sees the clean levels 0..d of its shape; a
noised token of level d sees its own noised level and the *clean* levels below d, never the clean
level d that it is to predict.
"""

from __future__ import annotations

import numpy as np

from ...kernels.segment_attention import Segments
from .tokens import Counts


def causal(counts: Counts) -> Segments:
    """Clean tokens of several levels, [B, L] counts: each level sees itself and the coarser ones."""
    starts, ends, base = _bounds(counts)
    own = np.broadcast_to(base[:, None], counts.shape)
    nothing = np.zeros_like(starts)
    return _table(starts, ends, own, ends, nothing, nothing)


def levelwise(counts: Counts, first: int, cached: Counts) -> Segments:
    """Tokens of levels first.., [B, L] counts: each level sees itself and the cached coarser ones.

    Args:
        cached: [B, M] counts of the clean levels 0..M-1 in the context, M >= first + L - 1.
    """
    starts, ends, _ = _bounds(counts)
    _, context_ends, base = _bounds(cached)
    # The context of level d ends where the cached level d - 1 does; level 0 has none.
    before = np.concatenate([base[:, None], context_ends], axis=1)
    ctx_ends = before[:, first : first + counts.shape[1]]
    ctx_starts = np.broadcast_to(base[:, None], counts.shape)
    return _table(starts, ends, starts, ends, ctx_starts, ctx_ends)


def _bounds(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Return start and end of every (shape, level), [B, L], and of every shape's first, [B]."""
    ends = counts.reshape(-1).cumsum().reshape(counts.shape)
    totals = counts.sum(axis=1)
    return ends - counts, ends, totals.cumsum() - totals


def _table(*columns: Counts) -> Segments:
    rows = np.stack([column.reshape(-1) for column in columns], axis=1)
    return Segments(rows[rows[:, 1] > rows[:, 0]])
