"""Rows that the host's loop takes together: many small products are slower than one with a mask.

Consecutive rows that begin at the same own or context key (the levels of one shape, which share
their coarser levels) are joined as long as the scores that the mask throws away cost less than
another turn of the loop. Rows of different shapes are never joined, so that a shape's results do
not depend on its company.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Rows = np.ndarray[Any, np.dtype[np.int64]]

# Scores that may be wasted to save one turn of the loop: a turn's fixed cost, forward and backward,
# is 0.15 to 0.2 ms on one core, a score with 6 heads of 32 columns 37 ns (measured, float32).
WASTE = 4096


def grouped(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the rows in groups: a table int64 [G, 7] and the masks they need, bool, flat.

    A group's row is a segment's (the hull of its members' ranges) and the place of its mask
    [queries, own keys + context keys] in ``masks``, True where a query must not look, or -1 if
    every query of the group sees every key.
    """
    table: list[list[int]] = []
    masks: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
    place = 0
    for members in _joined(rows[rows[:, 1] > rows[:, 0]]):
        hull, mask = _hull(members), _mask(members)
        table.append([*hull.tolist(), place if mask.any() else -1])
        if mask.any():
            masks.append(mask.reshape(-1))
            place += mask.size
    flat = np.concatenate(masks) if masks else np.zeros(0, np.bool_)
    return torch.tensor(table, dtype=torch.int64).view(-1, 7), torch.from_numpy(flat)


def _joined(rows: Rows) -> list[Rows]:
    found: list[Rows] = []
    for row in rows:
        if found and _related(found[-1], row):
            together = np.concatenate((found[-1], row[None]))
            extra = _scores(_hull(together)) - _scores(_hull(found[-1])) - _scores(row)
            if extra <= WASTE:
                found[-1] = together
                continue
        found.append(row[None])
    return found


def _related(members: Rows, row: Rows) -> bool:
    """Whether a row begins at the first own or the first context key of the members."""
    hull = _hull(members)
    own = row[3] > row[2] and row[2] == hull[2]
    context = row[5] > row[4] and row[4] == hull[4]
    return bool(own or context)


def _hull(members: Rows) -> Rows:
    """Return the row that covers all members; empty key ranges stretch it only if all are empty."""
    hull: Rows = members[0].copy()
    hull[1] = members[-1, 1]
    for start, end in ((2, 3), (4, 5)):
        ranges = members[members[:, end] > members[:, start]]
        if len(ranges):
            hull[start], hull[end] = ranges[:, start].min(), ranges[:, end].max()
    return hull


def _scores(row: Rows) -> int:
    return int((row[1] - row[0]) * (row[3] - row[2] + row[5] - row[4]))


def _mask(members: Rows) -> np.ndarray[Any, np.dtype[np.bool_]]:
    hull = _hull(members)
    own = np.arange(hull[2], hull[3])
    context = np.arange(hull[4], hull[5])
    blocked = np.ones((hull[1] - hull[0], len(own) + len(context)), np.bool_)
    for q_start, q_end, own_start, own_end, ctx_start, ctx_end in members:
        seen_own = (own >= own_start) & (own < own_end)
        seen_context = (context >= ctx_start) & (context < ctx_end)
        seen = np.concatenate((seen_own, seen_context))
        blocked[q_start - hull[0] : q_end - hull[0], seen] = False
    return blocked
