"""A text-to-image pipeline as a process: what ``ddimx sample --prompt`` draws from.

The pipeline's own call draws a batch: with our scheduler in its place, from latents of the seed.
All else (batches, files, the manifest, going on after an interruption) is as for any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...config import Config
from ...config_file import validate
from ...errors import UsageError
from ...models.process import Draws, Given
from ...noise import Noise, Stream
from ...option_values import one_number_of_steps, parse_guidance
from ...options import Options
from ...pixels import PICTURES, to_bytes
from ...runs.formats import FORMATS
from ...runs.sinks import Sink, open_sink
from ...solvers.plan import Plan
from ...solvers.registry import SOLVERS
from ...solvers.schedule import Schedule
from ...solvers.table import Columns
from ...solvers.timesteps import as_run
from ...weights.model import Model
from .attach import attach
from .route import schedule_of
from .scheduler import DDIMScheduler
from .text import TextModel

DEFAULT_STEPS = 50


@dataclass(frozen=True, eq=False)
class TextPlan:
    """A scheduler's plan, with what else decides a pipeline's images.

    Attributes:
        table: the rows.
        scheduler: takes the steps, laid out for these times.
        timing: the argument of the pipeline's call that says which times to visit.
        eta: as of ddim.
        prompt, negative_prompt, size: see :class:`TextProcess`.
    """

    table: Plan
    scheduler: DDIMScheduler
    timing: dict[str, Any]
    eta: float
    prompt: str
    negative_prompt: str | None
    size: tuple[int, int] | None

    @property
    def label(self) -> str:
        """The solver and its arguments."""
        return self.table.label

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for people."""
        return self.table.notes

    @property
    def nfe(self) -> int:
        """Number of rows that call the network."""
        return self.table.nfe

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.table)

    def identity(self) -> dict[str, Any]:
        """Return the plan's inputs with the texts, the size and the scheduler's clipping."""
        config = self.scheduler.config
        clip: float | str | None = float(config.clip_sample_range) if config.clip_sample else None
        if config.thresholding:
            clip = f"dynamic {config.dynamic_thresholding_ratio:g} {config.sample_max_value:g}"
        texts = {"prompt": self.prompt, "negative_prompt": self.negative_prompt}
        size = None if self.size is None else list(self.size)
        return {**self.table.identity(), **texts, "size": size, "clip": clip}

    def to_json(self) -> dict[str, Any]:
        """Return the rows as JSON values."""
        return self.table.to_json()

    def columns(self) -> Columns:
        """Return the columns for people."""
        return self.table.columns()


