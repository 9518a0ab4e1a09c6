"""The Gaussian process of latents, which a decoder turns into pictures at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..config import DataConfig
from ..errors import UsageError
from ..pixels import to_bytes
from ..runs.sinks import Sink, open_sink
from ..solvers.executor import Step
from .gaussian import GaussianProcess
from .process import Draws

Decode = Callable[[Tensor], Tensor]
_PIXELS = DataConfig(dataset="FOLDER", image_size=1, channels=3)  # they lie in [-1, 1]


def _nothing(latents: Tensor) -> Tensor:
    raise NotImplementedError  # a process of latents is made with a decoder


@dataclass(frozen=True, eq=False)
class LatentProcess(GaussianProcess):
    """A process whose states are latents, and whose samples are pictures.

    ``shape`` is that of the latents: of x_T, and of what the network sees.

    Attributes:
        decode: turns latents float32 [1, C, H, W] on the CPU into pictures [1, C', H', W'] in
            about [-1, 1].
        part: what decodes, for messages.
    """

    decode: Decode = _nothing
    part: str = "decoder"

    @classmethod
    def of(cls, process: GaussianProcess, decode: Decode, part: str) -> LatentProcess:
        """Return a process with a decoder behind it."""
        values = {field.name: getattr(process, field.name) for field in fields(process)}
        return cls(**values, decode=decode, part=part)

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
        return torch.cat([self.decode(latents[i : i + 1]) for i in range(len(latents))])

    def sink(
        self,
        folder: Path,
        kind: str,
        *,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
    ) -> Sink:
        """Return what writes pictures, or one array of them."""
        return open_sink(kind, folder, _PIXELS, classes, about)

    def picture(self, sample: Tensor) -> npt.NDArray[np.uint8]:
        """Return a picture [C', H', W'] as uint8 [H', W', C']."""
        pixels: npt.NDArray[np.uint8] = to_bytes(sample[None], _PIXELS)[0].numpy()
        return pixels


def refuse_latents(process: object, name: str, what: str) -> None:
    """Raise UsageError if a model draws latents, for what looks at its states as pictures."""
    if isinstance(process, LatentProcess):
        raise UsageError(
            f"{what}: model '{name}' draws latents, which its {process.part} turns into pictures "
            "at the end; ddimx sample and evaluate fid take such models, and nothing else"
        )
