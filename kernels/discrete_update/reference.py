"""One row of a token plan in plain PyTorch: the ground truth for every faster implementation.

The inverse CDF is taken in integers: exp(z - max z) becomes a weight of 0..2^23, rounded to
nearest. Sums of integers do not depend on their order, so the edges of the CDF are the same for
every tiling, an id of weight 0 is never drawn, and the last edge is the sum itself. Against the
softmax the drawn distribution is off by at most 255 * 2^-24 in total variation, which is what a sum
of 255 float32 loses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..philox import reference as philox
from .types import CLASSES, MASK, Drawn, Options, Tokens

# Columns of the table. The inverse temperature of an argmax is a large number: no special case.
COLUMNS = ("keep", "noise", "inverse_temperature", "gumbel")
UNIT = 2.0**23  # the weight of the most likely id; 255 of them fit in 31 bits
LEAST_EXPONENTIAL = 2.0**-25  # where u rounds to 1: no Gumbel exceeds 17.4


def discrete_update(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    tokens: Tokens,
    seed: Tensor,
    uncond: Tensor | None,
    guidance: Tensor | None,
    options: Options,
) -> Drawn:
    """Apply row ``row``; see :func:`ddimx.kernels.discrete_update.discrete_update`."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    values = table.index_select(0, row.reshape(1))[0].to(torch.float32)
    k = dict(zip(COLUMNS, values.unbind(), strict=True))
    keys, samples = tokens.keys & philox.MASK32, tokens.samples & philox.MASK32
    words = philox.philox_words(seed, keys, samples, row, options.stream)
    z = guided(logits, uncond, guidance, dtype)
    x0 = inverse_cdf(weights(z, k["inverse_temperature"].to(dtype)), words[0])
    own = (tokens.ids != MASK) & (options.transition == "absorbing")
    confidence = None
    if options.want_x0:
        confidence = log_probability(z, x0).to(torch.float32) + k["gumbel"] * gumbels(words[3])
        confidence = torch.where(own, 0.0, confidence)
    x0 = torch.where(own, tokens.ids, x0)  # an unmasked token is its own estimate
    ids = noise_ids(words[2], options)
    if options.route:
        kept, noised = routes(words[1], k["keep"], k["noise"])
        ids = torch.where(kept, tokens.ids, torch.where(noised, ids, x0))
    return Drawn(ids, x0 if options.want_x0 else None, confidence)


def guided(
    logits: Tensor, uncond: Tensor | None, guidance: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return ``uncond + g (logits - uncond)`` with -inf for [MASK]: [N, 256] in ``dtype``.

    An id that the conditional logits exclude by -inf stays excluded.
    """
    z = logits.to(dtype)
    if uncond is not None and guidance is not None:
        without = uncond.to(dtype)
        mixed = without + guidance.to(dtype) * (z - without)
        z = torch.where(z == -torch.inf, -torch.inf, mixed)
    column = torch.arange(z.shape[1], device=z.device)
    return torch.where(column == MASK, -torch.inf, z)


def weights(z: Tensor, inverse_temperature: Tensor) -> Tensor:
    """Return the integer weights int32 [N, 256]; all 0 where no softmax exists (NaN, inf)."""
    shifted = z - z.amax(dim=1, keepdim=True)
    e = torch.exp(shifted * inverse_temperature)
    found = e.sum(dim=1, keepdim=True) > 0  # not so if any of them is NaN
    return torch.where(found, (e * UNIT + 0.5).to(torch.int32), 0)


def inverse_cdf(weight: Tensor, word: Tensor) -> Tensor:
    """Return the id at ``word / 2^32`` of each row's CDF, uint8 [N]; 0 where all weights are 0.

    The id is the number of edges (inclusive sums) at or below ``floor(word * total / 2^32)``.
    """
    edges = weight.cumsum(dim=1, dtype=torch.int32)
    total = edges[:, -1]
    at = ((word * total) >> 32).to(torch.int32)
    below = torch.searchsorted(edges, at[:, None], right=True)[:, 0]
    return torch.where(total > 0, below, MASK).to(torch.uint8)


def log_probability(z: Tensor, ids: Tensor) -> Tensor:
    """Return log softmax(z) at the ids, whatever the temperature; NaN where there is none."""
    shifted = z - z.amax(dim=1, keepdim=True)
    picked = shifted.gather(1, ids.to(torch.int64)[:, None])[:, 0]
    found = picked - torch.exp(shifted).sum(dim=1).log()
    return torch.where(ids == MASK, torch.nan, found)


def routes(word: Tensor, keep: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens keep their id and which take noise, bool [N]; the rest take x0.

    The uniform lies in (0, 1], so that a weight of 0 never happens and one of 1 always does.
    """
    u = philox.uniform_from_words(word)
    kept = u <= keep
    return kept, ~kept & (u > 1 - noise)


def noise_ids(word: Tensor, options: Options) -> Tensor:
    """Return what noise is for each token, uint8 [N]: [MASK], or uniform over 1..255."""
    if options.transition == "absorbing":
        return torch.full_like(word, MASK, dtype=torch.uint8)
    return (((word * CLASSES) >> 32) + 1).to(torch.uint8)


def gumbels(word: Tensor) -> Tensor:
    """Return Gumbel noise -ln(-ln u), float32 [N]."""
    exponential = -philox._log(philox.uniform_from_words(word))
    return -philox._log(exponential.clamp(min=LEAST_EXPONENTIAL))
