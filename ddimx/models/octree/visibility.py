"""Which tokens see which, as segments: rows (queries, own keys, context keys) of the attention.

A clean token of level d sees the clean levels 0..d of its shape. A noised token of level d sees
its own noised level and the *clean* levels below d, never the clean level d that it is to predict.
"""

from __future__ import annotations

import numpy as np

from ...kernels.segment_attention import Segments
from .tokens import Counts, Layout


def visible_of(layout: Layout, coarser: Counts, window: int) -> Segments:
    """Return :func:`visible` of a layout, made once: every step of a level asks for the same."""
    key = ("segments", coarser.tobytes(), window)
    return layout.once(key, lambda: visible(layout.counts, layout.first, coarser, window))


def visible(counts: Counts, first: int, coarser: Counts, window: int) -> Segments:
    """Return what tokens of levels first.., [B, L] counts, see: near ones of their level, and the
    clean coarser levels.

    A level of more than ``window`` tokens is cut into runs of ``window`` along the Morton curve,
    from its own start on, so that company changes nothing. A run sees half a window to each side
    too, and all of the coarser levels: what is far is seen there. So the cost grows with the
    number of tokens and not with its square.

    Args:
        coarser: [B, M] counts of the clean levels 0..M-1 in the context, M >= first + L - 1.
    """
    starts, ends, _ = _bounds(counts)
    _, context_ends, base = _bounds(coarser)
    # The context of level d ends where the clean level d - 1 does; level 0 has none.
    bounds = np.concatenate([base[:, None], context_ends], axis=1)
    ctx_ends = bounds[:, first : first + counts.shape[1]]
    ctx_starts = np.broadcast_to(base[:, None], counts.shape)
    levels = np.stack([c.reshape(-1) for c in (starts, ends, ctx_starts, ctx_ends)], axis=1)
    return Segments(np.concatenate([_runs(level, window) for level in levels]))


def _runs(level: Counts, window: int) -> Counts:
    """Return a level's rows: (query range, own range, context range) of each of its runs."""
    start, end, ctx_start, ctx_end = level.tolist()
    begin = np.arange(start, end, window)
    rows = np.empty((len(begin), 6), dtype=np.int64)
    rows[:, 0], rows[:, 1] = begin, np.minimum(begin + window, end)
    rows[:, 2] = np.maximum(rows[:, 0] - window // 2, start)
    rows[:, 3] = np.minimum(rows[:, 1] + window // 2, end)
    rows[:, 4:] = ctx_start, ctx_end
    return rows


def _bounds(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Return start and end of every (shape, level), [B, L], and of every shape's first, [B]."""
    ends = counts.reshape(-1).cumsum().reshape(counts.shape)
    totals = counts.sum(axis=1)
    return ends - counts, ends, totals.cumsum() - totals
