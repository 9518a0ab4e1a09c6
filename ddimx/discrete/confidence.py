"""Confidence routing: how many tokens are clean is the plan's word, which ones the network's.

MaskGIT (arXiv 2202.04200) and reparameterised discrete diffusion (arXiv 2302.05737) reveal the
tokens that the network is surest of. Here the counts are per sample, as a fraction of its tokens,
so that a sample does not depend on the batch.

Entropy-bounded routing (arXiv 2505.24857) counts by certainty too: a row takes the tokens of the
lowest entropy for as long as the entropies of all but the last of them stay below a bound, which
bounds how much tokens that are drawn independently can say about one another.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.discrete_update import Drawn
from ..kernels.discrete_update.reference import guided
from .cells import Cells

ENTROPY_BITS = 20  # entropies as integers, whose sums do not depend on the batch
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
    """Return the state before a level's first row, with the ids uint8 [N]: nothing is clean."""
    clean = torch.zeros_like(ids, dtype=torch.bool)
    return Revealed(ids, clean, torch.zeros_like(ids, dtype=torch.float32))


def fractions(values: Tensor, *, up: bool = False) -> Tensor:
    """Return fractions in [0, 1] (any shape and floating dtype) as multiples of 2^-30, int64.

    Rounded down for a count that is rounded up, and up for one that is rounded down, so that a
    fraction k/n of n tokens is k of them.
    """
    multiples: Tensor = values.to(torch.float64) * float(2**FRACTION_BITS)
    return (multiples.ceil() if up else multiples.floor()).to(torch.int64)


def reveal(
    state: Revealed, draws: Drawn, cells: Cells, reveal_to: Tensor, remask: Tensor
) -> Revealed:
    """Take the surest draws, and throw the least sure clean tokens back into noise.

    In a sample of n tokens of which c are clean, ``m = ceil(reveal_to n)`` are clean afterwards.
    First ``r = min(floor(remask c), n - m)`` clean tokens, those of the lowest confidence, are
    given up: they become ``draws.ids``. Then as many of those that were not clean take their
    ``draws.x0`` as make it m, in falling order of ``draws.confidence``. If m lies below c - r, no
    token is revealed and clean ones stay. Equal confidences fall to the lower key. Nothing is
    exchanged with the host.

    Args:
        state: before the row, N tokens.
        draws: the row's draws, without routing.
        cells: the level's cells.
        reveal_to, remask: 0-d int64, from :func:`fractions`, ``remask`` rounded up.
    """
    assert draws.x0 is not None
    assert draws.confidence is not None
    n = cells.counts
    clean_before = _count(state.clean, cells)
    clean_after = (n * reveal_to + (2**FRACTION_BITS - 1)) >> FRACTION_BITS
    remasked = torch.minimum((clean_before * remask) >> FRACTION_BITS, n - clean_after).clamp(min=0)
    stay = clean_before - remasked
    confidence = torch.where(state.clean, state.confidence, draws.confidence)
    rank = ranks(confidence, state.clean, cells)
    end = torch.where(state.clean, stay[cells.sample], (clean_after - stay)[cells.sample])
    clean = rank < end
    ids = torch.where(state.clean, state.ids, draws.x0)
    ids = torch.where(clean, ids, torch.where(state.clean, draws.ids, state.ids))
    return Revealed(ids, clean, torch.where(clean, confidence, 0.0))


def entropies(
    logits: Tensor, uncond: Tensor | None, guidance: Tensor | None, inverse_temperature: Tensor
) -> Tensor:
    """Return the entropy of what each token is drawn from, in multiples of 2^-20 nats, int64 [N].

    Arguments are those of a row of :func:`ddimx.kernels.discrete_update.discrete_update`; logits
    without a softmax have none, 0.
    """
    z = guided(logits, uncond, guidance, torch.float32)
    log_p = ((z - z.amax(dim=1, keepdim=True)) * inverse_temperature).log_softmax(dim=1)
    nats = -(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=1)
    return (nats.nan_to_num(0.0) * float(2**ENTROPY_BITS)).round().to(torch.int64)


def settle(
    state: Revealed, draws: Drawn, cells: Cells, entropy: Tensor, bound: float, *, last: bool
) -> Revealed:
    """Take the draws of the most certain tokens of each sample; the others become noise anew.

    Of the tokens that are not clean, in rising order of ``entropy`` (int64 [N], as
    :func:`entropies` has it; of equals the lower key first), all become clean before which the sum
    is at most ``bound`` nats, so at least one. ``last``: all of them.
    """
    assert draws.x0 is not None
    assert draws.confidence is not None
    first = cells.offsets[:-1]
    place = first[cells.sample] + ranks(-entropy.to(torch.float64), state.clean, cells)
    place = torch.where(state.clean, len(entropy), place)
    amount = torch.zeros(len(entropy) + 1, dtype=torch.int64, device=entropy.device)
    amount[place] = entropy  # clean ones in a place of their own, at the end
    before = amount.cumsum(0) - amount
    spent = before[place] - before[first][cells.sample]
    takes = ~state.clean & ((spent <= round(bound * 2**ENTROPY_BITS)) | last)
    ids = torch.where(takes, draws.x0, torch.where(state.clean, state.ids, draws.ids))
    confidence = torch.where(takes, draws.confidence, state.confidence)
    return Revealed(ids, state.clean | takes, confidence)


def ranks(confidence: Tensor, group: Tensor, cells: Cells) -> Tensor:
    """Return each token's rank among its sample's tokens of the same group, int64 [N].

    Rank 0 has the highest confidence (NaN counts as higher); equals keep their order.

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
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    return position - first


def _count(flags: Tensor, cells: Cells) -> Tensor:
    """Return how many tokens of each sample have the flag, int64 [B]."""
    sums = torch.cat([cells.offsets.new_zeros(1), flags.cumsum(0)])
    return sums[cells.offsets].diff()
