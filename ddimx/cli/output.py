"""Results on stdout, the folder that they are written to, and outputs that outlive their reader."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from ..errors import UsageError


def print_json(value: Any) -> None:
    """Print one JSON document, and nothing else, to stdout.

    Bytes of a file's name that are no UTF-8 are printed with JSON's escapes.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    print(text.encode("utf-8", "backslashreplace").decode())


def show(facts: dict[str, Any], json_output: bool) -> None:
    """Print facts as JSON, or under their titles."""
    if json_output:
        print_json(facts)
        return
    for title, values in facts.items():
        print(title)
        for line in _lines(values):
            print(f"  {line}")


def _lines(values: Any, indent: str = "") -> list[str]:
    if isinstance(values, list):
        return [f"{indent}{value}" for value in values] or [f"{indent}(none)"]
    if not isinstance(values, dict):
        return [f"{indent}{values}"]
    if not values:
        return [f"{indent}(none)"]
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) or '(none)'}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


def fresh_folder(verb: str, model: str) -> Path:
    """Create and return a numbered run folder that is named after a model."""
    from ..runs.folder import fresh_run
    from ..weights.locate.source import SUFFIX

    return fresh_run(verb, Path(model).name.removesuffix(SUFFIX))


def refuse_existing(out: Path | None, overwrite: bool) -> None:
    """Raise UsageError for a file that is there and may not be written over.

    What a killed process left of it is removed: what was unfinished, and its lock.
    """
    from ..files import sweep
    from ..runs.lock import lock_file

    if out is not None:
        sweep(out.parent, out.name)
    if out is not None and out.exists() and not overwrite:
        with suppress(OSError), lock_file(out):
            pass
        raise UsageError(f"{out} exists; choose another file or --overwrite")


def output_folder(out: Path | None, overwrite: bool, names: tuple[str, ...]) -> Path | None:
    """Return the folder to write to, or None for a fresh run's.

    Raises:
        UsageError: it is a file, or holds one of ``names`` and may not be written over.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file")
    if out is not None and not overwrite and any((out / name).exists() for name in names):
        raise UsageError(f"{out} holds results already; choose another --out or --overwrite")
    return out


class SteadyStream:
    """A text stream whose reader may go away: what cannot be written is dropped, once and for all.

    A closed pipe, a terminal that is gone or a full disk must not end a long work whose results go
    elsewhere. ``lost`` is the first error.
    """

    def __init__(self, stream: TextIO) -> None:
        """Stand before ``stream``."""
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, or drop it; returns its length."""
        if self.lost is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write out what the stream holds back, or drop it."""
        if self.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        """Point the stream elsewhere: it still holds a text, which Python would try again to write.

        What C libraries and child processes write there must not end them either.
        """
        self.lost = error
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def steady_output() -> None:
    """Make both outputs :class:`SteadyStream`, and have them and the input open.

    A process that is started with a closed output would get that output's number for the next file
    that it opens, and whatever a library prints would end in that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
        # A file's name may hold bytes that are no UTF-8; nothing ends for want of a way to show it.
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, SteadyStream):
            setattr(sys, name, SteadyStream(stream))
