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
from .types import CLASSES, MASK, Drawn, TokenState, UpdateOptions

# Columns of the table. The inverse temperature of an argmax is a large number: no special case.
COLUMNS = ("keep", "noise", "inverse_temperature", "gumbel")
UNIT = 2.0**23  # the weight of the most likely id; 255 of them fit in 31 bits
LEAST_EXPONENTIAL = 2.0**-25  # where u rounds to 1: no Gumbel exceeds 17.4


def discrete_update(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    tokens: TokenState,
    seed: Tensor,
    uncond: Tensor | None,
    guidance: Tensor | None,
    options: UpdateOptions,
) -> Drawn:
    """Apply row ``row`` to N tokens; see :func:`ddimx.kernels.discrete_update.discrete_update`."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    values = table.index_select(0, row.reshape(1))[0].to(torch.float32)
    k = dict(zip(COLUMNS, values.unbind(), strict=True))
    keys, samples = tokens.keys & philox.MASK32, tokens.samples & philox.MASK32
    words = philox.philox_words(seed, keys, samples, row, options.stream)
    z = guided(logits, uncond, guidance, dtype)
    x0 = inverse_cdf(weights(z, k["inverse_temperature"].to(dtype)), words[0])
    is_x0 = (tokens.ids != MASK) & (options.transition == "absorbing")
    confidence = None
    if options.want_x0:
        confidence = log_probability(z, x0).to(torch.float32) + k["gumbel"] * gumbels(words[3])
        confidence = torch.where(is_x0, 0.0, confidence)
    x0 = torch.where(is_x0, tokens.ids, x0)  # an unmasked token is its own estimate
    ids = noise_ids(words[2], options)
    if options.route:
        keeps, takes_noise = routes(words[1], k["keep"], k["noise"])
        ids = torch.where(keeps, tokens.ids, torch.where(takes_noise, ids, x0))
    return Drawn(ids, x0 if options.want_x0 else None, confidence)


def guided(
    logits: Tensor, uncond: Tensor | None, guidance: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return ``uncond + g (logits - uncond)`` with -inf for [MASK]: [N, 256] in ``dtype``.

    An id that the conditional logits exclude by -inf stays excluded.
    """
    z = logits.to(dtype, copy=True)
    if uncond is not None and guidance is not None:
        without = uncond.to(dtype)
        mixed = without + guidance.to(dtype) * (z - without)
        z = torch.where(z == -torch.inf, -torch.inf, mixed)
    z[:, MASK] = -torch.inf
    return z


def weights(z: Tensor, inverse_temperature: Tensor) -> Tensor:
    """Return the integer weights of logits ``z`` [N, 256], int32; all 0 where they have no softmax.

    That is where a logit is NaN or inf, or all are -inf. ``inverse_temperature`` is 0-d.
    """
    # In place: on a CPU new memory for every step takes longer than the steps.
    e = (z - z.amax(dim=1, keepdim=True)).mul_(inverse_temperature).exp_()
    # Without a softmax the maximum less itself is NaN, and every other id NaN or 0 as well.
    return e.mul_(UNIT).add_(0.5).nan_to_num_(0.0).to(torch.int32)


def inverse_cdf(weight: Tensor, word: Tensor) -> Tensor:
    """Return the id at ``word / 2^32`` of each row's CDF, uint8 [N]; 0 where all weights are 0.

    ``weight``: int32 [N, 256]; ``word``: int64 [N] in 0..2^32-1, as every ``word`` in this module.
    The id is the number of edges (inclusive sums) at or below ``floor(word * total / 2^32)``.
    """
    edges = weight.cumsum(dim=1, dtype=torch.int32)
    total = edges[:, -1]
    target = ((word * total) >> 32).to(torch.int32)
    ids = torch.searchsorted(edges, target[:, None], right=True)[:, 0]
    return torch.where(total > 0, ids, MASK).to(torch.uint8)


def log_probability(z: Tensor, ids: Tensor) -> Tensor:
    """Return log softmax(z) [N, 256] at the ids, uint8 [N], in z's dtype; NaN at [MASK]."""
    shifted = z - z.amax(dim=1, keepdim=True)
    at_ids = shifted.gather(1, ids.to(torch.int64)[:, None])[:, 0]
    log_p = at_ids - shifted.exp_().sum(dim=1).log()
    return torch.where(ids == MASK, torch.nan, log_p)


def routes(word: Tensor, keep: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens keep their id and which take noise, bool [N]; the rest take x0.

    The uniform lies in (0, 1], so that a weight of 0 never happens and one of 1 always does.
    """
    u = philox.uniform_from_words(word)
    keeps = u <= keep
    return keeps, ~keeps & (u > 1 - noise)


def noise_ids(word: Tensor, options: UpdateOptions) -> Tensor:
    """Return what noise is for each token, uint8 [N]: [MASK], or uniform over 1..255."""
    if options.transition == "absorbing":
        return torch.full_like(word, MASK, dtype=torch.uint8)
    return (((word * CLASSES) >> 32) + 1).to(torch.uint8)


def gumbels(word: Tensor) -> Tensor:
    """Return Gumbel noise -ln(-ln u) of words [N], float32."""
    exponential = -philox._log(philox.uniform_from_words(word))
    return -philox._log(exponential.clamp(min=LEAST_EXPONENTIAL))
