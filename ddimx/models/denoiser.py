"""The one wrapper between solvers and networks: precision, conditioning and guidance."""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..solvers.executor import Raw
from ..solvers.schedule import Schedule


class Denoiser:
    """Call a network at (y, t) in its own dtype, for given classes, twice under guidance."""

    def __init__(
        self,
        network: nn.Module,
        *,
        schedule: Schedule | None = None,
        labels: Tensor | None = None,
        null_label: int | None = None,
        guidance: float = 1.0,
    ) -> None:
        """Wrap ``network``.

        Args:
            schedule: says what the network is given as its input and its time; None: y and t.
            labels: int64 [B] classes, or None for a model without (or without class).
            null_label: the label that stands for "no class"; needed for guidance.
            guidance: g in ``uncond + g (cond - uncond)``; 1 is off and costs nothing.

        Raises:
            UsageError: guidance without classes to guide towards.
        """
        if guidance != 1.0 and (labels is None or null_label is None):
            raise UsageError("guidance needs a class-conditional model and a category")
        self._network = network
        self._schedule = schedule
        self._labels = labels
        self._null = null_label
        self.guidance = guidance
        self._dtype = next(network.parameters()).dtype

    def __call__(self, y: Tensor, t: Tensor) -> Raw:
        """Evaluate at y [B, ...] and t [B]; the raw outputs keep the network's dtype."""
        if self.guidance == 1.0 or self._labels is None:
            return self.unguided(y, t)
        y, t = self._input(y, t)
        null = torch.full_like(self._labels, self._null or 0)
        both = self._network(torch.cat([y, y]), torch.cat([t, t]), torch.cat([self._labels, null]))
        out, uncond = both.chunk(2)
        return Raw(out, uncond)

    def unguided(self, y: Tensor, t: Tensor) -> Raw:
        """Evaluate at y [B, ...] and t [B] with the classes alone: one pass."""
        y, t = self._input(y, t)
        if self._labels is None:
            return Raw(self._network(y, t), None)
        return Raw(self._network(y, t, self._labels), None)

    @property
    def form(self) -> Hashable:
        """What a captured call depends on besides shapes; see :mod:`ddimx.solvers.graphs`."""
        return id(self._schedule), self._null, self.guidance != 1.0, self._labels is None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The classes, where there are any."""
        return () if self._labels is None else (self._labels,)

    def own(self) -> Denoiser:
        """Return the same with classes of its own, which others may be copied into."""
        mine = copy(self)
        mine._labels = None if self._labels is None else self._labels.clone()
        return mine

    def _input(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network is given, in its dtype, images in NHWC memory."""
        if self._schedule is not None:
            y, t = network_input(self._schedule, y, t)
        y = y.to(self._dtype)
        if y.dim() == 4:
            y = y.contiguous(memory_format=torch.channels_last)
        return y, t


def network_input(schedule: Schedule, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a network is given at states y [B, ...] and times t [B] of a process."""
    scale = schedule.input_scale(t)
    if scale is not None:
        y = y * scale.to(y.dtype).view(-1, *(1 for _ in y.shape[1:]))
    return y, schedule.network_time(t)
