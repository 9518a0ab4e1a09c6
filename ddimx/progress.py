"""Progress on stderr: a bar for a person at a terminal, now and then a line for a log.

Rich, which draws the bar, is imported when there is one to draw: that takes longer than many jobs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 30.0
PATIENCE = 1.0  # seconds that nobody minds waiting without a sign
PORTION = 64  # items of :meth:`Progress.counted` between two looks at the clock

T = TypeVar("T")
# By which people tell Rich that an output is a terminal although the system does not say so.
_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE")
# Bell, backspace, vertical tab, form feed and carriage return: names of files may hold them.
_UNPRINTED = dict.fromkeys((7, 8, 11, 12, 13))


class Progress:
    """One bar with count, speed, remaining time and a note.

    Args:
        quiet: show nothing at all.
        console: where to show it; None is stderr.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._total: int | None = 0
        self._done, self._what = 0, ""
        self._begun = self._last_line = 0.0
        self._first = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        """Begin counting ``total`` items, None if nobody knows how many there are.

        ``done`` of them are there already.
        """
        self.stop()
        self._what, self._total, self._done, self._first = what, total, done, done
        self._begun = self._last_line = time.monotonic()
        console = self._terminal()
        if console is not None:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, note="")
            self._bar.start()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more items; ``note`` stands beside the bar."""
        self._done += count
        now = time.monotonic()
        rate = (self._done - self._first) / max(now - self._begun, 1e-9)
        note = f"{rate:.2f} it/s  {note}".rstrip()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            if self._total is None:
                self.say(f"{self._what} {self._done}  {note}")
                return
            left = (self._total - self._done) / max(rate, 1e-9)
            self.say(f"{self._what} {self._done}/{self._total}  {note}  {left:.0f} s left")

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the time of what happens within out of the speed and the remaining time.

        The bar's own remaining time, which goes by the last half minute, learns it meanwhile.
        """
        begun = time.monotonic()
        try:
            yield
        finally:
            self._begun += time.monotonic() - begun

    def counted(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items, and count them as :meth:`start` does once that takes a while."""
        begun, shown = time.monotonic(), 0
        for number, item in enumerate(items, start=1):
            yield item
            if number % PORTION:
                continue
            if shown:
                self.advance(number - shown)
            elif time.monotonic() - begun >= PATIENCE:
                self.start(what, total, number)
            else:
                continue
            shown = number
        if shown:
            self.stop()

    def say(self, text: str) -> None:
        """Print one line of plain text above the bar."""
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        elif not self._quiet and sys.stderr is not None:
            sys.stderr.write(text.translate(_UNPRINTED).expandtabs() + "\n")
            sys.stderr.flush()

    def show(self, renderable: RenderableType) -> None:
        """Print a table, or what else Rich can draw, above the bar."""
        console = self._console
        if console is None:
            if self._quiet or sys.stderr is None:
                return
            from rich.console import Console

            console = Console(stderr=True)
        console.print(renderable)

    @property
    def lost(self) -> OSError | None:
        """Why messages can no longer be seen, if they cannot, where the output can tell."""
        file = sys.stderr if self._console is None else self._console.file
        error: OSError | None = getattr(file, "lost", None)
        return error

    def stop(self) -> None:
        """Take the bar down, leaving its last state on the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
        if sys.stderr is not None:  # as it is in a process without any output
            sys.stderr.flush()

    def _terminal(self) -> Console | None:
        """Return where a bar can be drawn, None where nobody would see one."""
        if self._console is None:
            is_terminal = sys.stderr is not None and sys.stderr.isatty()
            if self._quiet or not (is_terminal or any(name in os.environ for name in _TERMINAL)):
                return None
            from rich.console import Console

            self._console = Console(stderr=True)
        return self._console if self._console.is_terminal and not self._console.quiet else None
