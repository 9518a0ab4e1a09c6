"""What ``ddimx sample`` does: batches into a run folder, resumable, recorded."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import DdimxError, UsageError
from ..files import sha256_file, sweep, write_json
from ..models.octree.process import DiscreteProcess
from ..progress import Progress
from ..runs import fresh_run
from ..signals import Interrupted, Stop
from ..solvers.executor import Step
from ..untrusted.arrays import map_npy
from ..untrusted.names import all_inside
from ..weights.model import Model
from ..weights.source import SUFFIX
from . import manifest
from .batch import MICRO_BATCH, Given, finish
from .memory import check_fits
from .settings import Settings, labels_for
from .shape_sink import ShapeSink
from .sinks import ARRAY_FORMATS, NamedSink, Sink, open_sink, remove_parts
from .task import SAMPLING, Task


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """A resolved sampling run and where it goes; ``asked`` is kept for ``--resume``."""

    model: Model
    settings: Settings
    kind: str = "png"
    out: Path | None = None
    overwrite: bool = False
    init_noise: Path | None = None
    command: str = ""
    asked: dict[str, Any] = field(default_factory=dict)
    task: Task = SAMPLING

    @property
    def shapes(self) -> bool:
        """Whether the model draws octrees."""
        return isinstance(self.model.process, DiscreteProcess)

    @property
    def one_file(self) -> bool:
        """Whether all samples end in one array: a finished one has nothing pending or to add."""
        return self.kind in ARRAY_FORMATS and not self.shapes


class _Stopped(Exception):
    """Somebody asked to stop in the middle of a batch."""


def run(request: SampleRequest, stop: Stop, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Write the samples that are missing and return the manifest with its folder.

    The manifest's ``status`` is "complete", or "interrupted" if ``stop`` was set; then the same
    request goes on where this one ended.

    Raises:
        UsageError: the folder holds something else, or the batch does not fit into memory.
        DdimxError: the folder cannot be written.
    """
    start = None if request.init_noise is None else _Start(request.init_noise, request.settings)
    check_fits(request.model, request.settings)
    folder, before = _folder(request, start)
    sink = _sink(request, folder)
    try:
        job = _Job(request, folder, sink, start, before)
        return job.run(stop, progress), folder
    except OSError as error:
        raise DdimxError(
            f"cannot write to {folder}: {error.strerror or error}; what was written is valid, "
            "the same command goes on from there"
        ) from None


def load_init_noise(
    path: Path, shape: tuple[int, ...], what: str = "--init-noise"
) -> npt.NDArray[np.float32]:
    """Read starting states, float32 [N, *shape] (memory-mapped).

    Raises:
        UsageError: not a ``.npy`` of that shape, or with values that are not finite.
    """
    try:
        states = map_npy(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} {path}: not a readable .npy ({error})") from None
    if states.shape[1:] != shape or not states.size:
        expected = ", ".join(str(n) for n in shape)
        raise UsageError(f"{what} {path}: shape {states.shape}, expected (N, {expected})")
    if states.dtype.kind != "f":
        raise UsageError(f"{what} {path}: dtype {states.dtype}, expected floating point")
    if not all(np.isfinite(state).all() for state in states):
        raise UsageError(f"{what} {path}: holds values that are not finite")
    return states


