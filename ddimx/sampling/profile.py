"""Where the time of a run went: its parts, the network's kinds of layers, and a trace of some rows.

    with ddimx.Profile() as profile:
        ddimx.sample("emoji", count=4)
    print(profile)

The seconds of parts are measured from the beginning to the end; then the host waits for the device
wherever the part changes. What happens within the network is recorded in a few rows only, because a
record of all would be as large as the run is long, and those rows' shares divide the network's
seconds. Making that record takes some seconds however short the run is: they stand apart, outside
of the sum and of all shares.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from ..files import write_bytes
from ..timing import Clock, current
from .kinds import FUSED, MARK, UPDATE, Split

TRACE = "profile.json.gz"  # chrome://tracing and ui.perfetto.dev read it
ROWS = 4  # recorded where all rows cost the same
SETTLED = 4  # rows before them, in which an engine looks, times, captures or compiles
MOST_ROWS = 32  # recorded where rows differ: the last ones of the first batch
NETWORK, NOISE, OWN, COMPILING = "network", "noise", "profiling", "compiling"
_DIGITS = 6


class Profile(Clock):
    """Measures what happens within ``with``, in this thread.

    Args:
        device: where the network runs; None: on the CPU or PyTorch's current accelerator.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.device = None if device is None else torch.device(device)
        self._split: Split | None = None
        self._trace: bytes | None = None
        self._rows: tuple[int, int, int] | None = None  # the batch, its first row and its last
        self._batch = 0
        self._compilations = 0  # before the recorded rows
        self._recording = False

    @staticmethod
    def current() -> Profile | None:
        """Return the profile that is being made now, if any."""
        clock = current()
        return clock if isinstance(clock, Profile) else None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within as this part, and name it in the trace."""
        with super().part(name):
            if self._recording:
                with record_function(MARK + name):
                    yield
                    self.wait()  # so that the span ends when the work does
            else:
                yield

    def wait(self) -> None:
        """Wait for the device, unless a graph is being captured, which would fail."""
        kind = self._kind()
        if kind == "cuda" and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(self.device)
        elif kind == "mps":
            torch.mps.synchronize()

    def traced(self, steps: Iterator[Any], rows: int, *, even: bool) -> Iterator[Any]:
        """Yield a batch's steps; record some, once, or anew after something was compiled.

        Args:
            steps: of :func:`ddimx.sampling.batch.run_batch`, one for each row.
            rows: how many there are.
            even: whether all rows cost the same.
        """
        self._batch += 1
        most = ROWS if even else MOST_ROWS
        first = max(min(SETTLED, rows - most), min(1, rows - 1)) if even else max(0, rows - most)
        recorder, begun, row = None, 0, -1
        try:
            for row in range(rows):
                if row >= first and recorder is None and not self._recording and self._outdated:
                    recorder, begun = self._start(), row
                step = next(steps, None)
                if recorder is not None and row - begun + 1 == min(most, rows - begun):
                    self._stop(recorder, begun, row)
                    recorder = None
                if step is None:
                    return
                yield step
            yield from steps
        finally:
            if recorder is not None:  # the run was stopped
                self._stop(recorder, begun, row)

    @property
    def _outdated(self) -> bool:
        """Whether nothing is recorded yet, or the network is another one since: compiled."""
        return self._rows is None or self._compilations != self.calls.get(COMPILING, 0)

    def _start(self) -> profile:
        self._compilations = self.calls.get(COMPILING, 0)
        with super().part(OWN):
            activities = [ProfilerActivity.CPU]
            if self._kind() == "cuda":
                activities.append(ProfilerActivity.CUDA)
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it logs begin and end on stderr
            recorder = profile(activities=activities)
            recorder.start()
        self._recording = True
        return recorder

    def _stop(self, recorder: profile, first: int, last: int) -> None:
        with super().part(OWN):
            self._recording = False
            recorder.stop()
            self._rows = (self._batch, first, last)
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch, "trace.json")
                recorder.export_chrome_trace(str(path))
                trace = json.loads(path.read_bytes())  # its writer does not say if a disk is full
            if self._kind() in ("cpu", "cuda"):  # of others only the host's time is recorded
                self._split = Split(trace["traceEvents"])
            self._trace = gzip.compress(_anonymous(trace), compresslevel=6, mtime=0)

    def _kind(self) -> str:
        if self.device is not None:
            return self.device.type
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def report(self) -> dict[str, Any]:
        """Return the measurement so far as JSON values.

        Returns:
            ``seconds``: of the whole, without ``profiling``: the seconds that the measurement took.
            ``parts``: by name, the largest first, ``seconds``, ``share`` of the whole and
            ``calls``; of the network, where it was recorded, also ``kinds``, by name ``seconds``,
            ``share`` of the whole and ``calls`` in every call of it. ``first_network_call``: its
            seconds. ``rows``: what was recorded: the ``batch``, counted from 1, and its ``first``
            and ``last`` row; None without any. ``fused``: the kernels that a compiler made, by
            name their share of the whole.
        """
        self._charge()
        seconds, split = dict(self.seconds), self._split
        calls, own = dict(self.calls), seconds.pop(OWN, 0.0)
        total = max(sum(seconds.values()), 1e-9)
        if split is not None and split.time.get(NOISE) and UPDATE in seconds:
            # On a CPU the update draws its noise by operations of its own, which the trace tells.
            drawn, other = (sum(split.time[name].values()) for name in (NOISE, UPDATE))
            moved = seconds[UPDATE] * drawn / max(drawn + other, 1e-9)
            seconds[UPDATE] -= moved
            seconds[NOISE] = seconds.get(NOISE, 0.0) + moved
        shares = {} if split is None else split.shares(NETWORK)
        if moved := shares.pop(UPDATE, 0.0) * seconds.get(NETWORK, 0.0):  # a graph has both in one
            seconds[NETWORK] -= moved
            seconds[UPDATE] = seconds.get(UPDATE, 0.0) + moved
        rest = max(sum(shares.values()), 1e-9)
        parts: dict[str, Any] = {}
        for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
            parts[name] = _row(spent, total) | {"calls": calls.get(name, 0)}
            if name == NETWORK and split is not None and shares:
                parts[name]["kinds"] = {
                    kind: _row(spent * share / rest, total)
                    | {"calls": round(split.count[name][kind] / split.calls[name], 2)}
                    for kind, share in shares.items()
                }
        fused = {} if split is None else split.fused
        network = sum(split.time[NETWORK].values()) if split is not None else 0.0
        each = seconds.get(NETWORK, 0.0) / max(network, 1e-9) / total
        return {
            "seconds": round(total, _DIGITS),
            "profiling": round(own, _DIGITS),
            "parts": parts,
            "first_network_call": round(self.first.get(NETWORK, 0.0), _DIGITS),
            "rows": None
            if self._rows is None
            else dict(zip(("batch", "first", "last"), self._rows, strict=True)),
            "fused": {name: round(time * each, _DIGITS) for name, time in fused.items()},
        }

    def write_trace(self, path: Path) -> bool:
        """Write the recorded rows as a gzipped Chrome trace; return whether there are new ones.

        There are none where no row was run, or where they have been written.
        """
        if self._trace is None:
            return False
        write_bytes(path, self._trace)
        self._trace = None
        return True

    def __str__(self) -> str:
        """Return the report as a table of text."""
        console = Console(file=io.StringIO(), width=100)
        with console.capture() as capture:
            console.print(profile_table(self.report()))
        return capture.get().rstrip()


def profile_table(report: dict[str, Any]) -> Table:
    """Return a report of :meth:`Profile.report` as a table for people."""
    table = Table(title=f"where {report['seconds']:.2f} s went", box=None, title_justify="left")
    table.add_column("part")
    for name in ("seconds", "share", "calls"):
        table.add_column(name, justify="right")

    def add(name: str, row: dict[str, Any]) -> None:
        table.add_row(name, f"{row['seconds']:.3f}", f"{row['share']:.1%}", f"{row['calls']:g}")

    for name, row in report["parts"].items():
        add(name, row)
        for kind, of_kind in row.get("kinds", {}).items():
            add(f"  {kind}", of_kind)
    if report[OWN]:
        table.add_row("besides, profiling", f"{report[OWN]:.3f}", "", "")
    return table


def remarks(report: dict[str, Any], trace: str | None) -> list[str]:
    """Return what must be said beside the table, one line each."""
    lines = []
    if NETWORK in report["parts"]:
        lines.append(f"the network's first call took {report['first_network_call']:.3f} s")
    if report["rows"] is not None:
        rows = "rows {first} to {last} of batch {batch}".format(**report["rows"])
        where = "" if trace is None else f"; they are in {trace} (open it in ui.perfetto.dev)"
        lines.append(f"kinds of layers as in {rows}{where}")
    if report["fused"]:
        names = sorted(report["fused"], key=lambda name: -report["fused"][name])
        lines.append(f"{FUSED}: {', '.join(names[:8])}" + (", ..." if len(names) > 8 else ""))
    return lines


def _row(seconds: float, total: float) -> dict[str, Any]:
    return {"seconds": round(seconds, _DIGITS), "share": round(seconds / total, _DIGITS)}


def _anonymous(trace: dict[str, Any]) -> bytes:
    """Return a trace as JSON without what names the machine or its folders: people share it."""
    header = {key: value for key, value in trace.items() if key not in ("host_name", "traceName")}
    events = []
    for event in trace["traceEvents"]:
        arguments = event.get("args", {})
        kept = {key: value for key, value in arguments.items() if not _is_path(value)}
        events.append(event if len(kept) == len(arguments) else event | {"args": kept})
    return json.dumps(header | {"traceEvents": events}, separators=(",", ":")).encode()


def _is_path(value: Any) -> bool:
    """Whether it is an absolute path, as compiled kernels name the file of their code."""
    return isinstance(value, str) and Path(value).is_absolute()
