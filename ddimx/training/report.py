"""What a person sees of a training run: a progress line, TensorBoard curves, one log in text."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..files import append_line
from ..progress import Progress
from ..untrusted.names import inside
from .curves import DISTANCES, draw_curves
from .measure import Distance
from .state import TrainState

VALIDATION = "validation_"
Value: TypeAlias = float | list[float | None]


class Reporter(Protocol):
    """Receives what happens in a training run; nothing that it does may end the training."""

    def start(self, state: TrainState, total: int) -> None:
        """Training begins at ``state.step`` of ``total``."""
        ...

    def step(self, state: TrainState, losses: list[float], norm: float, waited: float) -> None:
        """Steps are done up to ``state.step``, with these losses; ``norm`` is the last one's.

        ``waited`` is the time spent waiting for data so far, in seconds.
        """
        ...

    def validation(self, state: TrainState, losses: dict[str, float]) -> None:
        """The averaged weights were measured."""
        ...

    def distance(self, state: TrainState, distance: Distance, value: float) -> None:
        """Samples of the averaged weights were compared with the training images."""
        ...

    def measured(self, step: int) -> bool:
        """Return whether that has been done already at a step."""
        ...

    def curves(self, state: TrainState) -> None:
        """All that belongs to a checkpoint has been measured: the curves can be drawn."""
        ...

    def validated(self, step: int) -> bool:
        """Return whether the averaged weights of a step have been measured already."""
        ...

    def saved(self, state: TrainState) -> None:
        """A checkpoint is on disk."""
        ...

    def problem(self, state: TrainState, what: str, error: OSError) -> None:
        """Something other than a checkpoint cannot be written; training goes on."""
        ...


class FolderReporter:
    """Progress on stderr, curves in ``<folder>/tensorboard``, lines in ``<folder>/log.jsonl``."""

    EVERY = 50  # steps between two lines of the log
    WARM, MEASURED = 5, 25  # steps from which, and after which, it is told how long a run will take
    RECENT = 100  # steps whose mean the screen shows

    def __init__(
        self, folder: Path, progress: Progress, batch_size: int, examples: str = "images"
    ) -> None:
        """Report on the run in ``folder``; TensorBoard is used if it is installed.

        Args:
            examples: what the process's examples are called, in the plural.

        Raises:
            DdimxError: the log, which is appended to, is a symbolic link to another place.
        """
        self._folder, self._progress = folder, progress
        self._batch_size, self._examples = batch_size, examples
        self._log = inside(folder, "log.jsonl", folder)
        self._writer: Any = None
        self._recent: deque[float] = deque(maxlen=self.RECENT)
        self._since = (time.perf_counter(), 0, 0.0)
        self._begun, self._pace = self._since[0], ""
        self._times: deque[tuple[float, int]] = deque(maxlen=self.RECENT)
        self._warm: tuple[float, int] | None = None  # when, and at which step
        self._is_forecast = False  # whether it has been told how long the run will take
        self._first, self._total = 0, 0
        self._validated: set[int] = set()
        self._measured: set[int] = set()
        self._said: set[str] = set()

    def start(self, state: TrainState, total: int) -> None:
        """Open the progress bar at the state's step of ``total``.

        The log goes on where the state stands: lines of later steps, which will be done again, are
        removed, and so is the beginning of a line; a line that a kill swallowed is written.
        """
        self._progress.start("training", total, state.step)
        self._begun = time.perf_counter()
        self._first, self._total = state.step, total
        self._times.append((self._begun, state.step))
        self._since = (self._begun, state.step, 0.0)
        try:
            lines = _lines_until(self._log, state.step)
        except OSError as error:
            lines = []
            self.problem(state, str(self._log), error)
        self._validated = {
            line["step"] for line in lines if any(key.startswith(VALIDATION) for key in line)
        }
        self._measured = {line["step"] for line in lines if any(key in line for key in DISTANCES)}
        logged_steps = {line["step"] for line in lines if "loss" in line}
        try:
            self._writer = _summary_writer(self._folder / "tensorboard", state.step)
        except OSError as error:
            self.problem(state, str(self._folder / "tensorboard"), error)
        if state.losses and state.step % self.EVERY == 0:
            if state.step not in logged_steps:
                self._write(state, _values(state))
            state.clear()

    def step(self, state: TrainState, losses: list[float], norm: float, waited: float) -> None:
        """Note some steps; every ``EVERY`` steps write the mean since the last line.

        The line on the screen shows the speed of the last steps and the share of the run's time
        spent waiting for data, the log both since its last line.
        """
        self._recent.extend(losses)
        now = time.perf_counter()
        done = state.step - self._first
        if self._warm is None and done >= self.WARM:
            self._warm = now, state.step
        elif self._warm is not None and not self._is_forecast and done >= self.MEASURED:
            self._is_forecast = True
            pace = (now - self._warm[0]) / (state.step - self._warm[1])
            left = self._total - state.step
            if left > self.EVERY:
                text = f"{pace:.2g} s a step, about {duration(pace * left)} to go"
                self._progress.say(f"step {state.step}: {text}")
        self._times.append((now, state.step))
        begun, step = self._times[0]
        rate = (state.step - step) * self._batch_size / max(now - begun, 1e-9)
        waiting = f"waiting for data {waited / max(now - self._begun, 1e-9):.0%}"
        self._pace = f"{waiting}, {rate:.3g} {self._examples}/s"
        self._progress.advance(len(losses), f"loss {_mean(self._recent):.4f}  {self._pace}")
        if self._progress.lost is not None:
            self.problem(state, "messages", self._progress.lost)
        if state.step % self.EVERY:
            return
        last_time, step, last_waited = self._since
        seconds = max(now - last_time, 1e-9)
        rate = (state.step - step) / seconds
        values = {
            **_values(state),
            "images_per_second": rate * self._batch_size,
            "data_wait_seconds": waited,
            "data_wait_share": (waited - last_waited) / seconds,
        }
        self._since = (now, state.step, waited)
        state.clear()
        self._write(state, values)

    def validation(self, state: TrainState, losses: dict[str, float]) -> None:
        """Note the averaged weights' loss on training and held-out examples."""
        self._validated.add(state.step)
        self._write(state, {f"{VALIDATION}{name}": value for name, value in losses.items()})
        text = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self._progress.say(f"step {state.step}: averaged weights' loss: {text}")

    def validated(self, step: int) -> bool:
        """Return whether the log holds the validation of a step."""
        return step in self._validated

    def distance(self, state: TrainState, distance: Distance, value: float) -> None:
        """Note the distance of samples to the training images, under its own name."""
        self._measured.add(state.step)
        self._write(state, {distance.key: value})
        self._progress.say(f"step {state.step}: {distance.name} {value:.3f}")

    def measured(self, step: int) -> bool:
        """Return whether the log holds the distance of a step."""
        return step in self._measured

    def curves(self, state: TrainState) -> None:
        """Draw ``curves.png`` of the log; without matplotlib that is said once."""
        path = self._folder / "curves.png"
        try:
            remark = draw_curves(path, self._log)
        except OSError as error:
            self.problem(state, str(path), error)
            return
        if remark is not None and remark not in self._said:
            self._said.add(remark)
            self._progress.say(remark)

    def saved(self, state: TrainState) -> None:
        """Note that a checkpoint is on disk."""
        self._progress.say(f"step {state.step}: checkpoint written, {self._pace}")

    def problem(self, state: TrainState, what: str, error: OSError) -> None:
        """Say once of each thing that it cannot be written, on the screen and in the log."""
        if what in self._said:
            return
        self._said.add(what)
        text = f"cannot write {what}: {error.strerror or error}; training goes on"
        self._progress.say(f"step {state.step}: {text}")
        with suppress(OSError):
            append_line(self._log, json.dumps({"step": state.step, "note": text}))

    def close(self) -> None:
        """Close bar and curves."""
        self._progress.stop()
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

    def _write(self, state: TrainState, values: Mapping[str, Value]) -> None:
        line = {"step": state.step, "seconds": round(state.seconds, 1), **values}
        try:
            append_line(self._log, json.dumps(line))
        except OSError as error:
            self.problem(state, str(self._log), error)
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                for part, one in _scalars(name, value).items():
                    self._writer.add_scalar(part.replace("_", "/", 1), one, state.step)
        except OSError as error:
            self._writer = None
            self.problem(state, str(self._folder / "tensorboard"), error)


