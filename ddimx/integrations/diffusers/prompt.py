"""A run that draws images from a text: into a run folder, resumable, recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import DataConfig
from ...noise import Stream
from ...progress import Progress
from ...runs.contact_sheet import MOST, write_grid
from ...runs.record import Record
from ...runs.run import Asked, Filling, Stopped, begin
from ...runs.sinks import open_sink
from ...sampling import manifest
from ...sampling.run import clear
from ...signals import Stop
from .request import PromptRequest, record_of


def run_prompt(request: PromptRequest, stop: Stop, progress: Progress) -> tuple[Record, Path]:
    """Draw the images that are missing and return the manifest with its folder.

    Raises:
        UsageError: a number that is out of range, or a folder that holds something else.
        DdimxError: the folder cannot be written, or not even one image fits into memory.
    """
    plan = request.plan()
    record = record_of(request, plan)
    asked = Asked(
        verb="sample",
        label=Path(request.model.name).name,
        out=request.out,
        overwrite=request.overwrite,
        identity=record["identity"],
        count=len(request.indices),
        read=manifest.read,
        translate=lambda before: manifest.translated(before, record["identity"], plan),
        clear=clear,
    )
    with begin(asked) as (folder, before):
        if before is not None:
            record["dtype"] = before.get("dtype", record["dtype"])
        data = DataConfig(dataset="FOLDER", image_size=1, channels=3)
        sink = open_sink(request.kind, folder, data, ())

        def draw(batch: Sequence[int]) -> None:
            def on_step(_pipe: Any, _step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                progress.advance(len(batch))
                if stop:
                    raise Stopped
                return tensors

            sink.write(batch, list(draw_images(request, batch, on_step)), None)

        def conclude() -> Record:
            write_grid(folder / "grid.png", sink.pixels(request.indices[:MOST]))
            return {}

        filling = Filling(folder, before, record, sink, request.indices)
        filling.fill(draw, conclude, stop, progress, title="drawing", rows=plan.nfe)
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
