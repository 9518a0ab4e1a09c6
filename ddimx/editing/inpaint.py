"""Inpainting (RePaint or plain replacement) and SDEdit, as runs of a plan with given pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import UsageError
from ..noise import Stream
from ..options import Options
from ..runs.contact_sheet import MOST, write_grid
from ..runs.formats import IMAGE_FORMATS
from ..runs.image_sink import NamedSink
from ..runs.sinks import Sink
from ..sampling.batch import Inputs, Start
from ..sampling.hooks import Task
from ..sampling.settings import Settings
from ..solvers.executor import Known
from ..solvers.plan import Plan
from ..solvers.repaint import RESAMPLE, default_jump, repaint
from ..weights.model import Model
from .masks import Mask
from .pictures import Picture, as_states, fingerprint
from .settings import resolve_editing, shortened

VARIANTS = 4  # of every image by default

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Edit:
    """How to paint: RePaint's jump and passes (None: defaults), and SDEdit's strength."""

    jump: int | None = None
    resample: int | None = None
    strength: float | None = None


def inpaint_settings(
    options: Options, model: Model, edit: Edit, *, images: int, masked: bool
) -> Settings:
    """Return the settings of ``asked.count`` variants of every image.

    The run's sample indices count variants first: index j is variant j // images of image
    j % images, so that more variants of the same images are a longer run of the same kind.

    Jumps back need a solver that remembers no earlier steps. Where neither the options nor
    ``edit.resample`` = 1 say otherwise and the model's own is another, a mask is painted by ddim.

    Raises:
        UsageError: options out of range, or jumps without a mask.
    """
    jumps = masked and edit.resample != 1 and options.plan is None and options.solver is None
    if jumps and model.config.sampling.solver not in (None, "ddim", "ddpm"):
        options = replace(options, solver="ddim")
    variants = options.count or VARIANTS
    options = replace(options, count=variants * images, start_index=options.start_index * images)
    if edit.strength is None:
        settings = resolve_editing(options, model)
    else:
        settings = shortened(options, model, edit.strength)
    if not masked:
        if edit.jump is not None or edit.resample is not None:
            raise UsageError("--jump and --resample belong to a mask: without one nothing is known")
        return settings
    plan, notes = _plan(settings, model, edit), settings.notes
    if edit.resample is None and plan is settings.image_plan:
        notes = (
            *notes,
            f"plain replacement: {plan.label} in {len(plan)} rows allows no jumps back",
        )
    return replace(settings, plan=plan, notes=notes)


def _plan(settings: Settings, model: Model, edit: Edit) -> Plan:
    """Return RePaint's plan; by default, plain replacement where there is nothing to jump."""
    plan = settings.image_plan
    simple = plan.depth == 1 and bool(plan.keeps_point().all()) and len(plan) > 1
    resample = edit.resample
    if resample is None:
        resample = RESAMPLE if simple or edit.jump is not None else 1
    jump = edit.jump if edit.jump is not None else default_jump(len(plan))
    return repaint(plan, model.process.schedule, jump, resample)


def inpaint_inputs(
    settings: Settings, model: Model, states: Tensor, paint: Tensor | None, edit: Edit
) -> Inputs:
    """Return what the samples are given: known pixels, a start, and their noise.

    Args:
        states: the images in the network's range, float32 [M, C, H, W].
        paint: what is painted anew, bool [M, H, W], or None for all of it.
    """
    images = len(states)

    def known(samples: Sequence[int]) -> Known:
        rows = [j % images for j in samples]
        assert paint is not None
        return Known(states[rows], (~paint[rows]).to(torch.float32).unsqueeze(1))

    def noise_index(j: int) -> int:
        return j // images

    return Inputs(
        start=None if edit.strength is None else _noised(settings, model, states),
        known=None if paint is None else known,
        noise_index=noise_index,
    )


def _noised(settings: Settings, model: Model, states: Tensor) -> Start:
    """Return SDEdit's start (arXiv 2108.01073): the image at the plan's first noise level."""
    images = len(states)
    level = float(model.process.schedule.alpha_bar(settings.image_plan.t_from[0]))
    signal, sigma = math.sqrt(level), math.sqrt(1 - level)

    def start(samples: Sequence[int]) -> Tensor:
        keys = [j // images for j in samples]
        noise = settings.noise.normal(keys, model.process.shape, stream=Stream.INIT)
        return signal * states[[j % images for j in samples]] + sigma * noise

    return start


def inpaint_task(
    settings: Settings,
    model: Model,
    pictures: Sequence[Picture],
    masks: Sequence[Mask] | None,
    edit: Edit,
    kind: str,
) -> Task:
    """Return the run that paints variants of pictures; one mask for each, or None."""
    paint = None if masks is None else torch.from_numpy(np.stack(masks))
    stems = [picture.name for picture in pictures]

    def name(j: int) -> str:
        return f"{stems[j % len(stems)]}-{j // len(stems):02d}.{kind}"

    def about_sample(j: int) -> dict[str, str]:
        i, variant = j % len(stems), j // len(stems)
        facts = {"index": str(variant), "image_sha256": fingerprint(pictures[i].pixels)}
        return facts if masks is None else facts | {"mask_sha256": fingerprint(masks[i])}

    def sink(folder: Path, about: Mapping[str, str]) -> Sink:
        indices, classes = settings.indices, model.classes
        return NamedSink(
            folder, model.config.data, kind, name, indices, classes, about, about_sample
        )

    def files(indices: range) -> list[str]:
        return [*map(name, indices)]

    one_file_each = kind in IMAGE_FORMATS  # an array has one name whatever the pictures are called
    return Task(
        verb="inpaint",
        inputs=inpaint_inputs(settings, model, as_states(pictures, model), paint, edit),
        identity={
            "verb": "inpaint",
            "images": [picture.name for picture in pictures],
            "images_sha256": fingerprint(*(picture.pixels for picture in pictures)),
            "mask_sha256": None if masks is None else fingerprint(*masks),
            "strength": edit.strength,
        },
        about={"verb": "inpaint"}
        | ({} if edit.strength is None else {"strength": json.dumps(edit.strength)}),
        sink=sink if one_file_each else None,
        files=files if one_file_each else None,
        finish=_sheet(pictures, masks),
    )


def _sheet(
    pictures: Sequence[Picture], masks: Sequence[Mask] | None
) -> Callable[[Path, Sink, range], list[str]]:
    """Return what writes ``grid.png``: a row of input, mask and variants for every picture."""
    images, input_columns = len(pictures), 1 if masks is None else 2

    def write(folder: Path, sink: Sink, indices: range) -> list[str]:
        variants = min(len(indices) // images, MOST - input_columns)
        rows = min(images, max(1, MOST // (input_columns + variants)))
        tiles: list[Bytes] = []
        for i in range(rows):
            tiles.append(pictures[i].pixels)
            if masks is not None:
                white = np.uint8(255) * masks[i][..., None].astype(np.uint8)
                tiles.append(np.broadcast_to(white, pictures[i].pixels.shape))
            tiles += list(sink.pixels(indices[i::images][:variants]))
        write_grid(folder / "grid.png", np.stack(tiles), input_columns + variants)
        return []

    return write
