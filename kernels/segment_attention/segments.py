"""The table that says which keys a query attends to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .blocks import Tables, tables
from .groups import grouped

COLUMNS = ("q_start", "q_end", "own_start", "own_end", "ctx_start", "ctx_end")

Rows = np.ndarray[Any, np.dtype[np.int64]]


class Segments:
    """Which keys the queries attend to, as rows of ranges: checked once, used in every layer.

    A row (q_start, q_end, own_start, own_end, ctx_start, ctx_end) lets its queries attend to the
    own keys and the context keys of two half-open ranges, in one softmax. The queries' ranges
    follow each other and cover all queries. Key ranges of different rows may overlap; one of the
    two may be empty. A row may have no queries.

    Attributes:
        rows: int64 [S, 6], read-only.
        n_queries: how many queries the rows cover.
        n_own, n_context: how many keys there must be at least.
        groups, masks: int64 [G, 7] and float32 [...] on the CPU: the rows as the loop takes them,
            see :mod:`.groups`.
    """

    def __init__(self, table: Any, device: torch.device | str | None = None) -> None:
        """Check the rows and prepare what every layer needs.

        Args:
            table: integers [S, 6]: an array, a list of rows, or a tensor on the CPU.
            device: copy the kernels' tables there now, and not at their first use:
                under ``torch.compile`` and before a graph is captured it has to be now.

        Raises:
            ValueError: rows that are not six integers, ranges that end before they begin or begin
                below zero, queries in no row or in two, queries without keys.
        """
        self.rows = _rows(table)
        _check(self.rows)
        ends = self.rows[:, 1::2].max(axis=0, initial=0)
        self.n_queries, self.n_own, self.n_context = (int(n) for n in ends)
        self.groups, self.masks = grouped(self.rows.tolist())
        self._tables: dict[torch.device, Tables] = {}
        if device is not None:  # with its number, as tensors that are there have it
            self.tables(torch.empty(0, device=device).device)

    def tables(self, device: torch.device) -> Tables:
        """Return the kernels' tables on a device, made once for each."""
        if device not in self._tables:
            made = tables(self.rows.tolist())
            # Pageable memory has been read when such a call returns, and nothing waits.
            copies = (table.to(device, non_blocking=True) for table in made)
            self._tables[device] = Tables(*copies)
        return self._tables[device]

    def __repr__(self) -> str:
        """Return the counts, not the rows."""
        return f"Segments({len(self.rows)} rows, {self.n_queries} queries)"


def _rows(table: Any) -> Rows:
    if isinstance(table, Tensor):
        if table.device.type != "cpu":
            raise ValueError(f"the segments are on {table.device}; the host needs them, on the cpu")
        table = table.detach().numpy()
    array = np.asarray(table)
    if array.size == 0:
        array = np.zeros((0, 6), np.int64)
    if array.ndim != 2 or array.shape[1] != 6 or array.dtype.kind not in "iu":
        raise ValueError(
            f"segments have shape {array.shape} and dtype {array.dtype}, expected integers [S, 6]: "
            + ", ".join(COLUMNS)
        )
    rows = np.array(array, dtype=np.int64, order="C")
    rows.setflags(write=False)
    return rows


def _check(rows: Rows) -> None:
    starts, ends = rows[:, 0::2], rows[:, 1::2]
    _refuse(rows, (starts < 0).any(axis=1), "begins below zero")
    _refuse(rows, (ends < starts).any(axis=1), "ends before it begins")
    previous_ends = np.concatenate(([0], rows[:-1, 1])) if len(rows) else rows[:, 0]
    _refuse(rows, rows[:, 0] != previous_ends, "does not begin where the queries before it end")
    counts = ends - starts
    _refuse(rows, (counts[:, 0] > 0) & (counts[:, 1:].sum(axis=1) == 0), "has queries but no keys")


def _refuse(rows: Rows, wrong: Any, why: str) -> None:
    if np.any(wrong):
        at = int(np.argmax(wrong))
        row = ", ".join(f"{n} {v}" for n, v in zip(COLUMNS, rows[at].tolist(), strict=True))
        raise ValueError(f"segment {at} {why}: {row}")
