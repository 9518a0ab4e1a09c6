"""What is measured when: all tables with what is ready at once, then what takes long to get ready.

A peer that a compiler works on for half a minute must not keep every other figure from being
measured. So each table is measured with its quick peers first, within its share of the time, and
recorded; then what did not fit into its share is tried in what the others left. The peers that are
missing are added last, the quick and the most telling first, each in rounds of its own beside its
table's baseline, as long as the time suffices for getting it ready and measuring it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .runner import Budget, Job, Later, Table, TooLong

FIRST = 0.6  # of the time, for the tables; the rest is for the peers that are added
LEAST_SHARE = 0.1  # of what is left, for the tables whose turn comes when that part is over
NUMBERS = (signal.SIGINT, signal.SIGTERM)

Record = dict[str, Any]


def measure_all(
    jobs: Sequence[Job],
    record: Record,
    budget: Budget,
    seconds: float,
    *,
    failures: tuple[type[Exception], ...] = (),
    done: Callable[[], None] = lambda: None,
) -> None:
    """Measure every job's table into ``record["tables"]``, then add the peers that take longer.

    What cannot be measured is named in the record under "left_out" or "failed". An interrupt ends
    it in good order: "interrupted" is the signal's number, and what was measured stays.

    Args:
        jobs: the tables, the most telling first.
        record: gets "tables", and the rest where there is something to say.
        budget: what the jobs look at; granted to each in turn.
        seconds: how long all may take, infinity for as long as they need.
        failures: what a table may fail with without ending the others.
        done: is called whenever something was measured.
    """
    whole, first = Budget(), Budget()
    if seconds != float("inf"):
        whole.grant(seconds)
        first.grant(seconds * (FIRST if any(job.later for job in jobs) else 1.0))
    tables: dict[int, Table] = {}
    left_out: dict[int, str] = {}
    failed: dict[int, str] = {}

    def tell() -> None:
        record["tables"] = [tables[i] for i in sorted(tables)]
        for name, reasons in (("left_out", left_out), ("failed", failed)):
            record.pop(name, None)
            if reasons:
                lines = [f"{jobs[i].title}: {reason}" for i, reason in sorted(reasons.items())]
                record[name] = lines

    def attempt(number: int, share: float) -> None:
        if whole.limited:
            budget.grant(share, whole.left())
        left_out.pop(number, None)
        try:
            budget.check()
            tables[number] = jobs[number]()
        except TooLong as error:
            left_out[number] = first_line(error)
        except failures as error:
            failed[number] = first_line(error)
        tell()
        done()

    tell()
    try:
        for number, job in enumerate(jobs):
            part = job.weight / sum(job.weight for job in jobs[number:])
            attempt(number, part * max(first.left(), LEAST_SHARE * whole.left()))
        again = list(left_out)
        for place, number in enumerate(again):
            part = jobs[number].weight / sum(jobs[i].weight for i in again[place:])
            attempt(number, part * whole.left())
        later: list[tuple[Later, Table]] = []
        for number, table in sorted(tables.items()):
            add = jobs[number].later
            later += [(peer, table) for peer in (add() if add is not None else ())]
        for peer, table in sorted(later, key=lambda pair: pair[0].worth):
            if whole.limited:
                budget.grant(whole.left())
            _add(peer, table)
            done()
    except KeyboardInterrupt as stop:
        _ignore()  # a second signal, as "timeout" sends it, must not keep this from being saved
        record["interrupted"] = int(stop.args[0]) if stop.args else int(signal.SIGINT)
        for number in range(len(jobs)):
            if number not in tables and number not in failed:
                left_out.setdefault(number, "interrupted before it was over")
        tell()
        done()


def _add(peer: Later, table: Table) -> None:
    """Let a peer fill its row, or write into it why it does not."""
    try:
        reason = peer.refusal() or peer.add(table)
    except TooLong as error:
        reason = first_line(error)
    if reason is not None:
        rows = table["rows"]
        place = next(i for i, row in enumerate(rows) if row["name"] == peer.name)
        rows[place] = {"name": peer.name, "absent": reason}


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt with their number.

    Off the main thread, where Python allows no handlers, nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, stop) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)