def _values(state: TrainState) -> dict[str, Value]:
    """Return what a line says of the steps since the last one, times aside."""
    values: dict[str, Value] = {
        "loss": _mean(state.losses),
        "grad_norm": state.norm,
        "learning_rate": state.learning_rate,
    }
    if state.time_counts:
        pairs = zip(state.time_sums, state.time_counts, strict=True)
        values["loss_by_time"] = [total / count if count else None for total, count in pairs]
    return values


def _scalars(name: str, value: Value) -> dict[str, float]:
    """Return TensorBoard's curves of a value of the log."""
    if not isinstance(value, list):
        return {name: value}
    parts = {f"{name}_{i}_of_{len(value)}": one for i, one in enumerate(value, start=1)}
    return {part: one for part, one in parts.items() if one is not None}


def duration(seconds: float) -> str:
    """Return a time as a person says it: "40 seconds", "25 minutes", "3.5 hours", "4 days"."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 172_800:
        return f"{seconds / 3_600:.1f} hours"
    return f"{seconds / 86_400:.0f} days"


def _mean(losses: Collection[float]) -> float:
    return sum(losses) / len(losses)


def _lines_until(log: Path, step: int) -> list[dict[str, Any]]:
    """Return a log's lines up to a step, and cut off what follows them."""
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return []
    lines, end = [], 0
    for text in data.splitlines(keepends=True):
        try:
            line = json.loads(text)  # with NaN, which a loss may be
            if line["step"] > step or not text.endswith(b"\n"):
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        lines.append(line)
        end += len(text)
    if end < len(data):
        os.truncate(log, end)
    return lines


def _summary_writer(folder: Path, step: int) -> Any:
    """Open the curves, from which TensorBoard drops what stands there of later steps."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=step + 1 if step else None)
