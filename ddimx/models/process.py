"""What training and sampling know of a diffusion: one seam for every kind of model.

A process turns clean examples into a loss, options into a plan, noise into samples, and samples
into files and pictures. The training loop, the sampling run and ``ddimx.sample`` call nothing else
of a model, so that a kind of model that they have never heard of trains and samples as ours do:
a network class from outside the package names its own process (:mod:`ddimx.models.factory`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..device import sent
from ..noise import Noise, Stream
from ..options import Options
from ..runs.sinks import Sink
from ..solvers.executor import Known
from ..solvers.schedule import Schedule
from ..solvers.table import AnyPlan


@dataclass(frozen=True)
class Draws:
    """Everything that randomness in one training step may depend on.

    Attributes:
        noise: the run's noise (its seed).
        positions: int64 [B], global positions of the examples since the start of training.
        step: the optimizer step.
        batch_size: the global batch, over all ranks; antithetic pairs are made within it.
    """

    noise: Noise
    positions: Tensor
    step: int
    batch_size: int


def drawn_timesteps(
    draws: Draws, total: int, shape: tuple[int, ...] = (), *, antithetic: bool = True
) -> Tensor:
    """Draw int64 [B, *shape] in 0..total-1; with ``antithetic`` halves of a batch pair t, T-1-t."""
    positions, mirror_mask = draws.positions, None
    if antithetic:
        half = (draws.batch_size + 1) // 2
        in_batch = positions % draws.batch_size
        mirror_mask = in_batch >= half
        positions = positions - in_batch + in_batch % half
    t = draws.noise.integers(
        positions, shape, high=total, row=draws.step, stream=Stream.TRAIN_TIMESTEP
    )
    if mirror_mask is None:
        return t
    return torch.where(mirror_mask.view(-1, *(1 for _ in shape)), total - 1 - t, t)


def drawn_labels(draws: Draws, label: Tensor, num_classes: int, dropout: float) -> Tensor:
    """Return the classes int64 [B], a share ``dropout`` of them replaced by "no class"."""
    chance = draws.noise.uniform(draws.positions, (), row=draws.step, stream=Stream.TRAIN_CLASS)
    return torch.where(sent(chance, label.device) < dropout, num_classes, label)


@dataclass(frozen=True)
class Given:
    """The inputs of a batch besides its noise, both on the device to compute on.

    Attributes:
        start: float32 [B, ...], the states to start from instead of noise (x_T).
        known: what is known of the results (inpainting).
    """

    start: Tensor | None = None
    known: Known | None = None


class Process(Protocol):
    """A forward process: its training loss, its plans, and the way from noise to files."""

    @property
    def draws(self) -> str:
        """What its samples are, in the plural: "images", "octrees"."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """The values of ``--format`` that :meth:`sink` knows; the first is the default."""
        ...

    @property
    def micro_batch(self) -> int:
        """How many samples ``--invariant`` computes together, always."""
        ...

    @property
    def even_rows(self) -> bool:
        """Whether all rows of a plan cost the same, so that a few tell the time of a run."""
        ...

    @property
    def fixed_shapes(self) -> bool:
        """Whether :func:`ddimx.solvers.executor.execute` runs the plan on states of one shape.

        Only then can an engine pack, capture or compile the network; without the attribute it
        runs as it is.
        """
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unconditional model."""
        ...

    @property
    def can_guide(self) -> bool:
        """Whether there is something that guidance leads towards: classes, or a text."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch; () where samples have no common shape."""
        ...

    @property
    def decoder_name(self) -> str | None:
        """What turns states into samples at the end; None where the states are such themselves."""
        ...

    @property
    def schedule(self) -> Schedule:
        """The forward process's noise levels."""
        ...

    @property
    def preview(self) -> Options:
        """The options of the few samples that training shows."""
        ...

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Return the loss of every example, float32 [B]."""
        ...

    def plan(self, options: Options) -> AnyPlan:
        """Return the plan that the options describe; what is None, the model's defaults decide.

        Raises:
            UsageError: options that exclude each other, or that no plan meets.
        """
        ...

    def run(
        self,
        network: nn.Module,
        plan: Any,
        indices: Tensor,
        noise: Noise,
        *,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        given: Given | None = None,
    ) -> Iterator[Any]:
        """Run a plan of :meth:`plan` for a batch and yield a step after every row.

        Args:
            network: as :func:`ddimx.models.factory.build` makes it.
            plan: the plan.
            indices: int64 [B], the samples' indices, on the device to compute on. A sample is a
                function of seed, index, plan and class alone, not of its place in the batch.
            noise: the seed.
            labels: int64 [B] classes; ``num_classes`` stands for no class.
            guidance: the weight of classifier-free guidance; 1 is off.
            given: a start or known parts.

        Raises:
            UsageError: an input that this process does not support.
        """
        ...

    def finish(self, step: Any) -> Sequence[Any]:
        """Return the B samples that a run's last step holds, on the CPU.

        Tensors of one shape, float32, if the samples are such; ``ddimx.sample`` stacks them.
        """
        ...

    def sink(
        self,
        folder: Path,
        kind: str,
        *,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
    ) -> Sink:
        """Return what writes samples into a run's folder and knows which are there.

        Args:
            folder: the run's.
            kind: one of :attr:`formats`.
            classes: the classes' names, by label.
            about: model, seed and options in words, for formats that can carry them.
        """
        ...

    def picture(self, sample: Any) -> npt.NDArray[np.uint8]:
        """Return what a person sees of a sample, uint8 [H, W, C]."""
        ...

    def bytes_per_sample(self, network: Callable[[], nn.Module], guidance: float) -> int | None:
        """Return the peak bytes of one sample in a batch, None where it cannot be known in advance.

        Args:
            network: returns the network in the precision of the run, on the meta device or on
                the CPU.
            guidance: as of :meth:`run`.
        """
        ...


class KnowsTimes(Protocol):
    """What a process may have besides: training then notes its losses by time."""

    def time_shares(self, draws: Draws) -> Tensor:
        """Return where on the schedule the examples of a training step lie: float64 [B].

        From 0, clean, to 1; the same draws as :meth:`Process.loss` makes. Of octrees, whose levels
        have times of their own, it is the finest level's.
        """
        ...
