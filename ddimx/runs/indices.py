"""The indices of samples that are there, of a run that may have millions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Set
from typing import Any

import numpy as np


class Indices(Set[int]):
    """A set of numbers that mostly follow each other, kept as ranges.

    Of a million files in a row it keeps two numbers, where a set of Python's takes 69 MB.
    """

    def __init__(self, numbers: Iterable[int] = (), ranges: Iterable[range] = ()) -> None:
        """Take numbers in any order, and ranges of them; what is there twice counts once."""
        own = np.unique(np.fromiter(numbers, dtype=np.int64))
        cuts = np.flatnonzero(np.diff(own) != 1) + 1
        blocks = [range(int(b[0]), int(b[-1]) + 1) for b in np.split(own, cuts) if len(b)]
        self._starts: list[int] = []
        self._stops: list[int] = []
        for block in sorted((*blocks, *(r for r in ranges if len(r))), key=lambda r: r.start):
            if self._stops and block.start <= self._stops[-1]:
                self._stops[-1] = max(self._stops[-1], block.stop)
            else:
                self._starts.append(block.start)
                self._stops.append(block.stop)

    def __contains__(self, number: Any) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and bool(number < self._stops[place])

    def __iter__(self) -> Iterator[int]:
        for start, stop in zip(self._starts, self._stops, strict=True):
            yield from range(start, stop)

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    def __repr__(self) -> str:
        blocks = zip(self._starts, self._stops, strict=True)
        return f"Indices({[range(start, stop) for start, stop in blocks]})"