class _Start:
    """Starting states from a file: the i-th belongs to the run's i-th sample."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.sha256 = sha256_file(path)
        self._states = map_npy(path)  # what load_init_noise has looked at
        self._first = settings.start_index

    def __call__(self, samples: Sequence[int]) -> Tensor:
        chosen = [i - self._first for i in samples]
        return torch.from_numpy(np.array(self._states[chosen], dtype=np.float32))


class _Job:
    """One run in one folder."""

    def __init__(
        self,
        request: SampleRequest,
        folder: Path,
        sink: Sink,
        start: _Start | None,
        before: dict[str, Any] | None,
    ) -> None:
        self._request, self._folder, self._sink = request, folder, sink
        self._task = request.task
        self._given = self._task.given if start is None else Given(start=start)
        self._begun = before is not None
        self._complete = (
            before is not None
            and before["status"] == "complete"
            and all((folder / name).is_file() for name in before["files"])
        )
        settings = request.settings
        self._batch_size = settings.batch_size
        self._record = {
            "status": "running",
            "count": settings.count,
            **manifest.describe(request.model, settings, request.command),
            "identity": _identity(request, start),
            "asked": request.asked,
            "batch_size": settings.batch_size,
            "network_calls": 0,
            "seconds": 0.0,
        }
        if before is not None:
            for key in ("network_calls", "seconds"):
                self._record[key] = before.get(key, 0)
            self._record["dtype"] = before.get("dtype", self._record["dtype"])  # and why it is so
            if "exported" in before:  # by sample --export; --overwrite removes these as well
                self._record["exported"] = before["exported"]
        if self._task.files is not None:  # so that --overwrite knows them if we are killed
            self._record["files"] = self._task.files(settings.indices)
        elif self._task.names is not None:
            self._record["files"] = [*map(self._task.names, settings.indices)]
        all_inside(folder, self._record.get("files", []), folder)  # also no link in their places

    def run(self, stop: Stop, progress: Progress) -> dict[str, Any]:
        settings = self._request.settings
        pending = self._pending()
        already = settings.count - len(pending)
        if already:
            progress.say(f"{self._folder}: {already} of {settings.count} samples are there already")
        self._write("running")
        begun, before = time.perf_counter(), self._record["seconds"]
        calls = self._count_calls()
        try:
            self._sample(pending, stop, progress)
        except (_Stopped, Interrupted):
            stop.signal = stop.signal or 2
        finally:
            calls.remove()
            progress.stop()
            self._record["seconds"] = round(before + time.perf_counter() - begun, 3)
        if stop:
            return self._write("interrupted")
        files = self._sink.finish(settings.indices)
        more = self._task.finish(self._folder, self._sink, settings.indices)
        self._record |= {"files": [*files, *more], **self._task.results}
        return self._write("complete")

    def _pending(self) -> list[int]:
        indices = self._request.settings.indices
        if not self._begun:  # whatever bears our names here is not of this run
            return list(indices)
        if self._complete and self._request.one_file:
            return []
        done = self._sink.done()
        return [i for i in indices if i not in done]

    def _sample(self, pending: list[int], stop: Stop, progress: Progress) -> None:
        model, settings = self._request.model, self._request.settings
        rows = len(settings.table)
        progress.start("sampling", len(pending) * rows)

        def after_row(step: Step, samples: Sequence[int]) -> None:
            progress.advance(len(samples))
            if self._task.observe is not None:
                self._task.observe(self._folder, step, samples)
            if stop:
                raise _Stopped

        while pending:
            if stop:
                raise _Stopped
            batch = pending[: self._batch_size]
            try:
                samples = finish(model, settings, batch, given=self._given, after_row=after_row)
            except torch.cuda.OutOfMemoryError:
                self._halve(progress)
                continue
            labels = labels_for(settings, model, self._given.keys(batch))
            self._sink.write(batch, samples, labels)
            pending = pending[len(batch) :]

    def _halve(self, progress: Progress) -> None:
        """Go on with half the batch after the device ran out of memory, and record it."""
        invariant = self._request.settings.invariant
        if invariant and not self._request.shapes:
            raise DdimxError(
                f"the {MICRO_BATCH} samples that --invariant computes together do not fit into "
                "the device's memory"
            )
        if self._batch_size == 1 or invariant:
            raise DdimxError("not even one sample fits into the device's memory")
        torch.cuda.empty_cache()
        self._batch_size = (self._batch_size + 1) // 2
        self._record["batch_size"] = self._batch_size
        progress.say(f"out of memory; going on with batches of {self._batch_size}")

    def _count_calls(self) -> Any:
        def count(*_: Any) -> None:
            self._record["network_calls"] += 1

        return self._request.model.network.register_forward_hook(count)

    def _write(self, status: str) -> dict[str, Any]:
        self._record["status"] = status
        write_json(self._folder / manifest.NAME, self._record)
        return self._record


def _identity(request: SampleRequest, start: _Start | None) -> dict[str, Any]:
    digest = None if start is None else start.sha256
    own = manifest.identity(request.model, request.settings, request.kind, digest)
    return {**own, **request.task.identity}


def _sink(request: SampleRequest, folder: Path) -> Sink:
    data, task = request.model.config.data, request.task
    if request.shapes:
        return ShapeSink(folder, request.kind, request.model)
    if task.sink is not None:
        return task.sink(folder)
    if task.names is not None:
        return NamedSink(folder, data, request.kind, task.names, request.settings.indices)
    return open_sink(request.kind, folder, data, request.model.classes)


def _folder(request: SampleRequest, start: _Start | None) -> tuple[Path, dict[str, Any] | None]:
    """Return the run's folder, and its manifest where the run was begun before."""
    if request.out is None:
        label = Path(request.model.name).name.removesuffix(SUFFIX)
        return fresh_run(request.task.verb, label), None
    folder = request.out
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file")
    before = manifest.read(folder) if folder.is_dir() else None
    if request.overwrite:
        clear(folder, before)
        before = None
    elif before is not None:
        now = _identity(request, start)
        old = request.task.translate(
            before, manifest.translated(before, now, request.settings.table)
        )
        manifest.check_same(folder, before, old, now, request.settings.count)
        sweep(folder)
        _check_extension(request, folder, before)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no run; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DdimxError(f"cannot create {folder}: {error.strerror}") from None
    return folder, before


def _check_extension(request: SampleRequest, folder: Path, before: dict[str, Any]) -> None:
    """A finished array is one file: it cannot grow."""
    if not request.one_file or before["status"] != "complete":
        return
    if request.settings.count != before["count"]:
        raise UsageError(
            f"{folder} holds a finished file of {before['count']} samples; "
            "choose another --out or --overwrite"
        )


def clear(folder: Path, before: dict[str, Any] | None) -> None:
    """Remove what an earlier run wrote, and nothing else.

    Raises:
        DdimxError: the manifest names a file outside the folder; then nothing is removed.
    """
    if before is None:
        remove_parts(folder)
        return
    names = [*before.get("files", []), *before.get("exported", []), "grid.png", manifest.NAME]
    first = before["identity"].get("start_index", 0)
    indices = range(first, first + before["count"])
    numbered = re.compile(rf"([0-9]{{6,10}})\.{re.escape(before['identity'].get('format', ''))}")
    found = [(m, path.name) for path in folder.iterdir() if (m := numbered.fullmatch(path.name))]
    names += [name for m, name in found if int(m[1]) in indices]
    paths = all_inside(folder, names, folder / manifest.NAME)
    remove_parts(folder)
    for path in set(paths):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            with contextlib.suppress(OSError):  # not empty yet, or not ours alone
                path.parent.rmdir()
