"""The update as one Triton launch: a program moves BLOCK elements of one sample.

Noise comes in groups of four, as Philox gives them, so tiles are [BLOCK / 4, 4]: a thread's four
neighbors are one 128-bit load and one Philox call. Arithmetic is float32 whatever the network's
output is. Offsets within a sample are 32-bit, a sample's own offset is 64-bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..philox.kernel import normals
from .columns import TABLE

# Where a row of the table has which coefficient.
R, S = tl.constexpr(TABLE.index("r")), tl.constexpr(TABLE.index("s"))
U, V = tl.constexpr(TABLE.index("u")), tl.constexpr(TABLE.index("v"))
A, W = tl.constexpr(TABLE.index("a")), tl.constexpr(TABLE.index("w"))
C, P = tl.constexpr(TABLE.index("c")), tl.constexpr(TABLE.index("p"))
SIGNAL = tl.constexpr(TABLE.index("known_signal"))
SIGMA = tl.constexpr(TABLE.index("known_sigma"))
G = tl.constexpr(TABLE.index("g"))
CALLS = tl.constexpr(TABLE.index("calls"))
B = tl.constexpr(len(TABLE))  # of b_0; q_0 follows DEPTH columns later
ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _output_offsets(start, channel, inner, inner_size, BY_4: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets within a sample whose first dimension and the rest have strides of their own."""
    if BY_4:  # four neighbors share a channel: one division for them all
        first = start + 4 * tl.arange(0, BLOCK // 4)  # [BLOCK / 4]
        base = (first // inner_size).to(tl.int64) * channel  # [BLOCK / 4]
        base += (first % inner_size).to(tl.int64) * inner
        return base[:, None] + (tl.arange(0, 4) * inner)[None, :]  # [BLOCK / 4, 4]
    index = start + tl.reshape(tl.arange(0, BLOCK), [BLOCK // 4, 4])  # [BLOCK / 4, 4]
    offset = (index // inner_size).to(tl.int64) * channel
    return offset + (index % inner_size).to(tl.int64) * inner


# A new plan length or grid must not cause another compilation.
@triton.jit(do_not_specialize=["rows", "blocks"])
def update_kernel(
    x_to,
    y_to,
    x0_to,
    history,
    x,
    y,
    out,
    uncond,
    z,
    known,
    mask,
    table,
    row,
    guidance,
    seed,
    samples,
    clip,
    rows,
    numel,
    blocks,
    slot_size,
    inner_size,
    out_batch,
    out_channel,
    out_inner,
    uncond_batch,
    uncond_channel,
    uncond_inner,
    mask_batch,
    mask_channel,
    mask_inner,
    HAS_OUT: tl.constexpr,
    OUT_FLAT: tl.constexpr,
    INNER_BY_4: tl.constexpr,
    GUIDED: tl.constexpr,
    CLIPPED: tl.constexpr,
    HISTORY_IS_X0: tl.constexpr,
    DEPTH: tl.constexpr,
    STEP_STREAM: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_KNOWN: tl.constexpr,
    KNOWN_STREAM: tl.constexpr,
    SAME_Y_IN: tl.constexpr,
    SAME_Y_OUT: tl.constexpr,
    WANT_X0: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Apply one row of the table; see :mod:`ddimx.solvers.plan` for the formulas."""
    sample = tl.program_id(0) // blocks
    start = (tl.program_id(0) % blocks) * BLOCK
    batch = sample.to(tl.int64)
    base = batch * numel + start
    lane = 4 * tl.arange(0, BLOCK // 4)[:, None] + tl.arange(0, 4)[None, :]  # [BLOCK / 4, 4]
    inside = start + lane < numel  # [BLOCK / 4, 4]

    # A row outside the table must not look like a result: its coefficients are NaN.
    ordinal = tl.load(row)
    valid = (ordinal >= 0) & (ordinal < rows)
    k = table + ordinal * (B + 2 * DEPTH)
    nan = float("nan")
    a = tl.load(k + A, mask=valid, other=nan).to(tl.float32)
    p = tl.load(k + P, mask=valid, other=nan).to(tl.float32)

    state = tl.load(x + base + lane, mask=inside, other=0.0)  # [BLOCK / 4, 4]
    result = a * state

    if HAS_OUT:
        r = tl.load(k + R, mask=valid, other=nan).to(tl.float32)
        s = tl.load(k + S, mask=valid, other=nan).to(tl.float32)
        u = tl.load(k + U, mask=valid, other=nan).to(tl.float32)
        v = tl.load(k + V, mask=valid, other=nan).to(tl.float32)
        w = tl.load(k + W, mask=valid, other=nan).to(tl.float32)
        point = state if SAME_Y_IN else tl.load(y + base + lane, mask=inside, other=0.0)
        if OUT_FLAT:
            address = out + batch * out_batch + start + lane
        else:
            offset = _output_offsets(start, out_channel, out_inner, inner_size, INNER_BY_4, BLOCK)
            address = out + batch * out_batch + offset
        raw = tl.load(address, mask=inside, other=0.0).to(tl.float32)  # [BLOCK / 4, 4]
        if GUIDED:
            if OUT_FLAT:
                address = uncond + batch * uncond_batch + start + lane
            else:
                offset = _output_offsets(
                    start, uncond_channel, uncond_inner, inner_size, INNER_BY_4, BLOCK
                )
                address = uncond + batch * uncond_batch + offset
            without = tl.load(address, mask=inside, other=0.0).to(tl.float32)  # [BLOCK / 4, 4]
            g = tl.load(k + G, mask=valid, other=nan).to(tl.float32)
            weight = g * tl.load(guidance).to(tl.float32) + (1 - g)
            raw = without + weight * (raw - without)
        x0 = r * point + s * raw  # [BLOCK / 4, 4]
        if CLIPPED:
            x0 = tl.minimum(tl.maximum(x0, -clip, propagate_nan=ALL), clip, propagate_nan=ALL)
        current = x0 if HISTORY_IS_X0 else u * point + v * raw  # [BLOCK / 4, 4]
        result += w * x0
        result += tl.load(k + B, mask=valid, other=nan).to(tl.float32) * current
        history_sum = tl.load(k + B + DEPTH, mask=valid, other=nan).to(tl.float32) * current
        if DEPTH > 1:
            calls = tl.load(k + CALLS, mask=valid, other=0).to(tl.int32)
            for j in tl.static_range(1, DEPTH):
                slot = (calls + (DEPTH - 1 - j)) % (DEPTH - 1)
                past = history + slot.to(tl.int64) * slot_size + base
                m = tl.load(past + lane, mask=inside, other=0.0)  # [BLOCK / 4, 4]
                result += tl.load(k + B + j, mask=valid, other=nan).to(tl.float32) * m
                weight = tl.load(k + B + DEPTH + j, mask=valid, other=nan).to(tl.float32)
                history_sum += weight * m
            newest = history + (calls % (DEPTH - 1)).to(tl.int64) * slot_size + base
            tl.store(newest + lane, current, mask=inside & valid)
        if WANT_X0:
            tl.store(x0_to + base + lane, x0, mask=inside)

    group = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.int32)  # [BLOCK / 4]
    if HAS_Z:
        c = tl.load(k + C, mask=valid, other=nan).to(tl.float32)
        result += c * tl.load(z + base + lane, mask=inside, other=0.0).to(tl.float32)
    elif STEP_STREAM >= 0:
        c = tl.load(k + C, mask=valid, other=nan).to(tl.float32)
        index = tl.load(samples + sample)
        noise = normals(tl.load(seed), group, index, ordinal, STEP_STREAM)
        result += c * noise  # [BLOCK / 4, 4]
    if HAS_KNOWN:
        signal = tl.load(k + SIGNAL, mask=valid, other=nan).to(tl.float32)
        sigma = tl.load(k + SIGMA, mask=valid, other=nan).to(tl.float32)
        noise = normals(tl.load(seed), group, tl.load(samples + sample), ordinal, KNOWN_STREAM)
        pixels = tl.load(known + base + lane, mask=inside, other=0.0).to(tl.float32)
        offset = _output_offsets(start, mask_channel, mask_inner, inner_size, INNER_BY_4, BLOCK)
        keep = tl.load(mask + batch * mask_batch + offset, mask=inside, other=0).to(tl.float32)
        result = keep * (signal * pixels + sigma * noise) + (1.0 - keep) * result

    tl.store(x_to + base + lane, result, mask=inside)
    if not SAME_Y_OUT:
        point_to = p * result
        if HAS_OUT:
            point_to += history_sum
        tl.store(y_to + base + lane, point_to, mask=inside)
