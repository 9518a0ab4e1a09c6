"""The Gaussian process of latents, which a decoder turns into pictures at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..pixels import PICTURES
from ..solvers.executor import Step
from .gaussian import GaussianProcess
from .process import Draws


class LatentDecoder(Protocol):
    """What turns latents into pictures."""

    @property
    def name(self) -> str:
        """What it is, for messages."""
        ...

    def __call__(self, latents: Tensor) -> Tensor:
        """Return pictures [1, C', H', W'] in about [-1, 1], on the CPU.

        ``latents``: float32 [1, C, H, W] on the CPU.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentProcess(GaussianProcess):
    """A process whose states are latents, and whose samples are the pictures of a decoder.

    ``shape`` is that of the latents: of x_T, and of what the network sees; ``data`` says how the
    pictures become pixels.
    """

    decoder: LatentDecoder

    @classmethod
    def of(cls, process: GaussianProcess, decoder: LatentDecoder) -> LatentProcess:
        """Return a process with a decoder behind it."""
        values = {field.name: getattr(process, field.name) for field in fields(process)}
        return cls(**{**values, "data": PICTURES}, decoder=decoder)

    @property
    def decoder_name(self) -> str:
        """The decoder's name, for messages."""
        return self.decoder.name

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Refuse: the pictures of a data set are no latents.

        Raises:
            UsageError: always.
        """
        raise UsageError("models of latents are not trained here")

    def finish(self, step: Step) -> Tensor:
        """Return the pictures float32 [B, C', H', W'] on the CPU, decoded one by one.

        So memory does not grow with the batch, nor do a picture's bits depend on it.
        """
        latents = super().finish(step)
        return torch.cat([self.decoder(latents[i : i + 1]) for i in range(len(latents))])
