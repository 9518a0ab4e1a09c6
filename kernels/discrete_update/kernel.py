"""The update of tokens as one Triton launch: a program draws BLOCK tokens, a warp two at a time.

All 256 columns of a token lie in one warp, so that maximum, sums and edges of the CDF need no
shared memory. The weights of the CDF are integers (see the reference), whose sums do not depend on
the order in which threads add them. Arithmetic is float32 whatever the logits are. Rows of logits
that a token does not need are not read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..philox.kernel import _log
from . import reference, types

# Where a row of the table has which number.
COLUMNS = tl.constexpr(len(reference.COLUMNS))
KEEP = tl.constexpr(reference.COLUMNS.index("keep"))
NOISE = tl.constexpr(reference.COLUMNS.index("noise"))
INVERSE_TEMPERATURE = tl.constexpr(reference.COLUMNS.index("inverse_temperature"))
GUMBEL = tl.constexpr(reference.COLUMNS.index("gumbel"))
IDS = tl.constexpr(types.IDS)
CLASSES = tl.constexpr(types.CLASSES)
MASK = tl.constexpr(types.MASK)
UNIT = tl.constexpr(reference.UNIT)
LEAST_EXPONENTIAL = tl.constexpr(reference.LEAST_EXPONENTIAL)


@triton.jit
def _uniform(word):
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33


@triton.jit
def _below(word, total):
    """Return floor(word * total / 2^32) for uint32 words and int32 totals below 2^31."""
    return tl.umulhi(word, total.to(tl.uint32)).to(tl.int32)


# A new number of tokens (each level has its own) or plan length must not compile again.
@triton.jit(do_not_specialize=["rows", "count"])
def discrete_update_kernel(
    ids_to,
    x0_to,
    confidence_to,
    logits,
    uncond,
    ids,
    keys,
    samples,
    table,
    row,
    guidance,
    seed,
    rows,
    count,
    logits_stride,
    uncond_stride,
    ABSORBING: tl.constexpr,
    ROUTE: tl.constexpr,
    WANT_X0: tl.constexpr,
    GUIDED: tl.constexpr,
    STREAM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Apply one row of the table; see the reference."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = token < count
    # A row outside the table must not look like a result: [MASK] everywhere, NaN as confidence.
    ordinal = tl.load(row)
    valid = (ordinal >= 0) & (ordinal < rows)
    k = table + ordinal * COLUMNS
    keep = tl.load(k + KEEP, mask=valid, other=0.0).to(tl.float32)
    noise = tl.load(k + NOISE, mask=valid, other=0.0).to(tl.float32)
    inverse_temperature = tl.load(k + INVERSE_TEMPERATURE, mask=valid, other=0.0).to(tl.float32)
    gumbel = tl.load(k + GUMBEL, mask=valid, other=float("nan")).to(tl.float32)

    old = tl.load(ids + token, mask=inside, other=0).to(tl.int32)  # [BLOCK]
    key = tl.load(keys + token, mask=inside, other=0).to(tl.int32)
    sample = tl.load(samples + token, mask=inside, other=0).to(tl.int32)
    stream = tl.full([], STREAM, tl.int32)
    w0, w1, w2, w3 = tl.philox(tl.load(seed), key, sample, ordinal.to(tl.int32), stream)

    u = _uniform(w1)
    keeps = u <= keep
    takes_noise = (u > 1.0 - noise) & (keeps == 0)
    if ABSORBING:
        noise_id = tl.zeros([BLOCK], tl.int32) + MASK
    else:
        noise_id = 1 + _below(w2, tl.zeros([BLOCK], tl.int32) + CLASSES)
    masked = old == MASK
    need = inside & valid
    if ABSORBING:
        need = need & masked
    if ROUTE and not WANT_X0:
        need = need & (keeps == 0) & (takes_noise == 0)

    column = tl.arange(0, IDS)[None, :]  # [1, 256]
    base = token.to(tl.int64)[:, None]
    address = logits + base * logits_stride + column  # [BLOCK, 256]
    z = tl.load(address, mask=need[:, None], other=0.0).to(tl.float32)
    if GUIDED:
        address = uncond + base * uncond_stride + column
        without = tl.load(address, mask=need[:, None], other=0.0).to(tl.float32)
        combined = without + tl.load(guidance).to(tl.float32) * (z - without)
        z = tl.where(z == float("-inf"), z, combined)
    z = tl.where(column == MASK, float("-inf"), z)
    shifted = z - tl.max(z, axis=1)[:, None]  # NaN where there is no softmax
    e = tl.exp(shifted * inverse_temperature)
    exists = tl.sum(e, axis=1) > 0  # [BLOCK], false for NaN
    weight = tl.where(exists[:, None], (e * UNIT + 0.5).to(tl.int32), 0)
    edges = tl.cumsum(weight, axis=1)
    target = _below(w0, tl.sum(weight, axis=1))  # [BLOCK]
    x0 = tl.sum((edges <= target[:, None]).to(tl.int32), axis=1)
    x0 = tl.where(exists & valid, x0, MASK)
    if WANT_X0:
        total = tl.sum(tl.exp(shifted), axis=1)
        logit_of_x0 = tl.sum(tl.where(column == x0[:, None], shifted, 0.0), axis=1)
        confidence = tl.where(x0 == MASK, float("nan"), logit_of_x0 - tl.log(total))
        exponential = tl.maximum(-_log(_uniform(w3)), LEAST_EXPONENTIAL)
        confidence += gumbel * -_log(exponential)
        if ABSORBING:
            confidence = tl.where(masked | (valid == 0), confidence, 0.0)
        tl.store(confidence_to + token, confidence, mask=inside)
    if ABSORBING:
        x0 = tl.where(masked, x0, old)
    if WANT_X0:
        tl.store(x0_to + token, tl.where(valid, x0, MASK).to(tl.uint8), mask=inside)
    result = tl.where(keeps, old, tl.where(takes_noise, noise_id, x0)) if ROUTE else noise_id
    tl.store(ids_to + token, tl.where(valid, result, MASK).to(tl.uint8), mask=inside)
