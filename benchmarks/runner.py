"""Measuring fairly: interleaved rounds in one process, and what may be concluded from them.

A machine drifts (clocks, heat, neighbours), so that two peers measured one after the other mostly
measure the drift. Here every round measures every peer once, in a new random order, and peers are
compared within rounds: the paired ratio, with a bootstrap interval that says how far to trust it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Call = Callable[[], object]
Table = dict[str, Any]

RESAMPLES = 4000
SEED = 0  # of the order within rounds and of the bootstrap: a table can be computed again
SHORTEST = 0.02  # seconds; a shorter call is repeated, for the clock and the synchronization cost
ROUNDS_SHARE = 0.15  # of a table's time that no compiler may take
LEAST = 3  # rounds of a table whose time is short; with fewer it is left out


class TooLong(RuntimeError):
    """A table that the time for it does not suffice for."""


class Budget:
    """How long measuring may take: no limit until one is granted."""

    def __init__(self) -> None:
        """Begin without a limit."""
        self._end, self._granted = math.inf, math.inf

    def grant(self, seconds: float) -> None:
        """Let the time end so many seconds from now."""
        self._end, self._granted = time.perf_counter() + seconds, seconds

    def left(self) -> float:
        """Return the seconds that are left, infinity without a limit."""
        return self._end - time.perf_counter()

    def check(self) -> None:
        """Raise where no time is left, before more of it is spent on getting ready.

        Raises:
            TooLong: so it is.
        """
        if self.left() <= 0:
            raise TooLong("its time was over before all was ready")

    def refusal(self, seconds: float) -> str | None:
        """Return why preparing a peer for so long does not fit, None if it does.

        A part of the time is kept for the rounds.
        """
        if self._end == math.inf or seconds <= self.left() - ROUNDS_SHARE * self._granted:
            return None
        left = max(0.0, self.left())
        return f"compiling takes about {seconds:.0f} s, and {left:.0f} s are left for the table"


@dataclass(frozen=True)
class Job:
    """What measures one table.

    ``weight`` is its part of a suite's time, in units of the other tables'.
    """

    title: str
    measure: Callable[[], Table]
    weight: float = 1.0

    def __call__(self) -> Table:
        """Measure the table."""
        return self.measure()


@dataclass(frozen=True)
class Contender:
    """One peer of a comparison, ready to be called again and again.

    ``useful_bytes`` is what the operation has to move at least, whatever this peer moves: GB/s of
    peers are then comparable. ``facts`` are further columns (compile seconds, network calls).
    A ``yardstick`` does other work (a plain copy, say) and gets no ratio to the baseline. One that
    is ``warm`` has been called before, so that nothing is initialized or compiled any more.
    """

    name: str
    call: Call
    useful_bytes: int = 0
    facts: Mapping[str, float] | None = None
    yardstick: bool = False
    warm: bool = False


@dataclass(frozen=True)
class Absent:
    """A peer that cannot run here, with the reason; it keeps its row."""

    name: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """Seconds per call over the rounds."""

    median: float
    p20: float
    p80: float
    rounds: int


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the baseline: the median over rounds and its 95% interval."""

    median: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.low <= 1.0 <= self.high

    def __str__(self) -> str:
        if not self.decided:
            return "no difference"
        return f"{self.median:.3g}x [{self.low:.3g}, {self.high:.3g}]"


