"""Work in other processes, which end with this one and can be ended.

A library that reads foreign files may need hours or all memory for one of them, or crash. Here each
piece of work runs in another process. It may have an allowance of memory and of CPU time (not of
wall time, which also depends on what else the machine does). One that exceeds it, or crashes, is
one failed piece of work. Processes are used again, since starting Python costs more than most work;
:func:`end_idle` ends those that wait for more.

The limits are the system's own (``setrlimit`` for memory, a timer that counts CPU time), so that
they hold within C code too. Where a system has none (Windows; for memory also macOS) the work is
done without them.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import DdimxError
from ..signals import begin_worker

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Allowance:
    """What one piece of work may take.

    Attributes:
        memory: bytes of address space, beyond those of a process that has only begun.
        cpu: seconds of CPU time.
    """

    memory: int
    cpu: float


class Exceeded(DdimxError):
    """A piece of work took more than its allowance, or ended its process; the message says which.

    It does not name the file, which this module does not know.

    Attributes:
        limit: whether a larger allowance could help.
    """

    def __init__(self, message: str, *, limit: bool = False) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """One piece of work with what came of it.

    Attributes:
        result: what the function returned, None if it was ended.
        error: why it was ended, None if it was not.
    """

    item: Item
    result: Result | None = None
    error: Exceeded | None = None


def run_all(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    allowance: Callable[[Item], Allowance] | None = None,
    processes: int,
    warm_up: Callable[[], object] | None = None,
) -> Generator[Done[Item, Result]]:
    """Yield what comes of each item, as it comes, from up to ``processes`` processes.

    Args:
        function: a module's function, or a ``functools.partial`` of one.
        items: read one by one, when a process is free: whoever wants no more work ends them.
        allowance: what the work on an item may take; None sets no limits.
        warm_up: what a process does before its first piece of work, outside any allowance:
            importing libraries.

    Raises:
        DdimxError: a process was killed from outside, probably for want of memory.
        What ``function`` raises besides MemoryError.
    """
    coming = iter(items)
    busy: dict[_Process, Item] = {}
    try:
        while True:
            while len(busy) < processes:
                try:
                    item = next(coming)
                except StopIteration:
                    break
                process = _taken()
                busy[process] = item
                process.begin(function, item, allowance and allowance(item), warm_up)
            if not busy:
                return
            ready = wait([process.pipe for process in busy])
            for process in [process for process in busy if process.pipe in ready]:
                done = process.outcome(busy[process])
                del busy[process]
                if process.usable:
                    _IDLE.append(process)
                yield done
    finally:
        for process in busy:
            process.end()  # nobody waits for what an interrupted run has in its hands


def end_idle() -> None:
    """End the processes that wait for work. The next :func:`run_all` starts others."""
    while _IDLE:
        process = _IDLE.pop()
        if process.owner == os.getpid():
            process.end()


class _Process:
    """One process with the parent's end of its pipe; ``usable`` says whether it takes more work."""

    def __init__(self) -> None:
        # Spawned, for a fork of a process with threads may hang. Daemonic, so that it ends when
        # this process ends in order; if not, it sees to that itself.
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self.owner = os.getpid()
        self.usable = True
        self._allowance: Allowance | None = None

    @property
    def alive(self) -> bool:
        """Whether it can be given work by this very process, not by a fork of it."""
        return self.owner == os.getpid() and self._process.is_alive()

    def begin(
        self,
        function: Callable[[Any], Any],
        item: Any,
        allowance: Allowance | None,
        warm_up: Callable[[], object] | None,
    ) -> None:
        """Hand over a piece of work."""
        self._allowance = allowance
        with suppress(BrokenPipeError):  # it died while idle: outcome() tells
            self.pipe.send((os.getcwd(), function, item, allowance, warm_up))

    def outcome(self, item: Any) -> Done[Any, Any]:
        """Return what came of the work, or raise it."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.usable = False
            return Done(item, error=self._reason())
        if kind == "memory":
            self.end()
            if self._allowance is None:
                return Done(item, error=Exceeded("needs more memory than there is"))
            more = f"{self._allowance.memory / 1e9:.1f} GB of memory"
            return Done(item, error=Exceeded(f"needs more than {more}", limit=True))
        if kind == "error":
            raise value
        return Done(item, value)

    def _reason(self) -> Exceeded:
        """Return why the process ended before its work did."""
        self._process.join()
        number = -(self._process.exitcode or 0)
        if self._allowance is not None and number == getattr(signal, "SIGPROF", None):
            more = f"{self._allowance.cpu:.1f} seconds of computing"
            return Exceeded(f"takes more than {more}", limit=True)
        if number == getattr(signal, "SIGKILL", None):
            raise DdimxError(
                "a process died, probably for want of memory; the same command with fewer "
                "--workers goes on where this one stopped"
            )
        name = signal.Signals(number).name if number in set(signal.Signals) else f"exit {-number}"
        return Exceeded(f"makes the process that reads it crash ({name})")

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.usable = False
        self._process.terminate()
        self._process.join()
        self.pipe.close()


_IDLE: list[_Process] = []


def _taken() -> _Process:
    """Return a process that waits for work, or a new one."""
    while _IDLE:
        process = _IDLE.pop()
        if process.alive:
            return process
    return _Process()


# --- What follows runs in the other process. ------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Do what comes through the pipe until it closes."""
    begin_worker()
    # There is a process for each core already; and each thread would take address space.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    warm: set[Any] = set()
    while True:
        try:
            folder, function, item, allowance, warm_up = pipe.recv()
        except (EOFError, OSError):
            return
        if warm_up is not None and warm_up not in warm:
            warm_up()
            warm.add(warm_up)
        answer: tuple[str, Any]
        try:
            os.chdir(folder)  # relative paths mean what they mean there, which may have changed
            _limit(allowance)
            answer = "result", function(item)
        except Exception as error:  # noqa: BLE001 - raised again in the process that asked
            _limit(None)
            full = any(isinstance(one, MemoryError) for one in _chain(error))
            answer = ("memory", None) if full else ("error", _portable(error))
        _limit(None)
        pipe.send(answer)


def _limit(allowance: Allowance | None) -> None:
    """Set the system's limits for the work to come, or lift them."""
    if sys.platform == "win32":
        return
    import resource

    # When it runs out, SIGPROF ends the process. RLIMIT_CPU counts from the process's start and by
    # another clock than getrusage: after minutes they were seconds apart.
    signal.setitimer(signal.ITIMER_PROF, 0 if allowance is None else allowance.cpu)
    memory = resource.RLIM_INFINITY
    if allowance is not None:
        with suppress(OSError):  # not Linux
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            memory = pages * resource.getpagesize() + allowance.memory
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    within = hard == resource.RLIM_INFINITY or 0 <= memory <= hard
    with suppress(ValueError, OSError):  # a system that knows the limit and does not set it
        resource.setrlimit(resource.RLIMIT_AS, (memory if within else hard, hard))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised in place of: a zip that is closed for want of memory
    complains of something else."""
    while error is not None:
        yield error
        error = error.__context__


def _portable(error: Exception) -> Exception:
    """Return an error that survives the way to the other process, the same where it does."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError, ImportError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
