"""What training and sampling know of a diffusion: one seam for Gaussian and discrete kinds.

A process turns clean examples into a loss, and noise into samples. The training loop and the
sampling run call nothing else, so that a token model needs neither a second loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..noise import Noise, Stream
from ..solvers.executor import Draw, Known, Step
from ..solvers.plan import Plan
from ..solvers.registry import SolverChoice
from ..solvers.schedule import Schedule
from ..solvers.timesteps import Times


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
    positions, mirrored = draws.positions, None
    if antithetic:
        half = (draws.batch_size + 1) // 2
        place = positions % draws.batch_size
        mirrored = place >= half
        positions = positions - place + place % half
    t = draws.noise.integers(
        positions, shape, high=total, row=draws.step, stream=Stream.TRAIN_TIMESTEP
    )
    if mirrored is None:
        return t
    return torch.where(mirrored.view(-1, *(1 for _ in shape)), total - 1 - t, t)


def drawn_labels(draws: Draws, label: Tensor, num_classes: int, dropout: float) -> Tensor:
    """Return the classes int64 [B], a share ``dropout`` of them replaced by "no class"."""
    chance = draws.noise.uniform(draws.positions, (), row=draws.step, stream=Stream.TRAIN_CLASS).to(
        label.device
    )
    return torch.where(chance < dropout, num_classes, label)


class Process(Protocol):
    """A forward process: its training loss, its plans and the way from noise to samples."""

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unconditional model."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""
        ...

    @property
    def schedule(self) -> Schedule:
        """The forward process's noise levels."""
        ...

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Return the loss of every example, float32 [B]."""
        ...

    def plan(self, choice: SolverChoice, times: Times) -> Plan:
        """Return a solver's plan over ascending times."""
        ...

    def prior(self, noise: Noise, samples: Tensor, device: torch.device) -> Tensor:
        """Draw the starting state of the given sample indices."""
        ...

    def sample(
        self,
        network: nn.Module,
        plan: Plan,
        start: Tensor,
        draw: Draw,
        *,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
    ) -> Iterator[Step]:
        """Run a plan and yield after every row; the last step's ``y`` is the result."""
        ...