def measure(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    wait: Call = lambda: None,
    shortest: float = SHORTEST,
    budget: Budget | None = None,
) -> dict[str, Array]:
    """Return seconds per call, one value per round, of every contender.

    Each is called twice before the first round (lazy initialization), a warm one once. ``wait``
    blocks until the device is done. A call shorter than ``shortest`` is repeated and the mean
    taken; its data then lie in the cache as far as they fit. Where the budget ends first, there
    are fewer rounds, at least ``LEAST``.

    Raises:
        TooLong: the budget does not suffice for that.
    """
    budget = budget or Budget()
    repeats, round_seconds = [], 0.0
    for contender in contenders:
        if not contender.warm:
            contender.call()
        once = max(_timed(contender.call, 1, wait), 1e-9)
        repeats.append(max(1, math.ceil(shortest / once)))
        round_seconds += once * repeats[-1]
        if LEAST * round_seconds > budget.left():
            raise TooLong(
                f"{LEAST} rounds of at least {round_seconds:.2g} s do not fit into the "
                f"{max(0.0, budget.left()):.2g} s that are left for the table"
            )
    seconds = np.empty((len(contenders), rounds))
    order = np.random.default_rng(SEED)
    for turn in range(rounds):
        if turn >= LEAST and budget.left() < round_seconds:
            seconds = seconds[:, :turn]
            break
        for i in order.permutation(len(contenders)):
            seconds[i, turn] = _timed(contenders[i].call, repeats[i], wait)
    return {contender.name: seconds[i] for i, contender in enumerate(contenders)}


def summary(seconds: Array) -> Summary:
    """Return the median and the 20th and 80th percentile (linear between neighbours)."""
    p20, median, p80 = (float(q) for q in np.quantile(seconds, [0.2, 0.5, 0.8]))
    return Summary(median, p20, p80, len(seconds))


def paired_ratio(baseline: Array, other: Array) -> Ratio:
    """Return how many times as fast ``other`` is, from seconds of the same rounds.

    The interval is the percentile bootstrap's: rounds are drawn with replacement, as pairs, and
    the median of their ratios is taken each time.
    """
    if baseline.shape != other.shape:
        raise ValueError(f"{len(baseline)} rounds of the baseline for {len(other)} of the other")
    ratios = baseline / other
    draws = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def compare(
    title: str,
    peers: Sequence[Contender | Absent],
    rounds: int,
    *,
    wait: Call = lambda: None,
    notes: Sequence[str] = (),
    budget: Budget | None = None,
) -> Table:
    """Measure the peers and return one table as JSON values; the first present one is the baseline.

    Raises:
        TooLong: the budget does not suffice.
    """
    present = [peer for peer in peers if isinstance(peer, Contender)]
    seconds = measure(present, rounds, wait=wait, budget=budget)
    baseline = present[0].name
    return {
        "title": title,
        "baseline": baseline,
        "notes": list(notes),
        "rows": [_row(peer, baseline, seconds) for peer in peers],
    }


def unsteady(table: Mapping[str, Any], limit: float = 1.3) -> str | None:
    """Return why a table must not be published, or None.

    Where the baseline itself wanders by more than ``limit`` between its 20th and 80th percentile,
    the machine was doing something else.
    """
    row = next(row for row in table["rows"] if row["name"] == table["baseline"])
    spread = row["p80_ms"] / row["p20_ms"]
    if spread <= limit:
        return None
    return f"{table['title']}: p80/p20 of '{table['baseline']}' is {spread:.2f}, above {limit}"


def _row(peer: Contender | Absent, baseline: str, seconds: Mapping[str, Array]) -> dict[str, Any]:
    if isinstance(peer, Absent):
        return {"name": peer.name, "absent": peer.reason}
    times = summary(seconds[peer.name])
    row: dict[str, Any] = {
        "name": peer.name,
        "rounds": times.rounds,
        "median_ms": 1e3 * times.median,
        "p20_ms": 1e3 * times.p20,
        "p80_ms": 1e3 * times.p80,
        # Kept for --compare; five digits are more than any clock here resolves.
        "rounds_ms": [float(f"{1e3 * value:.5g}") for value in seconds[peer.name]],
    }
    if peer.name != baseline and not peer.yardstick:
        ratio = paired_ratio(seconds[baseline], seconds[peer.name])
        row["times_as_fast"] = asdict(ratio)
        row["verdict"] = str(ratio)
    if peer.useful_bytes:
        row["gb_per_s"] = peer.useful_bytes / times.median / 1e9
    return row | dict(peer.facts or {})


def _timed(call: Call, repeats: int, wait: Call) -> float:
    wait()
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - begun) / repeats
