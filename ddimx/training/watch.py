"""Signs of life of the processes that train together, and who of them is missing.

A process that is killed, stopped or stuck leaves the others waiting in a sum that never ends, in
code that no Python signal reaches. So every process has threads that write where it is into the
store that all share, read the same of the others, and after a time limit say who is missing and
end the process. That is the same for every back end, whose own time limits know no names.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Doing = Literal["preparing", "waiting", "training", "alone", "ended"]
PREPARING: Doing = "preparing"
WAITING: Doing = "waiting"  # while preparing, until another rank has come as far
TRAINING: Doing = "training"
ALONE: Doing = "alone"  # what rank 0 does while the others wait
ENDED: Doing = "ended"
MOST_SECONDS_BETWEEN = 5.0  # two signs of life
GRACE = 3.0  # seconds for the main thread to end by itself, before the thread ends the process


@dataclass(frozen=True)
class Sign:
    """A sign of life: the rank's host and process, what it does, its step, and a running number.

    ``moves`` counts what its main thread has done; ``number`` what its thread has written.
    ``awaits`` is the rank for whose words it waits; None if it waits for none, or for all.
    """

    host: str
    pid: int
    doing: Doing = "preparing"
    step: int = 0
    moves: int = 0
    number: int = 0
    awaits: int | None = None


class Watch:
    """What one rank knows of the others; ``verdict`` says who is missing, once somebody is."""

    def __init__(self, store: Any, rank: int, size: int, limit: float) -> None:
        """Give the first sign.

        Args:
            store: torch's Store, a connection that only this object uses.
            limit: seconds without a sign, or without a step, after which a rank is missing.
        """
        self._store, self.rank, self.size, self.limit = store, rank, size, limit
        self.own = Sign(socket.gethostname(), os.getpid())
        self.verdict: str | None = None
        self.missing: tuple[int, ...] = ()
        self.failure: dict[str, Any] | None = None  # what a rank said that ended with an error
        self._heard = threading.Event()  # the main thread knows, and ends the process
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._signs: list[Sign] = []
        self._answered = time.monotonic()
        self._threads = [
            threading.Thread(target=work, name="watch", daemon=True)
            for work in (self._exchange, self._run)
        ]
        self._write()

    def start(self) -> None:
        """Begin to watch; every rank has given its first sign."""
        self._signs = self._read()
        for thread in self._threads:
            thread.start()

    def at(self, doing: Doing, step: int | None = None, awaits: int | None = None) -> None:
        """Note what the main thread does now; nothing is sent here."""
        with self._lock:
            own = self.own
            step = own.step if step is None else step
            self.own = Sign(own.host, own.pid, doing, step, own.moves + 1, own.number, awaits)

    def hear(self) -> None:
        """Say that the main thread knows the verdict, or the failure, and ends the process."""
        self._heard.set()

    def close(self) -> None:
        """Stop watching; the others do not miss this rank from now on."""
        self._end.set()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout=GRACE)

    @property
    def between(self) -> float:
        """Seconds between two signs."""
        return min(MOST_SECONDS_BETWEEN, self.limit / 4)

    def name(self, rank: int) -> str:
        """Return a rank as a person finds it: "rank 3 of 8 (process 4711 on node2)"."""
        text = f"rank {rank} of {self.size}"
        if rank < len(self._signs):
            sign = self._signs[rank]
            text += f" (process {sign.pid} on {sign.host})"
        return text

    def explain(self) -> None:
        """Find out why a sum has failed: wait until somebody says so, or is seen to be missing.

        Sets ``failure`` or ``verdict``.
        """
        end = time.monotonic() + 3 * self.between + 1
        before = {rank: sign.number for rank, sign in enumerate(self._signs)}
        while self.verdict is None and self.failure is None and time.monotonic() < end:
            gone = [r for r, sign in enumerate(self._signs) if r != self.rank and _is_gone(sign)]
            if gone:
                self._judge(gone, "has ended without a word")
                return
            time.sleep(0.1)
        if self.verdict is not None or self.failure is not None:
            return
        silent = [
            rank
            for rank, sign in enumerate(self._signs)
            if rank != self.rank and sign.number == before.get(rank) and sign.doing != ENDED
        ]
        if silent:
            self._judge(
                silent, f"cannot be reached and has given no sign for {3 * self.between:.0f} s"
            )

    def _exchange(self) -> None:
        """Write and read signs. A store whose keeper is stopped never answers."""
        while not self._end.wait(self.between):
            try:
                self._write()
                self._signs = self._read()
                if self._store.check(["failed"]):
                    self.failure = json.loads(self._store.get("failed"))
            except RuntimeError as error:  # torch's store errors are such
                if not self._end.is_set():
                    self.without_store(str(error).partition("\n")[0])
                return
            self._answered = time.monotonic()

    def _run(self) -> None:
        seen: list[tuple[int, float]] = []  # of every rank: its last sign's number, and when
        moves, moved_at = -1, time.monotonic()
        last = moved_at
        alive = dict.fromkeys(range(self.size), last)  # when a process was not known to be gone
        while not self._end.wait(min(1.0, self.between)):
            now, signs = time.monotonic(), self._signs
            if now - last > 2 * self.between + 1 or not seen:  # this process itself was stopped
                seen, moved_at = [(sign.number, now) for sign in signs], now
                self._answered = now
            last = now
            seen = [
                (sign.number, now) if sign.number != number else (number, at)
                for sign, (number, at) in zip(signs, seen, strict=True)
            ]
            alive |= {r: now for r, sign in enumerate(signs) if not _is_gone(sign)}
            # What such a process has said at its end has come by then.
            gone = [r for r, at in alive.items() if now - at > 2 * self.between + 1]
            total = sum(sign.moves for sign in signs)
            if total != moves or any(sign.doing not in (TRAINING, WAITING) for sign in signs):
                moves, moved_at = total, now
            silent = [
                rank
                for rank, (_, at) in enumerate(seen)
                if now - at > self.limit and signs[rank].doing != ENDED and rank != self.rank
            ]
            unanswered = now - self._answered
            if self.verdict is not None:
                pass
            elif gone and self.failure is None:
                self._judge(gone, "has ended without a word")
            elif unanswered > self.limit:
                self.without_store(f"no answer for {self.limit:g} s")
            elif unanswered > 2 * self.between + 1:
                pass  # of nobody there is a sign, so that it says nothing of anybody
            elif silent:
                self._judge(silent, f"has given no sign for {self.limit:g} s")
            elif now - moved_at > self.limit and any(sign.awaits is not None for sign in signs):
                awaited = sorted({sign.awaits for sign in signs if sign.awaits is not None})
                what = "is awaited" if len(awaited) == 1 else "wait for each other"
                self._judge(awaited, f"{what}, and no process has gone on for {self.limit:g} s")
            elif now - moved_at > self.limit:
                least = min(sign.step for sign in signs)
                behind = [r for r, sign in enumerate(signs) if sign.step == least]
                what = "is behind the others" if len(behind) < self.size else "waits for the others"
                self._judge(behind, f"{what}, and nobody has done a step for {self.limit:g} s")
            if self.verdict is not None or self.failure is not None:
                self._leave()
                return

    def _judge(self, ranks: list[int], what: str) -> None:
        names = " and ".join(self.name(rank) for rank in ranks[:4])
        more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
        self.missing = tuple(ranks)
        self.verdict = f"{names}{more} {what}, at step {self.own.step}"

    def without_store(self, reason: str) -> None:
        """Note that the store does not answer, nor, it seems, the process that keeps it."""
        if self.verdict is None:
            self._judge([0], f"or the launcher, which keep what all share, is gone ({reason})")

    def _leave(self) -> None:
        """Give the main thread some time to end the process, and then end it.

        What rank 0 does alone comes to its end, and the main thread learns it at its next sum.
        """
        while not self._heard.wait(GRACE) and self.own.doing == ALONE:
            pass
        if self._heard.is_set() or self._end.is_set():
            return
        if self.failure is None and self.speaks:
            print(f"error: {self.verdict}{GO_ON}", file=sys.stderr, flush=True)
        else:
            time.sleep(GRACE)  # or the rank that speaks would miss this one as well
        os._exit(1)

    @property
    def speaks(self) -> bool:
        """Whether it is this rank that says who is missing: the lowest of those that are left."""
        return self.rank == min({*range(self.size)} - {*self.missing}, default=0)

    def _write(self) -> None:
        with self._lock:
            self.own = replace(self.own, number=self.own.number + 1)
            text = json.dumps(asdict(self.own))
        self._store.set(f"sign/{self.rank}", text)

    def _read(self) -> list[Sign]:
        texts = self._store.multi_get([f"sign/{rank}" for rank in range(self.size)])
        return [Sign(**json.loads(text)) for text in texts]


GO_ON = "; the same command goes on from the last checkpoint"


def _is_gone(sign: Sign) -> bool:
    """Return whether a process of this machine has ended; of others nobody here knows."""
    if sign.host != socket.gethostname():
        return False
    try:
        os.kill(sign.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:  # one that its parent has not noticed yet
        with open(f"/proc/{sign.pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
