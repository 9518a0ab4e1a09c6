"""How a tensor of the state's shape lies in memory, as the kernel can address it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor


class Strides(NamedTuple):
    """Element strides of [batch, first dimension of a sample, all its other dimensions as one]."""

    batch: int
    channel: int
    inner: int


def inner_size(value: Tensor) -> int:
    """Return how many elements [B, C, ...] has in all dimensions of a sample but the first, C."""
    return math.prod(value.shape[2:])


def strides_of(value: Tensor) -> Strides | None:
    """Return the strides of [B, C, ...], or None if the dimensions after C do not lie as one."""
    sizes = zip(value.shape[2:], value.stride()[2:], strict=True)
    inner = [(size, stride) for size, stride in sizes if size > 1]
    for (_, outer), (size, stride) in pairwise(inner):
        if outer != size * stride:
            return None
    channel = value.stride(1) if value.shape[1] > 1 else 0
    return Strides(value.stride(0), channel, inner[-1][1] if inner else 0)


def addressable(value: Tensor) -> tuple[Tensor, Strides]:
    """Return the tensor [B, C, ...], copied only if it has no three strides, and the strides."""
    strides = strides_of(value)
    if strides is None:
        value = value.contiguous()
        strides = strides_of(value)
    assert strides is not None
    return value, strides


def is_flat(strides: Strides, channels: int, inner: int) -> bool:
    """Return whether a sample's elements follow each other, wherever the samples lie."""
    return (inner == 1 or strides.inner == 1) and (channels == 1 or strides.channel == inner)
