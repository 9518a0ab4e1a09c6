"""Counter-based random numbers: Philox-4x32-10 and the normals, uniforms and integers made of it.

Every number is a function of ``(seed, sample, row, stream, element)`` alone, so it is the same for
any split into batches, ranks and resumptions. ``reference.py`` holds the definition in PyTorch, for
any device, and says what the arguments are; on a CPU ``host.py`` draws the same bits faster. Every
other backend draws the same words bit for bit and the same normals to 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import host, reference
from .reference import Words, normal_from_words, uniform_from_words

__all__ = [
    "normal",
    "normal_from_words",
    "philox_words",
    "randint",
    "uniform",
    "uniform_from_words",
]


def philox_words(
    seed: int | Tensor, c0: Tensor, c1: int | Tensor, c2: int | Tensor, c3: int | Tensor
) -> Words:
    """Return the four words of every counter: see :func:`reference.philox_words`."""
    if host.serves(seed, c0, c1, c2, c3):
        return host.philox_words(seed, c0, c1, c2, c3)
    return reference.philox_words(seed, c0, c1, c2, c3)


def normal(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normals [B, numel]: see :func:`reference.normal`."""
    if host.serves(seed, sample, row, stream):
        return host.normal(seed, sample, row, stream, numel, dtype=dtype)
    return reference.normal(seed, sample, row, stream, numel, dtype=dtype)


def uniform(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw uniforms in (0, 1], [B, numel]: see :func:`reference.uniform`."""
    if host.serves(seed, sample, row, stream):
        return host.uniform(seed, sample, row, stream, numel, dtype=dtype)
    return reference.uniform(seed, sample, row, stream, numel, dtype=dtype)


def randint(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    high: int,
) -> Tensor:
    """Draw integers in [0, high), [B, numel]: see :func:`reference.randint`."""
    if host.serves(seed, sample, row, stream):
        return host.randint(seed, sample, row, stream, numel, high)
    return reference.randint(seed, sample, row, stream, numel, high)
