"""One batch of samples: from indices to results, whatever the model draws and the batch's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..models.process import Given
from ..octree.clean import cleaned
from ..runs.batches import in_batches
from ..solvers.executor import Known
from ..timing import timed
from ..weights.model import Model
from .engine import Engine, choose_engine
from .profile import Profile
from .settings import Settings, labels_for

Start = Callable[[Sequence[int]], Tensor]
AfterRow = Callable[[Any, Sequence[int]], None]


@dataclass(frozen=True)
class Inputs:
    """The inputs of samples besides the seed and their own index.

    Attributes:
        start: returns the starting states [B, ...] of sample indices, where they are not drawn.
        known: returns the known pixels of sample indices, on the CPU.
        noise_index: the index whose noise and class a sample has, where that is not its own:
            variant 3 of every image of a folder has the noise of sample 3.
    """

    start: Start | None = None
    known: Callable[[Sequence[int]], Known] | None = None
    noise_index: Callable[[int], int] | None = None

    def keys(self, samples: Sequence[int]) -> list[int]:
        """Return the noise indices of samples."""
        return list(samples if self.noise_index is None else map(self.noise_index, samples))

    def of_batch(self, samples: Sequence[int], device: torch.device) -> Given | None:
        """Return the inputs of these samples on a device, or None if they have none."""
        if self.start is None and self.known is None:
            return None
        start = None if self.start is None else self.start(samples).to(device, torch.float32)
        known = None if self.known is None else self.known(samples)
        if known is not None:
            pixels = known.pixels.to(device, torch.float32)
            known = Known(pixels, known.mask.to(pixels))
        return Given(start, known)


NOTHING = Inputs()


def checked_state(value: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """Return a tensor or array as float32 on the CPU.

    Args:
        value: floating point, of that shape.
        shape: of a sample, or of a batch of them.
        what: what the message calls it.

    Raises:
        UsageError: something else, another shape, or values that are not finite.
    """
    state = torch.tensor(value) if isinstance(value, np.ndarray) else value
    if not isinstance(state, Tensor):
        raise UsageError(f"{what} must be a tensor or an array, got {type(value).__name__}")
    if state.shape != shape:
        raise UsageError(f"{what} has shape {tuple(state.shape)}, expected {shape}")
    if not state.is_floating_point() or not bool(torch.isfinite(state).all()):
        raise UsageError(f"{what} must hold finite floating point numbers")
    return state.to("cpu", torch.float32)


def run_batch(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    inputs: Inputs = NOTHING,
    engine: Engine | None = None,
) -> Iterator[Any]:
    """Yield the process's steps of sampling these indices together, plainly without an engine."""
    keys = inputs.keys(samples)
    if engine is not None:
        engine.begin_batch()
    labels = labels_for(settings, model, keys)
    steps = model.process.run(
        model.network if engine is None else engine.network,
        settings.plan,
        torch.tensor(keys, dtype=torch.int64, device=model.device),
        settings.noise,
        labels=None if labels is None else labels.to(model.device),
        guidance=settings.guidance,
        given=inputs.of_batch(samples, model.device),
    )
    profile = Profile.current()
    if profile is None:
        return steps
    profile.device = model.device
    return profile.traced(steps, len(settings.plan), even=model.process.even_rows)


def finish_batch(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    *,
    inputs: Inputs = NOTHING,
    after_row: AfterRow | None = None,
    engine: Engine | None = None,
) -> list[Any]:
    """Return the samples of these indices, on the CPU.

    With ``settings.invariant`` they are computed in micro-batches of the process's size, sample i
    always at place i mod that size, so that a sample's bits do not depend on its company. The
    bits of a row of a matrix product depend on the row's place: on Intel CPUs without AVX-512, MKL
    computes the last two of eight rows otherwise than the first six. A place without a sample
    repeats one.

    ``after_row`` is called with every step and the indices of the samples it is of.
    """
    size = model.process.micro_batch
    results: list[Any] = []
    for part in _micro_batches(samples, size) if settings.invariant else [list(samples)]:
        batch, places = part, list(range(len(part)))
        if settings.invariant:
            at_place = {i % size: i for i in part}
            batch = [at_place.get(place, part[0]) for place in range(size)]
            places = [i % size for i in part]
        step = None
        for step in run_batch(model, settings, batch, inputs, engine):
            if after_row is not None:
                after_row(step if batch == part else step.at(places), part)
        assert step is not None  # a plan has at least one row
        with timed("decoding"):
            outputs = model.process.finish(step)
            if settings.clean:
                outputs = [cleaned(tree) for tree in outputs]
        results += [outputs[place] for place in places]
    return results


def finish_all(
    model: Model,
    settings: Settings,
    samples: Sequence[int],
    *,
    inputs: Inputs = NOTHING,
    after_row: AfterRow | None = None,
) -> list[Any]:
    """Return any number of samples, in batches.

    They are of the settings' size, or smaller where the device's memory does not suffice.

    Raises:
        UsageError: the settings name an engine that cannot run here.
        DdimxError: not even one sample, or micro-batch, fits.
    """
    engine = choose_engine(model, settings, len(samples))

    def draw(batch: Sequence[int]) -> list[Any]:
        return finish_batch(
            model, settings, batch, inputs=inputs, after_row=after_row, engine=engine
        )

    batches = in_batches(
        samples, settings.batch_size, draw, indivisible=indivisible(model, settings)
    )
    return [sample for _, results in batches for sample in results]


def indivisible(model: Model, settings: Settings) -> str | None:
    """Return why smaller batches would not need less memory, if so."""
    if not settings.invariant:
        return None
    size = model.process.micro_batch
    if size == 1:
        return "not even one sample fits into the device's memory"
    return (
        f"the {size} samples that --invariant computes together do not fit into the device's memory"
    )


def _micro_batches(samples: Sequence[int], size: int) -> list[list[int]]:
    """Divide samples into groups in which no two have the same place, keeping their order."""
    groups: list[list[int]] = []
    places: set[int] = set()
    for i in samples:
        place = i % size
        if not groups or place in places:
            groups.append([])
            places = set()
        groups[-1].append(i)
        places.add(place)
    return groups
