"""What ``ddimx sample`` does: batches into a run folder, resumable, recorded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import UsageError
from ..files import folders_synced_once, sha256_file
from ..progress import Progress
from ..runs.contact_sheet import MOST
from ..runs.disk import bytes_on_disk, check_space
from ..runs.formats import LISTED, TAR_FORMAT
from ..runs.record import NAME, Record
from ..runs.run import Filling, RunSpec, Stopped, begin
from ..runs.shape_sink import ShapeSink
from ..runs.shard_filling import ShardFilling, begin_shard
from ..runs.shards import Shard, remove_shards
from ..runs.sinks import remove_parts
from ..signals import Interrupted, Stop
from ..timing import timed
from ..untrusted.arrays import map_npy
from ..untrusted.names import all_inside
from ..weights.locate.source import SUFFIX
from ..weights.model import Model
from . import manifest
from .batch import Inputs, finish_batch, indivisible
from .engine import choose_engine
from .hooks import SAMPLING, Task, contact_sheet
from .memory import check_fits
from .profile import TRACE, Profile
from .settings import Settings, labels_for


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """A resolved sampling run and where it goes; ``asked`` is kept for ``--resume``.

    ``labels`` says whether classes stand on ``grid.png``; None: where there are several, and room.
    ``shard`` is this process's part of a run that several make, None for one that has a folder for
    itself; with ``gather`` it makes no sample, and ends a run that is whole.
    """

    model: Model
    settings: Settings
    kind: str = "png"
    out: Path | None = None
    overwrite: bool = False
    init_noise: Path | None = None
    command: str = ""
    asked: dict[str, Any] = field(default_factory=dict)
    task: Task = SAMPLING
    labels: bool | None = None
    shard: Shard | None = None
    gather: bool = False


def run(request: SampleRequest, stop: Stop, progress: Progress) -> tuple[Record, Path]:
    """Write the samples that are missing and return the manifest with its folder.

    The manifest's ``status`` is "complete", or "interrupted" if ``stop`` was set; then the same
    request goes on where this one ended. Of a shard it is "partial" where others are not finished.

    Raises:
        UsageError: the folder holds something else, the batch does not fit into memory or the
            files on the disk, or another process makes the same shard.
        DdimxError: the folder cannot be written; with ``gather``, samples are missing.
    """
    model, settings, task = request.model, request.settings, request.task
    start = None if request.init_noise is None else _Start(request.init_noise, settings)
    inputs = task.inputs if start is None else Inputs(start=start)
    profile = Profile.current()
    with timed("preparing"):
        check_fits(model, settings)
        engine = choose_engine(model, settings)
    digest = None if start is None else start.sha256
    shared = manifest.identity(model, settings, request.kind, digest)
    identity = shared | task.identity
    spec = RunSpec(
        verb=task.verb,
        label=Path(model.name).name.removesuffix(SUFFIX),
        out=request.out,
        overwrite=request.overwrite,
        identity=identity,
        count=settings.count,
        read=manifest.read,
        translate=lambda before: task.translate(
            before, manifest.translated(before, identity, settings.plan)
        ),
        clear=clear,
        versions=manifest.shared_versions(settings),
    )
    begun = begin(spec)
    if request.shard is not None:
        begun = begin_shard(spec, request.shard, gather=request.gather)
    with begun as (folder, before):
        about = manifest.about(shared) | task.about
        if task.sink is not None:
            sink = task.sink(folder, about)
        else:
            sink = model.process.sink(folder, request.kind, classes=model.classes, about=about)
        record = {
            "status": "running",
            "count": settings.count,
            **manifest.describe(model, settings, request.command),
            "identity": identity,
            "samples": manifest.samples(model, settings, inputs.keys),
            "asked": request.asked,
            "batch_size": settings.batch_size,
            "engine": engine.record(),
            "network_calls": 0,
            "seconds": 0.0,
        }
        if before is not None:
            record["network_calls"] = before.get("network_calls", 0)
            record["dtype"] = before.get("dtype", record["dtype"])  # with the reason that it had
            for name in ("exported", "profile"):  # by --export, whose files --overwrite removes
                if name in before:
                    record[name] = before[name]
        files = task.files or getattr(sink, "files", None)
        if files is not None:  # so that --overwrite knows them if we are killed
            record["files"] = files(settings.indices)
        all_inside(folder, record.get("files", []), folder)  # also no link in their places

        def after_row(step: Any, samples: Sequence[int]) -> None:
            progress.advance(len(samples))
            record["engine"] = engine.record()
            if task.observe is not None:
                task.observe(folder, step, samples)
            if stop:
                raise Stopped

        def draw(batch: Sequence[int]) -> None:
            samples = finish_batch(
                model, settings, batch, inputs=inputs, after_row=after_row, engine=engine
            )
            with timed("files"), folders_synced_once():
                if profile is not None:
                    profile.write_trace(folder / TRACE)
                sink.write(batch, samples, labels_for(settings, model, inputs.keys(batch)))

        def conclude() -> Record:
            with timed("files"):
                if task.finish is not None:
                    files = task.finish(folder, sink, settings.indices)
                else:
                    keys = inputs.keys(settings.indices[:MOST])
                    classes = manifest.class_names(model, settings, keys)
                    files = contact_sheet(folder, sink, settings.indices, classes, request.labels)
            if (folder / TRACE).is_file():
                files = [*files, TRACE]
            if settings.clean and isinstance(sink, ShapeSink) and settings.count <= LISTED:
                record["samples"] |= sink.changes(settings.indices)
            return {"files": files, **task.results}

        def count_call() -> None:
            record["network_calls"] += 1

        lines: list[str] = []

        def say(line: str) -> None:
            lines.append(line)
            progress.say(line)

        @contextmanager
        def compiling(notice: str) -> Iterator[None]:
            progress.advance(0, "compiling ...")
            progress.say(notice)
            answer = "stopping once the network is compiled; Ctrl-C again ends the run at once"
            with stop.answering(lambda: progress.say(answer)), progress.apart():
                try:
                    yield
                except Exception:
                    if stop:  # a terminal sends Ctrl-C to the C++ compiler too, which ends there
                        raise Interrupted from None
                    raise

        filling = Filling(folder, before, record, sink, settings.indices)
        if request.shard is not None:
            filling = ShardFilling(
                *(folder, before, record, sink, settings.indices),
                shard=request.shard,
                spec=spec,
                gather=request.gather,
            )
        with filling.held():
            pending = len(filling.pending())
            engine.expect_samples(pending)
            channels, *sides = model.process.shape or (0, 0)
            each = bytes_on_disk(request.kind, math.prod(sides), channels)
            check_space(folder, filling.left(), each, progress.say)
            with engine.telling(say, compiling), engine.counted(count_call):
                result = filling.fill(
                    draw,
                    conclude,
                    stop,
                    progress,
                    title="sampling",
                    rows=len(settings.plan),
                    indivisible=indivisible(model, settings),
                )
        # Who chose the engine need not be told that it was used.
        if pending and engine.line() not in lines and settings.engine != engine.name:
            progress.say(engine.line())
        return result, folder


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


def clear(folder: Path, before: dict[str, Any] | None) -> None:
    """Remove what an earlier run wrote, and nothing else.

    Raises:
        UsageError: a shard of it is being made; then nothing is removed.
        DdimxError: the manifest names a file outside the folder; then nothing but the records of
            shards is removed.
    """
    remove_shards(folder)
    if before is None:
        remove_parts(folder)
        return
    names = [*before.get("files", []), *before.get("exported", []), "grid.png", TRACE]
    first = before["identity"].get("start_index", 0)
    indices = range(first, first + before["count"])
    kind = before["identity"].get("format", "")
    numbered = re.compile(rf"([0-9]{{6,10}})\.{re.escape('' if kind == TAR_FORMAT else kind)}")
    found = [(m, path.name) for path in folder.iterdir() if (m := numbered.fullmatch(path.name))]
    names += [name for m, name in found if int(m[1]) in indices]
    paths = all_inside(folder, names, folder / NAME)
    remove_parts(folder)
    for path in set(paths):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            with suppress(OSError):  # not empty yet, or not ours alone
                path.parent.rmdir()
    (folder / NAME).unlink(missing_ok=True)  # last: until then it says what is still to be removed
