"""What each program of the kernels answers for: blocks of queries, blocks of keys.

Blocks begin where a row's range begins, never at a multiple of something in the whole batch: a
shape's sums are the same whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .groups import Row

BLOCK = 64  # queries, or keys, that one program answers for


class Tables(NamedTuple):
    """The kernels' tables, all int64.

    Attributes:
        queries: [P, 6], the segments' rows with the queries cut into blocks.
        own, context: [B, 4], blocks of keys (start, end) with the same readers, and which rows
            (first, last) of the readers' table those are.
        own_readers, context_readers: [R, 2], ranges of queries.
    """

    queries: Tensor
    own: Tensor
    own_readers: Tensor
    context: Tensor
    context_readers: Tensor


def tables(rows: Sequence[Row]) -> Tables:
    """Return the tables for the segments' rows, on the CPU."""
    rows = [row for row in rows if row[0] < row[1]]
    cut = [[start, end, *row[2:]] for row in rows for start, end in _cut(row[0], row[1])]
    return Tables(_tensor(cut, 6), *_readers(rows, 2), *_readers(rows, 4))


def _readers(rows: Sequence[Row], column: int) -> tuple[Tensor, Tensor]:
    """Return the blocks of keys and their readers for the ranges in a pair of columns.

    Between two neighboring ends of ranges all keys have the same readers.
    """
    ranges = [(row[column], row[column + 1], row[0], row[1]) for row in rows]
    ranges = [r for r in ranges if r[0] < r[1]]
    ends = sorted({end for start, stop, *_ in ranges for end in (start, stop)})
    readers_of: dict[int, list[Row]] = {end: [] for end in ends}
    place = {end: i for i, end in enumerate(ends)}
    for start, stop, q_start, q_end in ranges:
        for end in ends[place[start] : place[stop]]:
            _append(readers_of[end], q_start, q_end)
    blocks: list[Row] = []
    readers: list[Row] = []
    for start, stop in pairwise(ends):
        if readers_of[start]:
            first = len(readers)
            readers += readers_of[start]
            blocks += [[a, b, first, len(readers)] for a, b in _cut(start, stop)]
    return _tensor(blocks, 4), _tensor(readers, 2)


def _append(readers: list[Row], start: int, end: int) -> None:
    """Add a range of queries, which come in ascending order; neighbors are joined."""
    if readers and readers[-1][1] == start:
        readers[-1][1] = end
    else:
        readers.append([start, end])


def _cut(start: int, end: int) -> list[tuple[int, int]]:
    return [(a, min(a + BLOCK, end)) for a in range(start, end, BLOCK)]


def _tensor(table: Sequence[Row], columns: int) -> Tensor:
    return torch.tensor(table, dtype=torch.int64).view(-1, columns)
