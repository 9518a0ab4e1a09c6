"""Images to latents by DDIM inversion, and how well they come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import DataConfig
from ..errors import UsageError
from ..options import Options
from ..pixels import to_bytes
from ..runs.contact_sheet import MOST, write_grid
from ..runs.sinks import ArraySink, Sink
from ..sampling.batch import AfterRow, Inputs, finish_all
from ..sampling.hooks import Task
from ..sampling.settings import Settings
from ..solvers.inversion import REFINE, ddim_inversion
from ..untrusted.arrays import read_npy
from ..weights.model import Model
from .pictures import Picture, as_states, fingerprint
from .settings import resolve_editing

LATENTS = "latents.npy"


@dataclass(frozen=True, eq=False)
class Codec:
    """The way up and the way down of one model: the same times, class and guidance."""

    up: Settings
    down: Settings

    def inputs(self, states: Tensor) -> Inputs:
        """Return the runs' start: state i belongs to sample i."""
        return Inputs(start=lambda samples: states[list(samples)])


def make_codec(options: Options, model: Model, refine: int | None = None) -> Codec:
    """Return the plans that encode and decode: DDIM, eta 0, and guidance 1 by default.

    Raises:
        UsageError: another solver, noise, or options out of range.
    """
    if options.plan is not None:
        raise UsageError("images are encoded by DDIM's inversion, not by a plan of its own")
    if options.solver not in (None, "ddim"):
        raise UsageError(
            f"images are encoded by DDIM's inversion; solver {options.solver} has none"
        )
    if options.eta:
        raise UsageError(f"encoding needs a sampler without noise: eta 0, not {options.eta:g}")
    guidance = 1.0 if options.guidance is None else options.guidance
    options = replace(options, solver="ddim", eta=0.0, guidance=guidance, clip="none")
    down = resolve_editing(options, model)
    times = np.unique(down.image_plan.t_from)
    refine = REFINE if refine is None else refine
    up = ddim_inversion(
        model.process.schedule, times, prediction=down.image_plan.prediction, refine=refine
    )
    guided = (down.image_plan.inputs or {}).get("guided")
    if guided is not None:  # where the way down is guided, the way up is too
        inputs = {**(up.inputs or {}), "guided": guided}
        up = replace(up, g=np.repeat(down.image_plan.g[::-1], refine + 1), inputs=inputs)
    return Codec(replace(down, plan=up), down)


def run_all(
    model: Model, settings: Settings, states: Tensor, after_row: AfterRow | None = None
) -> Tensor:
    """Run a plan from states [N, ...] in batches and return the results, float32 on the CPU."""
    inputs = Inputs(start=lambda samples: states[list(samples)], noise_index=lambda _: 0)
    return torch.stack(
        finish_all(model, settings, range(len(states)), inputs=inputs, after_row=after_row)
    )


def differences(
    pictures: Sequence[Picture], decoded: Sequence[npt.NDArray[np.uint8]]
) -> dict[str, float]:
    """Return every picture's error: root mean square over its pixels, white being 1."""
    errors = {}
    for picture, other in zip(pictures, decoded, strict=True):
        gap = picture.pixels.astype(np.float64) - other
        errors[picture.name] = round(float(np.sqrt((gap**2).mean())) / 255, 6)
    return errors


class LatentSink(ArraySink):
    """All latents in one ``latents.npy``, float32 [N, C, H, W]."""

    def __init__(self, folder: Path, data: DataConfig) -> None:
        super().__init__(folder, data, "npy", ())
        self._final = folder / LATENTS


@dataclass(frozen=True, eq=False)
class EncodeTask:
    """The run that writes latents, and afterwards decodes them to see what was lost."""

    model: Model
    codec: Codec
    pictures: Sequence[Picture]
    results: dict[str, Any] = field(default_factory=dict)

    def task(self) -> Task:
        """Return it as a run's task."""
        states = as_states(self.pictures, self.model)
        return Task(
            verb="encode",
            inputs=self.codec.inputs(states),
            identity={
                "verb": "encode",
                "images": [picture.name for picture in self.pictures],
                "images_sha256": fingerprint(*(picture.pixels for picture in self.pictures)),
            },
            sink=lambda folder, _: LatentSink(folder, self.model.config.data),
            finish=self._decode,
            results=self.results,
        )

    def _decode(self, folder: Path, sink: Sink, indices: range) -> list[str]:
        """Write ``grid.png``: every picture beside what its latent decodes to."""
        latents = torch.from_numpy(read_npy(folder / LATENTS))  # just written
        images = to_bytes(
            run_all(self.model, self.codec.down, latents), self.model.config.data
        ).numpy()
        self.results["reconstruction_rms"] = differences(self.pictures, list(images))
        pairs = list(zip(self.pictures, images, strict=True))[: MOST // 2]
        tiles = [tile for picture, other in pairs for tile in (picture.pixels, other)]
        write_grid(folder / "grid.png", np.stack(tiles), 2 * max(1, min(4, len(pairs))))
        return []
