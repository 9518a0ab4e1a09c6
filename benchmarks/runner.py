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
ROUNDS_SHARE = 0.15  # of a table's time in which nothing more is made ready
LENT = 1.0  # of a table's time: a loan, what its fewest rounds may last if the suite has it
LEAST = 3  # rounds of a table whose time is short; a peer that does not fit into them is left out


class TooLong(RuntimeError):
    """A table that the time for it does not suffice for."""


class Budget:
    """How long measuring may take: no limit until one is granted."""

    def __init__(self) -> None:
        """Begin without a limit."""
        self._end, self._granted, self._last = math.inf, math.inf, math.inf

    @property
    def limited(self) -> bool:
        """Whether the time ends at all."""
        return self._end != math.inf

    def grant(self, seconds: float, whole: float | None = None) -> None:
        """Let the time end so many seconds from now.

        Args:
            seconds: of the table.
            whole: what the suite has left, which the table may borrow from; by default no more.
        """
        now = time.perf_counter()
        self._end, self._granted = now + seconds, seconds
        self._last = now + (seconds if whole is None else max(seconds, whole))

    def left(self) -> float:
        """Return the seconds that are left, infinity without a limit."""
        return self._end - time.perf_counter()

    def for_rounds(self, loans: int = 1) -> float:
        """Return how long the fewest rounds may last, with so many loans of the suite's time."""
        if not self.limited:
            return math.inf
        loan = loans * LENT * self._granted
        return min(self._last - time.perf_counter(), max(self.left(), loan))

    def check(self) -> None:
        """Raise where no time is left, before more of it is spent on getting ready.

        Raises:
            TooLong: so it is.
        """
        if self._last <= time.perf_counter():
            raise TooLong("its time was over before all was ready")

    def late(self) -> bool:
        """Return whether the time for getting ready is over: what is left is for the rounds."""
        return self.limited and self.left() <= ROUNDS_SHARE * self._granted

    def refusal(self, seconds: float, rounds: float = 0.0) -> str | None:
        """Return why preparing a peer for so long does not fit, None if it does.

        A part of the time is kept for the rounds, at least ``rounds`` seconds.
        """
        kept = max(ROUNDS_SHARE * self._granted, rounds)
        if not self.limited or seconds <= self.left() - kept:
            return None
        left = max(0.0, self.left())
        return f"compiling takes about {seconds:.0f} s, and {left:.0f} s are left for the table"


@dataclass(frozen=True)
class Later:
    """A peer that takes long to get ready, and is added to its table when every table is measured.

    Attributes:
        name: of its row.
        refusal: returns why it does not fit into the time that is left, None if it does.
        add: gets it ready, measures it beside the table's baseline and fills its row; returns why
            it cannot run here, None if it can.
        worth: the smaller, the sooner its turn is.
    """

    name: str
    refusal: Callable[[], str | None]
    add: Callable[[Table], str | None]
    worth: int = 0


@dataclass(frozen=True)
class Job:
    """What measures one table.

    ``weight`` is its part of a suite's time, in units of the other tables'. ``later`` returns the
    peers that may be added, after the table was measured; None: never any.
    """

    title: str
    measure: Callable[[], Table]
    weight: float = 1.0
    later: Callable[[], Sequence[Later]] | None = None

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
    are fewer rounds, at least ``LEAST``, and a contender with which not even these fit is missing
    from the result; those in front come first, but for the yardsticks, which follow the baseline.

    Raises:
        TooLong: the budget does not suffice for the baseline and the yardsticks.
    """
    budget = budget or Budget()
    takes: dict[str, tuple[Call, int]] = {}  # who takes part, and how often a round calls it
    round_seconds = 0.0
    ordered = [*contenders[:1], *sorted(contenders[1:], key=lambda c: not c.yardstick)]
    for i, contender in enumerate(ordered):
        needed = i == 0 or contender.yardstick
        # A table without a ratio says little, so that the first to be compared may borrow more.
        loans = 1 if needed or any(not c.yardstick and c.name in takes for c in ordered[1:]) else 2
        if not needed and LEAST * round_seconds > budget.for_rounds(loans):
            continue
        if not contender.warm:
            contender.call()
        once = max(_timed(contender.call, 1, wait), 1e-9)
        repeats = max(1, math.ceil(shortest / once))
        longer = round_seconds + once * repeats
        if LEAST * longer <= budget.for_rounds(loans):
            takes[contender.name], round_seconds = (contender.call, repeats), longer
        elif needed:
            raise TooLong(
                f"{LEAST} rounds of at least {longer:.2g} s do not fit into the "
                f"{max(0.0, budget.for_rounds()):.2g} s that are left for the table"
            )
    names = [contender.name for contender in contenders if contender.name in takes]
    seconds = np.empty((len(names), rounds))
    order = np.random.default_rng(SEED)
    for turn in range(rounds):
        if turn >= LEAST and budget.left() < round_seconds:
            seconds = seconds[:, :turn]
            break
        for i in order.permutation(len(names)):
            call, repeats = takes[names[i]]
            seconds[i, turn] = _timed(call, repeats, wait)
    return {name: seconds[i] for i, name in enumerate(names)}


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
    peers = [
        peer
        if isinstance(peer, Absent) or peer.name in seconds
        else Absent(peer.name, f"{LEAST} rounds with it do not fit into the table's time")
        for peer in peers
    ]
    return {
        "title": title,
        "baseline": baseline,
        "notes": list(notes),
        "rows": [_row(peer, baseline, seconds) for peer in peers],
    }


def table_of(title: str, seconds: Mapping[str, Array], baseline: str) -> Table:
    """Return the table of peers that were measured elsewhere, in rounds that took turns.

    Args:
        seconds: of each peer by its name, float64 [rounds].
        baseline: the name of the one that the others are compared with.
    """
    peers = [Contender(name, lambda: None) for name in seconds]
    rows = [_row(peer, baseline, seconds) for peer in peers]
    return {"title": title, "baseline": baseline, "notes": [], "rows": rows}


def add_peer(
    table: Table,
    baseline: Contender,
    peer: Contender,
    rounds: int,
    *,
    wait: Call = lambda: None,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """Measure one more peer beside a table's baseline, and return its row, which is put in place.

    The rounds are new ones of the two, so that the ratio is of pairs as everywhere. The row keeps
    the baseline's milliseconds in them as ``baseline_rounds_ms``.

    Raises:
        TooLong: the budget does not suffice.
    """
    seconds = measure([baseline, peer], rounds, wait=wait, budget=budget)
    if peer.name not in seconds:
        raise TooLong(f"{LEAST} rounds with it do not fit into the time that is left")
    row = _row(peer, baseline.name, seconds)
    row["baseline_rounds_ms"] = _milliseconds(seconds[baseline.name])
    names = [old["name"] for old in table["rows"]]
    table["rows"][names.index(peer.name)] = row
    return row


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
        "rounds_ms": _milliseconds(seconds[peer.name]),
    }
    if peer.name != baseline and not peer.yardstick:
        ratio = paired_ratio(seconds[baseline], seconds[peer.name])
        row["times_as_fast"] = asdict(ratio)
        row["verdict"] = str(ratio)
    if peer.useful_bytes:
        row["gb_per_s"] = peer.useful_bytes / times.median / 1e9
    return row | dict(peer.facts or {})


def _milliseconds(seconds: Array) -> list[float]:
    """Return what --compare needs; five digits are more than any clock here resolves."""
    return [float(f"{1e3 * value:.5g}") for value in seconds]


def _timed(call: Call, repeats: int, wait: Call) -> float:
    wait()
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - begun) / repeats
