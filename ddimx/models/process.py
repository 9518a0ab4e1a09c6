"""What training and sampling know of a diffusion: one seam for Gaussian and discrete kinds.

A process turns clean examples into a loss, and noise into samples. The training loop and the
sampling run call nothing else, so that a token model needs neither a second loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ..noise import Noise


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


class Process(Protocol):
    """A forward process with its training loss."""

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Return the loss of every example, float32 [B]."""
        ...
