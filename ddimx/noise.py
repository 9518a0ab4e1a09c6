"""Noise that belongs to the sample.

Every draw is a function of (seed, sample, row, stream, element): neither the batch size, the
device, the rank nor where a run was resumed enters. The words come from Philox-4x32-10
(:mod:`ddimx.kernels.philox`); this module names the streams and checks the arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import torch
from torch import Tensor

from ddimx.errors import UsageError
from ddimx.kernels import philox

Samples: TypeAlias = Tensor | Sequence[int]


class Stream(IntEnum):
    """What a draw is for: the fourth word of the counter.

    The numbers are a format, as seeds and checkpoints depend on them: never renumber, only add.
    Ids from 2^16 on belong to :func:`dropout_stream`.
    """

    INIT = 0  # x_T, the starting noise
    STEP = 1  # the noise a sampler adds in one row of its plan
    KNOWN = 2  # inpainting: the noise that brings the known part to the level of the row
    TOKEN = 3  # discrete diffusion: class, route, noise id and tie-break of one token
    TRAIN_TIMESTEP = 4  # the timestep of a training example
    TRAIN_NOISE = 5  # the noise added to a training example
    TRAIN_FLIP = 6  # whether a training example is mirrored
    TRAIN_DROPOUT = 7  # dropout with no layer of its own; layers use dropout_stream
    TRAIN_ORDER = 8  # the order in which a pass visits the training set
    TRAIN_CLASS = 9  # whether the class label is dropped, for classifier-free guidance
    TRAIN_DEQUANTIZE = 10  # the offset inside one 8-bit level
    CATEGORY = 11  # the class a sample is drawn for when none is asked for
    TRAIN_SCALE = 12  # by how much the axes of a training shape are scaled
    TRAIN_PARENT = 13  # which tokens of the coarser levels are shown wrong, and which bit
    TRAIN_TRANSITION = 14  # the kind of noise of a training example, where there are several
    TRAIN_DRAWING = 15  # whether an example is shown parents that the model draws, and which
    EVALUATE = 32  # measuring a model on an image; the row says which draw (evaluation.bits)
    POINTS = 33  # points inside a shape's cells (evaluation.shapes)
    SUBSET = 34  # which shapes of the larger set are compared
    BOOTSTRAP = 35  # shapes drawn again for an interval


DROPOUT_STREAMS = 2**16


def dropout_stream(layer: int) -> int:
    """Return the stream of a dropout layer: 2^16 + its index in the model, 0 <= layer < 2^31."""
    if not 0 <= layer < 2**31:
        raise UsageError(f"dropout layer is {layer}, outside 0..2^31-1")
    return DROPOUT_STREAMS + layer


@dataclass(frozen=True, slots=True)
class Noise:
    """All the random numbers of one seed.

    Every method takes ``samples``, the indices [B] of the samples in 0..2^32-1 (an integer tensor,
    a range or another sequence of ints), the ``shape`` of one sample, and where the draw is:
    ``row``, the ordinal of the plan's row or training step (an int, or an integer tensor that
    broadcasts to [B]), and ``stream``. The result is [B, *shape] on ``device``, which is by default
    that of ``samples`` (the CPU for a sequence).

    Values on an accelerator are not range-checked, for that would wait for the device; only their
    low 32 bits count there.

    Raises:
        UsageError: if the seed, an index, a row, a stream, a shape or ``high`` is out of range.
    """

    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed is {self.seed}, outside 0..2^64-1")

    def key_bits(self, device: torch.device | str | None = None) -> Tensor:
        """Return the seed's bits as a 0-d int64 tensor; seeds from 2^63 on have no positive one."""
        return torch.tensor(self.seed - (self.seed >> 63 << 64), dtype=torch.int64, device=device)

    def normal(
        self,
        samples: Samples,
        shape: tuple[int, ...],
        *,
        row: int | Tensor = 0,
        stream: int = Stream.INIT,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw standard normals [B, *shape], computed in float32 and then cast to ``dtype``."""
        index, row = _address(samples, row, stream, device)
        flat = philox.normal(self.seed, index, row, int(stream), _numel(shape), dtype=dtype)
        return flat.view(len(index), *shape)

    def uniform(
        self,
        samples: Samples,
        shape: tuple[int, ...],
        *,
        row: int | Tensor = 0,
        stream: int = Stream.INIT,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw uniforms in (0, 1], [B, *shape], computed in float32 and then cast to ``dtype``."""
        index, row = _address(samples, row, stream, device)
        flat = philox.uniform(self.seed, index, row, int(stream), _numel(shape), dtype=dtype)
        return flat.view(len(index), *shape)

    def integers(
        self,
        samples: Samples,
        shape: tuple[int, ...],
        high: int,
        *,
        row: int | Tensor = 0,
        stream: int = Stream.INIT,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw integers in [0, high) as int64 [B, *shape], for 1 <= high <= 2^32."""
        if not 1 <= high <= 2**32:
            raise UsageError(f"high is {high}, outside 1..2^32")
        index, row = _address(samples, row, stream, device)
        flat = philox.randint(self.seed, index, row, int(stream), _numel(shape), high)
        return flat.view(len(index), *shape)


def _address(
    samples: Samples, row: int | Tensor, stream: int, device: torch.device | str | None
) -> tuple[Tensor, int | Tensor]:
    """Check where a draw is and return the sample indices [B] and the row on the device."""
    if not isinstance(samples, Tensor):
        samples = _from_sequence(samples)
    _check_words("sample index", samples)
    if samples.dim() != 1:
        raise UsageError(
            f"sample indices have shape {tuple(samples.shape)}; one dimension is needed"
        )
    _check_words("row", row)
    if isinstance(row, Tensor) and row.shape not in ((), (1,), samples.shape):
        raise UsageError(f"row has shape {tuple(row.shape)} for {len(samples)} samples")
    _check_words("stream", stream)
    index = samples.to(device=device, dtype=torch.int64)
    return index, row.to(index.device) if isinstance(row, Tensor) else row


def _from_sequence(samples: Sequence[int]) -> Tensor:
    # Before the conversion, for an int past 2^63 has no int64.
    for extreme in (min(samples), max(samples)) if len(samples) else ():
        _check_words("sample index", extreme)
    if isinstance(samples, range) and len(samples):
        return torch.arange(samples.start, samples.stop, samples.step)
    return torch.tensor(samples, dtype=torch.int64)


def _check_words(what: str, value: int | Tensor) -> None:
    """Raise unless the value, or every value known to the host, is an integer in 0..2^32-1."""
    if isinstance(value, Tensor):
        if value.dtype not in (torch.uint8, torch.int16, torch.int32, torch.int64):
            raise UsageError(f"{what} has dtype {value.dtype}; an integer dtype is needed")
        if value.device.type != "cpu" or value.numel() == 0:
            return
        low, high = (int(v) for v in torch.aminmax(value))
    else:
        low = high = value
    if low < 0 or high >= 2**32:
        raise UsageError(f"{what} is {low if low < 0 else high}, outside 0..2^32-1")


def _numel(shape: tuple[int, ...]) -> int:
    numel = math.prod(shape)
    if any(n < 0 for n in shape) or numel > 2**34:
        raise UsageError(f"shape {tuple(shape)} of one sample is negative or past 2^34 elements")
    return numel
