"""Training batches by global position, read some steps ahead in a thread."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..categories import classes_within
from ..config import DataConfig
from ..noise import Noise, Stream
from ..pixels import to_network
from .arrays import Bytes, Integers
from .images.encoded import EncodedSource
from .images.sources import ImageSource
from .order import Order, order_of

Batch = dict[str, Tensor]
Content = TypeVar("Content")
READ_AHEAD = 4  # batches: evens out images that take long to read or to decode


def divided(positions: Tensor, batch: Batch, parts: int) -> list[tuple[Tensor, Batch]]:
    """Divide a batch of images or octrees into at most ``parts`` parts of nearly equal counts.

    Args:
        positions: int64 [B].
        batch: as :meth:`BatchStream.batch` makes it.
        parts: how many; where there are fewer examples, each is a part.

    Returns:
        The positions and the batch of every part, in their order.
    """
    total = len(positions)
    parts = min(parts, total)
    if parts <= 1:
        return [(positions, batch)]
    ends = torch.zeros(total + 1, dtype=torch.int64)  # where an example begins, and the last ends
    if "counts" in batch:  # of octrees: tokens lie one shape after the other
        ends[1:] = batch["counts"].sum(dim=1).cumsum(0)
    tokens = ("ids", "keys") if "counts" in batch else ()
    result = []
    for part in range(parts):
        first, end = total * part // parts, total * (part + 1) // parts
        own = {
            name: value[ends[first] : ends[end]] if name in tokens else value[first:end]
            for name, value in batch.items()
        }
        result.append((positions[first:end], own))
    return result


class BatchStream(ABC, Generic[Content]):
    """Batches as a function of the step, read some steps ahead in a thread.

    ``order`` maps positions to examples. ``waited`` is the time in seconds that the caller of
    ``steps`` has spent for want of a batch: waiting for its bytes and turning them into the
    network's numbers.
    """

    def __init__(self, order: Order, batch_size: int, part: tuple[int, int] = (0, 1)) -> None:
        """Lay out the epochs of ``order`` over steps of ``batch_size`` examples.

        Args:
            part: which part of how many is read of every step: a rank, and the number of ranks.
        """
        self.order, self.waited, self._size = order, 0.0, batch_size
        rank, count = part
        self._own = batch_size * rank // count, batch_size * (rank + 1) // count

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, Tensor, Batch]]:
        """Yield (step, positions int64 [B], batch) for the steps in [start, stop).

        The thread only reads: a second thread that called PyTorch's operators would bring its own
        OpenMP team, and with more threads than cores the first team stops spinning between
        operators (measured on 2 cores: 37 instead of 90
        images a second).
        """
        with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
            coming = iter(range(start, stop))
            ahead = deque(pool.submit(self._read, step) for step in islice(coming, READ_AHEAD))
            try:
                for step in range(start, stop):
                    start_seconds = time.perf_counter()
                    indices, content = ahead.popleft().result()
                    ahead.extend(pool.submit(self._read, step) for step in islice(coming, 1))
                    positions = torch.from_numpy(self._positions(step))
                    batch = self._transformed(indices, content, positions, step)
                    self.waited += time.perf_counter() - start_seconds
                    yield step, positions, batch
            finally:
                for future in ahead:  # leaving early should not wait for batches that nobody takes
                    future.cancel()

    def batch(self, step: int) -> tuple[Tensor, Batch]:
        """Build the batch of one step: positions int64 [B] and the tensors by name."""
        indices, content = self._read(step)
        positions = torch.from_numpy(self._positions(step))
        return positions, self._transformed(indices, content, positions, step)

    def _positions(self, step: int) -> Integers:
        first, end = self._own
        return step * self._size + np.arange(first, end, dtype=np.int64)

    @abstractmethod
    def _read(self, step: int) -> tuple[Integers, Content]:
        """Return a step's examples: their indices, and what is read of them, in the thread."""

    @abstractmethod
    def _transformed(
        self, indices: Integers, content: Content, positions: Tensor, step: int
    ) -> Batch:
        """Turn what was read into the network's numbers."""


class Batches(BatchStream[Bytes]):
    """Batches of images: ``x`` [B, C, H, W] and, where there are labels, ``label`` [B]."""

    def __init__(
        self,
        source: ImageSource,
        data: DataConfig,
        noise: Noise,
        batch_size: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Lay out the epochs of ``source`` over steps of ``batch_size`` examples."""
        super().__init__(order_of(source, data.balance, noise), batch_size, part)
        self._source, self._data, self._noise = source, data, noise
        self._flips: Tensor | None = None  # bool, by label; None: all
        if data.unflipped:
            self._flips = torch.ones(len(source.classes), dtype=torch.bool)
            for word in data.unflipped:
                self._flips[classes_within(source.classes, word)] = False

    def _read(self, step: int) -> tuple[Integers, Bytes]:
        indices = self.order.indices(self._positions(step))
        if isinstance(self._source, EncodedSource):
            return indices, self._source.drawn(indices)
        return indices, self._source.images(indices)

    def _transformed(
        self, indices: Integers, content: Bytes, positions: Tensor, step: int
    ) -> Batch:
        pixels = torch.from_numpy(content)
        if self._data.random_flip:
            chance = self._noise.uniform(positions, (1, 1, 1), row=step, stream=Stream.TRAIN_FLIP)
            flips = chance <= 0.5
            if self._flips is not None and self._source.labels is not None:
                flips &= self._flips[self._source.labels[indices]].view(-1, 1, 1, 1)
            pixels = torch.where(flips, pixels.flip(2), pixels)
        x = to_network(pixels, self._data, self._dequantize(pixels, positions, step))
        batch = {"x": x.contiguous(memory_format=torch.channels_last)}
        if self._source.labels is not None:
            batch["label"] = torch.from_numpy(self._source.labels[indices])
        return batch

    def _dequantize(self, pixels: Tensor, positions: Tensor, step: int) -> Tensor | None:
        _, height, width, channels = pixels.shape
        shape = (channels, height, width)
        stream = Stream.TRAIN_DEQUANTIZE
        if self._data.uniform_dequantization:
            return self._noise.uniform(positions, shape, row=step, stream=stream)
        if self._data.gaussian_dequantization:
            return self._noise.normal(positions, shape, row=step, stream=stream)
        return None
