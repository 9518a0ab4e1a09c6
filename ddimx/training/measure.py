"""What is measured of a run beside its loss: the loss by time, and the distance to the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..config import Config
from ..data.arrays import Bytes
from ..data.examples import Examples
from ..device import sent
from ..models.process import Draws, Process
from ..progress import Progress

TIME_PARTS = 4  # equal parts of the schedule, from the least noise to the most


class LossesByTime:
    """Examples' losses by the part of the schedule in which their times lie.

    Times are drawn anew from their keys, so that the loss does not have to tell them. Of a process
    that cannot say them (:class:`ddimx.models.process.KnowsTimes`) nothing is noted.
    Sums stay on the device until :meth:`take`, and are taken step by step: neither how often one
    looks nor a resumption changes a bit.
    """

    def __init__(self, process: Process) -> None:
        """Note nothing yet."""
        self._shares: Callable[[Draws], Tensor] | None = getattr(process, "time_shares", None)
        self._parts: list[Tensor] = []  # of the step that is being computed
        self._steps: list[Tensor] = []

    def add(self, draws: Draws, losses: Tensor) -> None:
        """Note the losses [B] of the examples of ``draws``; nothing here waits for a GPU.

        They may be a part of a step's.
        """
        if self._shares is None:
            return
        part = (self._shares(draws) * TIME_PARTS).long().clamp(0, TIME_PARTS - 1)
        mask = nn.functional.one_hot(part, TIME_PARTS).to(torch.float32)
        on_device = sent(mask, losses.device)
        sums = (losses.detach().float()[:, None] * on_device).sum(dim=0)
        self._parts.append(torch.stack([sums, on_device.sum(dim=0)]))

    def end_step(self, total: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        """Sum what was noted of a step; ``total`` sums that of several processes."""
        if self._parts:
            self._steps.append(total(torch.stack(self._parts).sum(dim=0)))
            self._parts = []

    def take(self) -> list[tuple[list[float], list[int]]]:
        """Return sums and counts [TIME_PARTS] of every step since the last time."""
        if not self._steps:
            return []
        values: list[list[list[float]]] = torch.stack(self._steps).tolist()
        self._steps = []
        return [(sums, [round(count) for count in counts]) for sums, counts in values]


class Distance(Protocol):
    """Measures how far pictures are from the training images."""

    key: str  # under which the log has it: "fid", "frechet_distance"
    name: str  # what people call it

    def __call__(self, pictures: Iterator[Bytes], folder: Path) -> float:
        """Return the distance of pictures, uint8 [B, H, W, C], to the training images.

        Args:
            pictures: batches of them.
            folder: the run's, where the statistics of the training images are kept.

        Raises:
            DdimxError: there is none, as of pictures whose features are not finite.
        """
        ...


class OpenDistance(Protocol):
    """Opens what measures a run; the command line passes it in, for it lies above training."""

    def __call__(
        self,
        config: Config,
        source: Examples,
        device: torch.device,
        offline: bool,
        progress: Progress,
    ) -> Distance:
        """Return what measures a run of ``config`` that trains on ``source``.

        Raises:
            UsageError: an unknown network of features, or a package that is missing.
            DdimxError: its weights cannot be read or downloaded.
        """
        ...