@dataclass(frozen=True, eq=False)
class TextStep:
    """One step of a pipeline: the row's ordinal, and after the last one the images.

    ``images`` are float32 [B, 3, H, W] in [-1, 1], on the CPU.
    """

    row: int
    images: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TextProcess:
    """The way from noise to images of a pipeline, for one text.

    Attributes:
        model: the pipeline.
        prompt: what to draw.
        negative_prompt: what guidance leads away from, None for the pipeline's default.
        size: width and height in pixels, None for what the pipeline was trained for.
    """

    model: TextModel
    prompt: str
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None

    draws: ClassVar[str] = "images"
    formats: ClassVar[tuple[str, ...]] = FORMATS
    micro_batch: ClassVar[int] = 1
    even_rows: ClassVar[bool] = True
    fixed_shapes: ClassVar[bool] = False  # its pipeline has a loop of its own
    num_classes: ClassVar[int] = 0
    can_guide: ClassVar[bool] = True
    decoder_name: ClassVar[str] = "pipeline"
    preview: ClassVar[Options] = Options()

    def __post_init__(self) -> None:
        kind, factor = type(self.model.pipe).__name__, self.model.pixels_per_latent
        if self.negative_prompt is not None and not self.model.takes("negative_prompt"):
            raise UsageError(f"--negative-prompt: {kind} takes none")
        if self.size is None:
            return
        if not (self.model.takes("width") and self.model.takes("height")):
            raise UsageError(f"--size: {kind} takes none")
        if any(side < factor or side % factor for side in self.size):
            width, height = self.size
            raise UsageError(
                f"--size {width}x{height}: the sides must be multiples of {factor} for this model"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample's latents, [C, H, W]."""
        channels, *sides = self.model.latent_shape
        if self.size is not None:
            sides = [self.size[1] // self.model.pixels_per_latent]
            sides.append(self.size[0] // self.model.pixels_per_latent)
        return channels, *sides

    @property
    def schedule(self) -> Schedule:
        """The forward process of the pipeline's scheduler."""
        return schedule_of(attach(self.model.pipe).config)

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Refuse: pipelines are trained elsewhere.

        Raises:
            UsageError: always.
        """
        raise UsageError("text-to-image pipelines are not trained here")

    def plan(self, options: Options) -> TextPlan:
        """Return the plan of DDIM that the options describe, in the scheduler's own settings.

        Raises:
            UsageError: an option that does not apply to a pipeline, or times it cannot visit.
        """
        kind = type(self.model.pipe).__name__
        for name in ("timesteps", "eta"):
            if getattr(options, name) and not self.model.takes(name):
                raise UsageError(f"--{name}: {kind} takes none")
        guidance = self.model.default("guidance_scale", 1.0)
        if options.guidance is not None:
            guidance = parse_guidance(options.guidance).weight
        if guidance < 1:
            raise UsageError(f"--guidance {guidance:g}: of a pipeline at least 1, which is off")
        if self.negative_prompt is not None and guidance == 1:
            raise UsageError("--negative-prompt has no effect without --guidance above 1")
        changes: dict[str, Any] = {}
        if options.spacing is not None:
            changes["timestep_spacing"] = options.spacing
        if options.clip is not None:
            changes |= {"clip_sample": options.clip != "none", "thresholding": False}
        if isinstance(options.clip, float):
            changes["clip_sample_range"] = options.clip
        scheduler = attach(self.model.pipe, **changes)
        timing: dict[str, Any] = {
            "num_inference_steps": one_number_of_steps(options.steps or DEFAULT_STEPS)
        }
        if options.timesteps is not None:
            timing = {"timesteps": [*options.timesteps]}
        scheduler.set_timesteps(**timing)
        eta = options.eta or 0.0
        inputs = {
            "solver": "ddim",
            "solver_version": SOLVERS["ddim"].version,
            "times": as_run([float(t) for t in scheduler.timesteps]),
            "eta": eta,
        }
        table = replace(scheduler.plan(eta), inputs=inputs)
        texts = (self.prompt, self.negative_prompt, self.size)
        return TextPlan(table, scheduler, timing, eta, *texts)

    def run(
        self,
        network: nn.Module,
        plan: TextPlan,
        indices: Tensor,
        noise: Noise,
        *,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        given: Given | None = None,
    ) -> Iterator[TextStep]:
        """Draw images and yield after every step; with the last one the images are there.

        Both x_T and, with eta above 0, the steps' noise are functions of the seed and the index.
        A pipeline draws in one call. It runs in a thread of its own, which waits after each step
        until the caller requests the next one, and ends when the iterator is closed.

        Raises:
            UsageError: known pixels.
        """
        model, pipe = self.model, self.model.pipe
        if given is not None and given.known is not None:
            raise UsageError("a text-to-image pipeline takes no known part")
        samples = indices.tolist()
        start = None if given is None else given.start
        latents = noise.normal(samples, self.shape, stream=Stream.INIT) if start is None else start
        plan.scheduler.use_seed(noise.seed, samples)
        pipe.scheduler = plan.scheduler
        arguments: dict[str, Any] = {
            "prompt": [self.prompt] * len(samples),
            "latents": latents.to(model.device, pipe.unet.dtype),
            "guidance_scale": guidance,
            "output_type": "pt",
            **plan.timing,
        }
        if model.takes("eta"):
            arguments["eta"] = plan.eta
        if self.negative_prompt is not None:
            arguments["negative_prompt"] = [self.negative_prompt] * len(samples)
        if self.size is not None:
            arguments |= {"width": self.size[0], "height": self.size[1]}
        messages: SimpleQueue[Any] = SimpleQueue()  # an ordinal, the images, or an error
        more: SimpleQueue[bool] = SimpleQueue()  # whether to go on

        def after_step(_pipe: Any, row: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if row < len(plan) - 1:
                messages.put(row)
                if not more.get():
                    raise GeneratorExit
            return tensors

        if model.takes("callback_on_step_end"):
            arguments["callback_on_step_end"] = after_step

        def draw() -> None:
            try:
                messages.put(pipe(**arguments).images)
            except BaseException as error:  # noqa: BLE001 - raised again where the steps are read
                messages.put(error)

        thread = Thread(target=draw, daemon=True)
        thread.start()
        is_over = False
        try:
            while not is_over:
                result = messages.get()
                if isinstance(result, BaseException):
                    is_over = True
                    raise result
                if isinstance(result, int):
                    yield TextStep(result)
                    more.put(True)
                    continue
                is_over = True
                images: Tensor = result.to("cpu", torch.float32)
                yield TextStep(len(plan) - 1, images * 2 - 1)
        finally:
            if not is_over:
                more.put(False)
            thread.join()

    def finish(self, step: TextStep) -> list[Tensor]:
        """Return the images, float32 [3, H, W] each; none before the last step."""
        return [] if step.images is None else [*step.images]

    def sink(
        self,
        folder: Path,
        kind: str,
        *,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
    ) -> Sink:
        """Return what writes images, or one array of them."""
        return open_sink(kind, folder, PICTURES, classes, about)

    def picture(self, sample: Tensor) -> npt.NDArray[np.uint8]:
        """Return an image [3, H, W] as uint8 [H, W, 3]."""
        pixels: npt.NDArray[np.uint8] = to_bytes(sample[None], PICTURES)[0].numpy()
        return pixels

    def bytes_per_sample(self, network: Callable[[], nn.Module], guidance: float) -> None:
        """Return None: a pipeline's parts are not ours to count."""


def prompted(
    model: TextModel,
    prompt: str,
    *,
    negative_prompt: str | None = None,
    size: tuple[int, int] | None = None,
) -> Model:
    """Return a pipeline that draws one text as a model, for everything that samples.

    Raises:
        UsageError: a pipeline without a scheduler that DDIM can take the place of, or without a
            negative prompt or a size that was requested.
    """
    process = TextProcess(model, prompt, negative_prompt, size)
    return Model(
        network=model.pipe.unet,
        process=process,
        config=_config(model),
        name=model.name,
        sha256=model.sha256,
        weights="unstated",
        form=f"diffusers pipeline ({type(model.pipe).__name__})",
        info={},
        notes=(),
        device=model.device,
        precision=model.precision,
    )


def _config(model: TextModel) -> Config:
    """Return what of a pipeline can be said as a configuration: its size and defaults."""
    channels, height, width = model.latent_shape
    tree = {
        "data": {"dataset": "FOLDER", "image_size": max(height, width), "channels": channels},
        "model": {"name": type(model.pipe).__name__},
        "diffusion": {"num_diffusion_timesteps": model.pipe.scheduler.config.num_train_timesteps},
        "training": {},
        "sampling": {"batch_size": 1, "guidance": model.default("guidance_scale", 1.0)},
        "optim": {},
    }
    return validate(tree, model.name)
