"""The random words of tokens: one Philox call for each token and row."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels.discrete_update import CLASSES
from ..kernels.philox import philox_words
from ..noise import Noise

# The Morton key is the counter's first word, of 32 bits: levels 0..10, so trees up to depth 11.
MAX_DEPTH = 11


def token_words(
    noise: Noise, keys: Tensor, samples: Tensor, row: int | Tensor, stream: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of each token: class, route, noise id, and tie-break.

    Args:
        keys: int64 [N] in 0..2^32-1, the Morton keys.
        samples: int64 [N], sample indices.
        row: an int, or int64 broadcastable to [N].
        stream: a :class:`ddimx.noise.Stream`.

    Returns:
        Four int64 tensors [N], values in 0..2^32-1.
    """
    return philox_words(noise.seed, keys, samples, row, int(stream))


def uniform_ids(word: Tensor) -> Tensor:
    """Map words in 0..2^32-1, int64 [N], to ids, uniform over 1..255 (to 2^-32), uint8 [N]."""
    return (((word * CLASSES) >> 32) + 1).to(torch.uint8)


def location_codes(level: int | Tensor, keys: Tensor) -> Tensor:
    """Return ``8^level + key``: numbers that no two cells of a tree share, int64 [N] as ``keys``.

    They stand in for keys where tokens of several levels are drawn in one row and stream, as in
    training. On levels up to 10 they fit in 32 bits.

    Raises:
        UsageError: a level outside 0..10.
    """
    if isinstance(level, int):
        if not 0 <= level < MAX_DEPTH:
            raise UsageError(f"level {level} is outside 0..{MAX_DEPTH - 1}")
        level = torch.tensor(level, device=keys.device)
    return keys + (torch.ones_like(keys) << (3 * level))
