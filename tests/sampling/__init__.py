"""What the tests of sampling share: the command line run inside the test's own process."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ddimx.cli.app import run


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code and what it printed."""

    code: int
    out: str
    err: str


def invoke(*args: object) -> Done:
    """Run ``ddimx ARGS`` as the program does, errors and signal handlers included.

    Without a process of its own, for torch takes seconds to import. What reaches stderr's file
    descriptor past Python is not seen.
    """
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["ddimx", *map(str, args)]),
    ):
        try:
            run()
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    assert isinstance(code, int), f"exit code {code!r}"
    return Done(code, out.getvalue(), err.getvalue())


def names_in(folder: Path) -> list[str]:
    """The names of what a folder holds."""
    return sorted(path.name for path in folder.iterdir())
