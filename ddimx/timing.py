"""Where the time of a run goes: its parts, by the wall clock.

Code says which part of a run it is with ``with timed("update"):``. That does nothing until somebody
measures: then a :class:`Clock` adds the seconds up. It needs no torch, so that any module may name
its part; :mod:`ddimx.sampling.profile` measures runs with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

OTHER = "other"  # what no part covers
_clock: ContextVar[Clock | None] = ContextVar("ddimx clock", default=None)
_NOTHING: AbstractContextManager[Any] = nullcontext()


class Clock:
    """Adds up the seconds of every part, from ``with clock:`` to its end.

    :func:`timed` finds it within that. Without it, only what :meth:`part` is told counts.

    Of a part within another only the inner one counts, so that the seconds of all parts together
    are those of the whole. ``calls`` are how often each part was entered, ``first`` the seconds of
    its first time, which are more where something is compiled or looked up then.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {OTHER: 0.0}
        self.calls: dict[str, int] = {OTHER: 1}
        self.first: dict[str, float] = {}
        self._parts = [OTHER]
        self._last = time.perf_counter()
        self._token: Token[Clock | None] | None = None

    def __enter__(self) -> Self:
        self._last = time.perf_counter()
        self._token = _clock.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._charge()
        if self._token is not None:
            _clock.reset(self._token)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within as this part."""
        self._charge()
        self._parts.append(name)
        self.seconds.setdefault(name, 0.0)
        before = self.seconds[name]
        try:
            yield
        finally:
            self._charge()
            self._parts.pop()
            self.calls[name] = self.calls.get(name, 0) + 1
            self.first.setdefault(name, self.seconds[name] - before)

    def wait(self) -> None:
        """Wait for what was started elsewhere, so that it counts for the part that started it."""

    def _charge(self) -> None:
        """Add the time since the last change to the part that is running."""
        self.wait()
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._last
        self._last = now


def timed(name: str) -> AbstractContextManager[Any]:
    """Say that what happens within is this part of a run; it costs nothing unless one measures."""
    clock = _clock.get()
    return _NOTHING if clock is None else clock.part(name)


def current() -> Clock | None:
    """Return the clock that measures now, if any.

    All code that the ``with`` block calls gets it; other threads do not.
    """
    return _clock.get()
