"""Rows that the host's loop takes together: many small products are slower than one with a mask.

Consecutive rows that begin at the same own or context key (the levels of one shape, which share
their coarser levels) are joined as long as the scores that the mask throws away cost less than
another turn of the loop. Rows of different shapes are never joined, so that a shape's results do
not depend on its company. A masked weight is exactly zero, so that a key changes no query that must
not see it; only a value that is not finite would reach its whole group, as NaN. Rows with very many
scores are cut, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Row = list[int]

# Scores that may be wasted to save one turn of the loop: a turn's fixed cost, forward and backward,
# is 0.15 to 0.2 ms on one core, a score with 6 heads of 32 columns 37 ns (measured, float32).
WASTE = 4096
MOST = 2**19  # scores of a turn and head: 2 MB in float32


def grouped(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Return the rows in groups: a table int64 [G, 7] and the masks they need, float32, flat.

    A group's row is a segment's (the hull of its members' ranges) and the place of its mask
    [queries, own keys + context keys] in ``masks``, -inf where a query must not look and else 0, or
    -1 if every query of the group sees every key.
    """
    table: list[Row] = []
    masks = [np.zeros(0, np.float32)]
    place = 0
    for hull, members in _joined(rows):
        mask = _mask(hull, members)
        table.extend(_cut(hull, place if mask.any() else -1))
        if mask.any():
            masks.append(np.where(mask.reshape(-1), np.float32(-np.inf), np.float32(0)))
            place += mask.size
    groups = torch.tensor(table, dtype=torch.int64).view(-1, 7)
    return groups, torch.from_numpy(np.concatenate(masks))


def _joined(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield every group's hull and members; rows without queries are skipped."""
    hull: Row | None = None
    members: list[Row] = []
    for row in rows:
        if row[0] == row[1]:
            continue
        if hull is not None and _related(hull, row):
            together = _hull(hull, row)
            if _scores(together) - _scores(hull) - _scores(row) <= WASTE:
                hull = together
                members.append(row)
                continue
        if hull is not None:
            yield hull, members
        hull, members = row, [row]
    if hull is not None:
        yield hull, members


def _related(hull: Row, row: Row) -> bool:
    """Whether a row begins at the group's first own key or its first context key."""
    own = row[3] > row[2] and row[2] == hull[2]
    context = row[5] > row[4] and row[4] == hull[4]
    return own or context


def _hull(a: Row, b: Row) -> Row:
    """Return the row that covers both; an empty range of keys stretches nothing."""
    cover = [a[0], b[1]]
    for start, end in ((2, 3), (4, 5)):
        nonempty = [row for row in (a, b) if row[start] < row[end]] or [a]
        cover += [min(row[start] for row in nonempty), max(row[end] for row in nonempty)]
    return cover


def _scores(row: Row) -> int:
    return (row[1] - row[0]) * (row[3] - row[2] + row[5] - row[4])


def _mask(hull: Row, members: list[Row]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    own, context = np.arange(hull[2], hull[3]), np.arange(hull[4], hull[5])
    mask = np.zeros((hull[1] - hull[0], len(own) + len(context)), np.bool_)
    if len(members) == 1:
        return mask
    for q_start, q_end, own_start, own_end, ctx_start, ctx_end in members:
        outside_own = (own < own_start) | (own >= own_end)
        outside_context = (context < ctx_start) | (context >= ctx_end)
        outside = np.concatenate((outside_own, outside_context))
        mask[q_start - hull[0] : q_end - hull[0]] = outside
    return mask


def _cut(hull: Row, place: int) -> Iterator[Row]:
    """Yield the hull in pieces of queries, each with its place in the masks."""
    q_start, q_end, *keys = hull
    count = keys[1] - keys[0] + keys[3] - keys[2]
    step = max(1, MOST // count)
    for start in range(q_start, q_end, step):
        at = place + (start - q_start) * count if place >= 0 else -1
        yield [start, min(start + step, q_end), *keys, at]
