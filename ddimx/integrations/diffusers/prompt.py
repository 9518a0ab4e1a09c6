"""A run that draws images from a text: into a run folder, resumable, recorded."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import DataConfig
from ...errors import DdimxError, UsageError
from ...files import sweep, write_json
from ...noise import Stream
from ...progress import Progress
from ...runs import fresh_run
from ...sampling import manifest
from ...sampling.grid import MOST, write_grid
from ...sampling.run import clear
from ...sampling.sinks import ARRAY_FORMATS, Sink, open_sink
from ...signals import Interrupted, Stop
from .request import PromptRequest, record_of


class _Stopped(Exception):
    """Somebody asked to stop in the middle of a batch."""


def run_prompt(
    request: PromptRequest, stop: Stop, progress: Progress
) -> tuple[dict[str, Any], Path]:
    """Draw the images that are missing and return the manifest with its folder.

    Raises:
        UsageError: a number that is out of range, or a folder that holds something else.
        DdimxError: the folder cannot be written.
    """
    record = record_of(request, request.plan())
    folder, before = _folder(request, record["identity"])
    data = DataConfig(dataset="FOLDER", image_size=1, channels=3)
    sink = open_sink(request.kind, folder, data, ())
    try:
        pending = _pending(request, sink, folder, before)
        record["seconds"] = (before or {}).get("seconds", 0.0)
        write_json(folder / manifest.NAME, record)
        _draw(request, pending, sink, record, stop, progress)
        if not stop:
            record["files"] = sink.finish(request.indices)
            write_grid(folder / "grid.png", sink.pixels(request.indices[:MOST]))
        record["status"] = "interrupted" if stop else "complete"
        write_json(folder / manifest.NAME, record)
    except torch.cuda.OutOfMemoryError:
        raise DdimxError(
            f"{request.batch_size} images at once do not fit into the device's memory; "
            "give a smaller --batch-size"
        ) from None
    except OSError as error:
        raise DdimxError(f"cannot write to {folder}: {error.strerror or error}") from None
    return record, folder


def draw_images(request: PromptRequest, samples: Sequence[int], on_step: Any = None) -> Tensor:
    """Return the images of these sample indices, float32 [B, 3, H, W] in [-1, 1], on the CPU.

    Both x_T and, with eta > 0, the steps' noise are functions of the seed and the index.
    """
    model, pipe = request.model, request.model.pipe
    request.scheduler.use_seed(request.noise.seed, samples)
    latents = request.noise.normal(samples, model.latent_shape, stream=Stream.INIT)
    options: dict[str, Any] = {"eta": request.eta} if model.takes("eta") else {}
    if on_step is not None and model.takes("callback_on_step_end"):
        options["callback_on_step_end"] = on_step
    made = pipe(
        [request.prompt] * len(samples),
        latents=latents.to(model.device, pipe.unet.dtype),
        guidance_scale=request.guidance,
        output_type="pt",
        **request.timing,
        **options,
    )
    images: Tensor = made.images.to("cpu", torch.float32)
    return images * 2 - 1


def _draw(
    request: PromptRequest,
    pending: list[int],
    sink: Sink,
    record: dict[str, Any],
    stop: Stop,
    progress: Progress,
) -> None:
    progress.start("drawing", len(pending) * record["nfe"])
    begun, before = time.perf_counter(), record["seconds"]

    def on_step(_pipe: Any, _step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        progress.advance(len(batch))
        if stop:
            raise _Stopped
        return tensors

    try:
        for first in range(0, len(pending), request.batch_size):
            batch = pending[first : first + request.batch_size]
            sink.write(batch, draw_images(request, batch, on_step), None)
            if stop:
                break
    except (_Stopped, Interrupted):
        stop.signal = stop.signal or signal.SIGINT
    finally:
        progress.stop()
        record["seconds"] = round(before + time.perf_counter() - begun, 3)


def _pending(
    request: PromptRequest, sink: Sink, folder: Path, before: dict[str, Any] | None
) -> list[int]:
    if before is None:
        return list(request.indices)
    files = before.get("files", [])
    whole = before["status"] == "complete" and all((folder / name).is_file() for name in files)
    if whole and request.kind in ARRAY_FORMATS:
        return []
    done = sink.done()
    return [i for i in request.indices if i not in done]


def _folder(request: PromptRequest, identity: dict[str, Any]) -> tuple[Path, dict[str, Any] | None]:
    """Return the run's folder, and its manifest where the run was begun before."""
    if request.out is None:
        return fresh_run("sample", Path(request.model.name).name), None
    folder, count = request.out, len(request.indices)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file")
    before = manifest.read(folder) if folder.is_dir() else None
    if request.overwrite:
        clear(folder, before)
        before = None
    elif before is not None:
        old = manifest.translated(before, identity, request.plan())
        manifest.check_same(folder, before, old, identity, count)
        finished = request.kind in ARRAY_FORMATS and before["status"] == "complete"
        if finished and before["count"] != count:
            raise UsageError(
                f"{folder} holds a finished file of {before['count']} samples; "
                "choose another --out or --overwrite"
            )
        sweep(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no run; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DdimxError(f"cannot create {folder}: {error.strerror}") from None
    return folder, before
