"""What a person sees of a training run: a progress line, TensorBoard curves, one log in text."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

from ..progress import Progress
from ..untrusted.names import inside
from .state import TrainState


class Reporter(Protocol):
    """Receives what happens in a training run."""

    def start(self, step: int, total: int) -> None:
        """Training begins at ``step`` of ``total``."""
        ...

    def step(self, state: TrainState, loss: float, norm: float, waited: float) -> None:
        """One step is done; ``waited`` is the time spent waiting for data so far, in seconds."""
        ...

    def validation(self, state: TrainState, losses: dict[str, float]) -> None:
        """The averaged weights were measured."""
        ...

    def saved(self, state: TrainState) -> None:
        """A checkpoint is on disk."""
        ...


class FolderReporter:
    """Progress on stderr, curves in ``<folder>/tensorboard``, lines in ``<folder>/log.jsonl``."""

    EVERY = 50  # steps between two lines of the log

    def __init__(self, folder: Path, progress: Progress, batch_size: int) -> None:
        """Report on the run in ``folder``; TensorBoard is used if it is installed.

        Raises:
            DdimxError: the log, which is appended to, is a symbolic link to another place.
        """
        self._folder, self._progress, self._batch_size = folder, progress, batch_size
        self._log = inside(folder, "log.jsonl", folder)
        self._writer = _summary_writer(folder / "tensorboard")
        self._losses: list[float] = []
        self._since = (time.perf_counter(), 0, 0.0)
        self._begun, self._waiting = self._since[0], ""

    def start(self, step: int, total: int) -> None:
        """Open the progress bar at ``step`` of ``total``."""
        self._progress.start("training", total, step)
        self._begun = time.perf_counter()
        self._since = (self._begun, step, 0.0)

    def step(self, state: TrainState, loss: float, norm: float, waited: float) -> None:
        """Note one step; every ``EVERY`` steps write the mean since the last line.

        The line on the screen shows the share of the run's time spent waiting for data, the log
        that since its last line.
        """
        self._losses.append(loss)
        now = time.perf_counter()
        mean = sum(self._losses[-100:]) / len(self._losses[-100:])
        self._waiting = f"waiting for data {waited / max(now - self._begun, 1e-9):.0%}"
        self._progress.advance(1, f"loss {mean:.4f}  {self._waiting}")
        if state.step % self.EVERY:
            return
        then, step, waited_then = self._since
        seconds = max(now - then, 1e-9)
        rate = (state.step - step) / seconds
        values = {
            "loss": sum(self._losses) / len(self._losses),
            "grad_norm": norm,
            "images_per_second": rate * self._batch_size,
            "data_wait_seconds": waited,
            "data_wait_share": (waited - waited_then) / seconds,
        }
        self._losses, self._since = self._losses[-100:], (now, state.step, waited)
        self._write(state, values)

    def validation(self, state: TrainState, losses: dict[str, float]) -> None:
        """Note the averaged weights' loss on training and held-out examples."""
        self._write(state, {f"validation_{name}": value for name, value in losses.items()})
        text = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self._progress.say(f"step {state.step}: averaged weights' loss: {text}")

    def saved(self, state: TrainState) -> None:
        """Note that a checkpoint is on disk."""
        self._progress.say(f"step {state.step}: checkpoint written, {self._waiting}")

    def close(self) -> None:
        """Close bar and curves."""
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def _write(self, state: TrainState, values: dict[str, float]) -> None:
        line = {"step": state.step, "seconds": round(state.seconds, 1), **values}
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name.replace("_", "/", 1), value, state.step)


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)
