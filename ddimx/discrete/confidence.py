"""Confidence routing: how many tokens are clean is the plan's word, which ones the network's.

MaskGIT (arXiv 2202.04200) and reparameterised discrete diffusion (arXiv 2302.05737) reveal the
tokens that the network is surest of. Here the counts are per sample, as a fraction of its tokens,
so that a sample does not depend on the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.discrete_update import Drawn
from .cells import Cells

FRACTION_BITS = 30  # fractions as integers, so that a count does not hang on a rounding


class Revealed(NamedTuple):
    """The state of confidence routing.

    Attributes:
        ids: uint8 [N], the tokens.
        clean: bool [N], which of them are clean.
        confidence: float32 [N], how sure the network was of each clean token when it drew it.
    """

    ids: Tensor
    clean: Tensor
    confidence: Tensor


def start(ids: Tensor) -> Revealed:
    """Return the state before a level's first row: nothing is clean."""
    clean = torch.zeros_like(ids, dtype=torch.bool)
    return Revealed(ids, clean, torch.zeros_like(ids, dtype=torch.float32))


def fractions(values: Tensor, *, up: bool = False) -> Tensor:
    """Return fractions in [0, 1] as multiples of 2^-30, int64.

    Rounded down for a count that is rounded up, and up for one that is rounded down, so that a
    fraction k/n of n tokens is k of them.
    """
    scaled: Tensor = values.to(torch.float64) * float(2**FRACTION_BITS)
    return (scaled.ceil() if up else scaled.floor()).to(torch.int64)


def reveal(
    state: Revealed, drawn: Drawn, cells: Cells, reveal_to: Tensor, remask: Tensor
) -> Revealed:
    """Take the surest draws, and throw the least sure clean tokens back into noise.

    In a sample of n tokens of which c are clean, ``m = ceil(reveal_to n)`` are clean afterwards.
    First ``r = min(floor(remask c), n - m)`` clean tokens, those of the lowest confidence, are
    given up: they become ``drawn.ids``. Then as many of those that were not clean take their
    ``drawn.x0`` as make it m, in falling order of ``drawn.confidence``. If m lies below c - r, no
    token is revealed and clean ones stay. Equal confidences fall to the lower key. Nothing is
    exchanged with the host.

    Args:
        state: before the row.
        drawn: the row's draws, without routing.
        cells: the level's cells.
        reveal_to, remask: 0-d int64, from :func:`fractions`, ``remask`` rounded up.
    """
    assert drawn.x0 is not None
    assert drawn.confidence is not None
    n = cells.counts
    clean_before = _count(state.clean, cells)
    wanted = (n * reveal_to + (2**FRACTION_BITS - 1)) >> FRACTION_BITS
    given_up = torch.minimum((clean_before * remask) >> FRACTION_BITS, n - wanted).clamp(min=0)
    stay = clean_before - given_up
    confidence = torch.where(state.clean, state.confidence, drawn.confidence)
    rank = ranks(confidence, state.clean, cells)
    last = torch.where(state.clean, stay[cells.sample], (wanted - stay)[cells.sample])
    clean = rank < last
    ids = torch.where(state.clean, state.ids, drawn.x0)
    ids = torch.where(clean, ids, torch.where(state.clean, drawn.ids, state.ids))
    return Revealed(ids, clean, torch.where(clean, confidence, 0.0))


def ranks(confidence: Tensor, group: Tensor, cells: Cells) -> Tensor:
    """Return each token's place among its sample's tokens of the same group, int64 [N].

    Place 0 has the highest confidence (NaN counts as higher); equals keep their order.

    Args:
        confidence: float32 [N].
        group: bool [N].
    """
    falling = confidence.argsort(descending=True, stable=True)
    segment = 2 * cells.sample + group
    order = falling[segment[falling].argsort(stable=True)]
    # A sample's tokens outside the group come first, then those in it.
    outside, inside = cells.offsets[:-1], cells.offsets[1:] - _count(group, cells)
    first = torch.where(group, inside[cells.sample], outside[cells.sample])
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place - first


def _count(flags: Tensor, cells: Cells) -> Tensor:
    """Return how many tokens of each sample have the flag, int64 [B]."""
    sums = torch.cat([cells.offsets.new_zeros(1), flags.cumsum(0)])
    return sums[cells.offsets].diff()
