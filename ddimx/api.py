"""The package in Python: the same code that the command line calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .config import DataConfig
from .discrete.executor import TokenStep
from .editing.api import encode, inpaint, interpolate
from .errors import UsageError
from .exporting.api import export
from .models.octree.process import DiscreteProcess
from .octree.tree import Octree
from .options import Options
from .pixels import to_bytes
from .runs.pictures import as_image
from .sampling.batch import Inputs, checked_state, finish_all, run_batch
from .sampling.engine import choose_engine
from .sampling.profile import Profile
from .sampling.settings import DEFAULT_COUNT, SampleOptions, Settings, resolve
from .solvers.executor import Step
from .splats.preview.render import render_thumbnail
from .weights.model import Model, load_model

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Model",
    "Octree",
    "Profile",
    "SampleOptions",
    "Step",
    "TokenStep",
    "encode",
    "export",
    "inpaint",
    "interpolate",
    "load_model",
    "sample",
    "sample_shapes",
    "stream",
    "stream_shapes",
    "to_pil",
]


def sample(
    model: Model | str | Path = "emoji",
    *,
    count: int = DEFAULT_COUNT,
    start: Tensor | None = None,
    **options: Unpack[SampleOptions],
) -> Any:
    """Draw ``count`` samples and return them.

        images = ddimx.sample("emoji", count=4, category=["animals", "food/fruit", "flags", "none"])
        trees = ddimx.sample("furniture", count=4, category="chair")

    Args:
        model: from :func:`load_model`, or what that takes. Load a model once for several calls.
        count: how many; they are the sample indices ``start_index`` to ``start_index + count - 1``
            of ``seed``, the same whatever the batch size.
        start: x_T to start from, float [count, C, H, W], instead of noise drawn from the seed; for
            models of images.
        **options: see :class:`SampleOptions`. ``category`` is a class for all samples, or a
            sequence with one for each; "none" is no class.

    Returns:
        Of a model of images a float32 tensor [count, C, H, W] on the CPU, in the network's range
        ([-1, 1] for nearly all models; :func:`to_pil` makes pictures of it). Of a model of octrees
        a list of :class:`Octree`, which :func:`export` takes.

    Raises:
        UsageError: an unknown option, one out of range or for another kind of model, or a
            ``start`` of another shape.
        DdimxError: the model cannot be loaded, or not even one sample fits into memory.
    """
    loaded, settings, inputs = _prepare(model, count, start, options)
    samples = finish_all(loaded, settings, settings.indices, inputs=inputs)
    return torch.stack(samples) if isinstance(samples[0], Tensor) else samples


def stream(
    model: Model | str | Path = "emoji",
    *,
    count: int = 1,
    start: Tensor | None = None,
    **options: Unpack[SampleOptions],
) -> Iterator[Any]:
    """Draw ``count`` samples together and yield a step after every row of the plan.

    Of a model of images a :class:`Step`: it holds the state ``x`` and the prediction of clean data
    ``x0``, and the last step's ``y`` is the result. Of a model of octrees a :class:`TokenStep`.
    Memory does not grow with the number of steps. Arguments and errors as for :func:`sample`.
    """
    loaded, settings, inputs = _prepare(model, count, start, options)
    together = replace(settings, batch_size=settings.count)
    engine = choose_engine(loaded, together)
    return run_batch(loaded, settings, settings.indices, inputs, engine)


def to_pil(samples: Any) -> Any:
    """Return samples as PIL images: one for a single sample, a list for several.

    Args:
        samples: images float [C, H, W] or [N, C, H, W] in [-1, 1], with 1 to 4 channels; an octree
            or several, which are drawn as the previews of ``ddimx sample`` are.

    Raises:
        UsageError: something else.
    """
    if isinstance(samples, Octree):
        return as_image(render_thumbnail(samples))
    if isinstance(samples, np.ndarray):
        samples = torch.tensor(samples)
    if isinstance(samples, list | tuple):
        return [to_pil(sample) for sample in samples]
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        raise UsageError(
            "to_pil takes images as floating point tensors or arrays, octrees, or a list of them; "
            f"got {type(samples).__name__}"
        )
    if samples.dim() not in (3, 4) or not 1 <= samples.shape[-3] <= 4:
        raise UsageError(f"images have shape {tuple(samples.shape)}, expected [N, 1 to 4, H, W]")
    if samples.dim() == 4:
        return [to_pil(sample) for sample in samples]
    channels, height, width = samples.shape
    data = DataConfig(dataset="", image_size=max(height, width), channels=channels)
    return as_image(to_bytes(samples[None].cpu(), data)[0].numpy())


def sample_shapes(model: Model, *, count: int = 16, **options: Any) -> list[Octree]:
    """Draw octrees: the old name of :func:`sample`, which serves both kinds of model."""
    _warn_of_old_name("sample_shapes", "sample")
    DiscreteProcess.of(model.process, "ddimx.sample_shapes")
    trees: list[Octree] = sample(model, count=count, **options)
    return trees


def stream_shapes(model: Model, *, count: int = 1, **options: Any) -> Iterator[TokenStep]:
    """Draw octrees row by row: the old name of :func:`stream`, which serves both kinds of model."""
    _warn_of_old_name("stream_shapes", "stream")
    DiscreteProcess.of(model.process, "ddimx.stream_shapes")
    return stream(model, count=count, **options)


def _prepare(
    model: Model | str | Path, count: int, start: Tensor | None, options: Any
) -> tuple[Model, Settings, Inputs]:
    """Load a model where it is named, check the options, and return what a batch needs."""
    wishes = Options.of({**options, "count": count})
    loaded = model if isinstance(model, Model) else load_model(model)
    settings = resolve(wishes, loaded)
    if start is None:
        return loaded, settings, Inputs()
    states, first = (
        checked_state(start, (count, *loaded.process.shape), "start"),
        settings.start_index,
    )
    return loaded, settings, Inputs(start=lambda samples: states[[i - first for i in samples]])


def _warn_of_old_name(old: str, new: str) -> None:
    message = f"ddimx.{old} is now ddimx.{new}; the old name goes with version 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
