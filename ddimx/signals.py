"""Stopping politely: the first Ctrl-C, SIGTERM or SIGHUP asks, the second Ctrl-C insists."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none


def begin_worker() -> None:
    """Begin a process that works for another one: the first decides when to stop.

    What a terminal sends to all its processes, Ctrl-C and its own end, is left to the parent; if
    that is killed, nobody wants more work, and this process ends.
    """
    for number in (signal.SIGINT, HANGUP):
        if number is not None:
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import parent_process  # here: only workers need it

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Interrupted(SystemExit):
    """Ctrl-C where nothing needs finishing: the process ends with exit code 130.

    A SystemExit, because command line libraries turn KeyboardInterrupt into an exit code of 1.
    """

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)


def exit_on_interrupt() -> None:
    """Make Ctrl-C raise :class:`Interrupted` from now on; ``finally`` blocks still run."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    signal.signal(signal.SIGINT, leave)


class Stop:
    """Whether somebody asked the process to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.answer: Callable[[], None] | None = None

    @contextmanager
    def answering(self, answer: Callable[[], None]) -> Iterator[None]:
        """Call ``answer`` at once if a signal asks meanwhile, where nobody looks for long."""
        self.answer = answer
        try:
            yield
        finally:
            self.answer = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal if self.signal is not None else 0


@contextmanager
def polite_stop() -> Iterator[Stop]:
    """Yield a :class:`Stop` that the first signal sets; restore the handlers at the end.

    SIGINT, SIGTERM, and SIGHUP, which comes when a terminal is closed, unless it is ignored already
    as under ``nohup``. A second SIGINT raises :class:`Interrupted` where the program stands. Off
    the main thread, where Python allows no handlers, nothing is installed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop and number == signal.SIGINT:
            raise Interrupted
        first = not stop
        stop.signal = number
        if first and stop.answer is not None:
            with suppress(RuntimeError):  # the output was just being written to
                stop.answer()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
        numbers.append(HANGUP)
    previous = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
