"""The package in Python: the same code that the command line calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from .discrete.executor import TokenStep
from .editing.api import encode, inpaint, interpolate
from .errors import UsageError
from .exporting.api import export
from .models.octree.process import DiscreteProcess
from .octree.tree import Octree
from .sampling.batch import NOTHING, Given, finish_all, finish_tokens, run_batch, run_tokens
from .sampling.settings import Asked, resolve
from .solvers.executor import Step
from .weights.model import Model, load_model

__all__ = [
    "Model",
    "Octree",
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
]


def sample(model: Model, *, count: int = 16, start: Tensor | None = None, **options: Any) -> Tensor:
    """Draw ``count`` samples and return them, float32 [count, C, H, W] in the network's range.

    Args:
        model: from :func:`load_model`.
        count: how many; they are the sample indices ``start_index`` to ``start_index + count - 1``
            of ``seed``, the same whatever the batch size.
        start: x_T to start from, [count, C, H, W], instead of noise drawn from the seed.
        **options: the fields of :class:`ddimx.sampling.settings.Asked`: ``steps``, ``eta``,
            ``solver``, ``spacing``, ``timesteps``, ``nfe``, ``plan``, ``clip``, ``guidance``,
            ``category``, ``seed``, ``start_index``, ``batch_size``, ``invariant``.

    Raises:
        UsageError: an option out of range, or ``start`` of another shape.
    """
    settings = resolve(Asked(count=count, **options), model)
    _check_start(start, (count, *model.process.shape))
    given = NOTHING if start is None else Given(start=_chooser(start, settings.indices))
    return finish_all(model, settings, settings.indices, given=given)


def stream(
    model: Model, *, count: int = 1, start: Tensor | None = None, **options: Any
) -> Iterator[Step]:
    """Draw ``count`` samples together and yield a :class:`Step` after every row of the plan.

    A step holds the state ``x`` and the prediction of clean data ``x0``; the last step's ``y`` is
    the result. Options as for :func:`sample`. Memory does not grow with the number of steps.
    """
    settings = resolve(Asked(count=count, **options), model)
    _check_start(start, (count, *model.process.shape))
    given = NOTHING if start is None else Given(start=_chooser(start, settings.indices))
    return run_batch(model, settings, settings.indices, given)


def sample_shapes(model: Model, *, count: int = 16, **options: Any) -> list[Octree]:
    """Draw ``count`` octrees from a token model.

        trees = ddimx.sample_shapes(ddimx.load_model("furniture"), count=4, category="chair")
        ddimx.export(trees, "chairs", format="3dgs")

    Args:
        model: from :func:`load_model`.
        count: how many; the sample indices are as for :func:`sample`.
        **options: fields of :class:`ddimx.sampling.settings.Asked`: ``steps`` (per level),
            ``nfe``, ``solver``, ``eta``, ``transition``, ``routing``, ``temperature``,
            ``spacing``, ``guidance``, ``category``, ``seed``, ``start_index``, ``batch_size``,
            ``invariant``.

    Raises:
        UsageError: an option out of range, or a model of images.
    """
    settings = resolve(Asked(count=count, **options), _token_model(model))
    trees = []
    for first in range(0, count, settings.batch_size):
        indices = settings.indices[first : first + settings.batch_size]
        trees += finish_tokens(model, settings, indices)
    return trees


def stream_shapes(model: Model, *, count: int = 1, **options: Any) -> Iterator[TokenStep]:
    """Draw ``count`` octrees together and yield a :class:`TokenStep` after every row of the plan.

    Options and errors as for :func:`sample_shapes`.
    """
    settings = resolve(Asked(count=count, **options), _token_model(model))
    return run_tokens(model, settings, settings.indices)


def _token_model(model: Model) -> Model:
    if not isinstance(model.process, DiscreteProcess):
        raise UsageError(f"'{model.name}' is a model of images: use ddimx.sample")
    return model


def _check_start(start: Tensor | None, shape: tuple[int, ...]) -> None:
    if start is not None and start.shape != shape:
        raise UsageError(f"start has shape {tuple(start.shape)}, expected {shape}")


def _chooser(states: Tensor, indices: Sequence[int]) -> Any:
    place = {index: i for i, index in enumerate(indices)}
    return lambda wanted: states[[place[i] for i in wanted]]
