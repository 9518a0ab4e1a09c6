"""The gradients of group normalization with SiLU, in the same programs and parts as forward.

With x^ the normalized value, r = 1 / deviation, z = w x^ + b and dz the gradient before the SiLU:
dw = sum dz x^, db = sum dz, dx = r (w dz - mean(w dz) - x^ mean(w dz x^)) with the means over a
group, and the gradient of what was added to x is the sum of dx over the pixels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .kernel import embedded, only, per_channel, per_group, read, sigmoid, write


@triton.jit
def _kept(
    mean,
    rstd,
    weight,
    bias,
    add,
    image,
    first,
    own,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    OWN: tl.constexpr,
    HAS_ADD: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """What forward has kept of an image's channels: mean (less what was added), r, w, b."""
    group = first + tl.arange(0, GROUPS)
    stored = (tl.arange(0, GROUPS) < OWN) & (group < C // WIDTH)
    row = image.to(tl.int64) * (C // WIDTH)
    channel = first * WIDTH + tl.arange(0, CHANNELS)
    center = tl.load(mean + row + group, mask=stored, other=0.0)
    center = per_channel(center, WIDTH, CHANNELS, GROUPS)
    center -= embedded(add, image, channel, own, C, HAS_ADD)
    r = tl.load(rstd + row + group, mask=stored, other=0.0)
    w = tl.load(weight + channel, mask=own, other=0.0).to(tl.float32)
    beta = tl.load(bias + channel, mask=own, other=0.0).to(tl.float32)
    return center, per_channel(r, WIDTH, CHANNELS, GROUPS), w, beta


@triton.jit
def _values(x, grad, offsets, inside, center, r, w, beta, SILU: tl.constexpr, FULL: tl.constexpr):
    """A tile's x^ and dz, [PIXELS, CHANNELS]; dz is zero outside."""
    value = (read(x + offsets, inside, FULL) - center[None, :]) * r[None, :]
    slope = read(grad + offsets, inside, FULL)
    if SILU:  # its slope is s (1 + z (1 - s)) with s the sigmoid of z
        z = value * w[None, :] + beta[None, :]
        s = sigmoid(z)
        slope *= s * (1.0 + z * (1.0 - s))
    return value, slope


@triton.jit
def _result(value, slope, r, w, by_bias, by_weight):
    """A tile of dx [PIXELS, CHANNELS]."""
    inner = w[None, :] * slope - by_bias[None, :] - value * by_weight[None, :]
    return r[None, :] * inner


@triton.jit
def _means(w, of_sum, count, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr):
    """The mean over its group of w times what a channel has summed, for each channel."""
    of_group = per_group(w * of_sum, WIDTH, CHANNELS, GROUPS) / count
    return per_channel(of_group, WIDTH, CHANNELS, GROUPS)


@triton.jit
def whole_backward(
    grad,
    x,
    weight,
    bias,
    add,
    mean,
    rstd,
    d_x,
    sums,
    d_add,
    pixels,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    OWN: tl.constexpr,
    SILU: tl.constexpr,
    HAS_ADD: tl.constexpr,
    FULL: tl.constexpr,
    LOOP: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Gradients of one image's groups: d_x; sums [B, 2, C], of weight and bias; d_add [B, C].

    At once, or (``LOOP``) tile by tile, twice.
    """
    blocks: tl.constexpr = (C // WIDTH + OWN - 1) // OWN
    image, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * OWN
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, CHANNELS)
    channel = first * WIDTH + lane  # [CHANNELS], as all that has no other shape
    own = (lane < OWN * WIDTH) & (channel < C)
    inside = (pixel < pixels)[:, None] & own[None, :]  # [PIXELS, CHANNELS]
    offset = image.to(tl.int64) * (pixels * C) + first * WIDTH
    offsets = pixel[:, None] * C + lane[None, :]  # [PIXELS, CHANNELS]
    center, r, w, beta = _kept(
        mean, rstd, weight, bias, add, image, first, own, C, WIDTH, OWN, HAS_ADD, CHANNELS, GROUPS
    )
    if LOOP:
        by_weight = tl.zeros([PIXELS, CHANNELS], tl.float32)
        by_bias = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for done in range(0, pixels, PIXELS):
            here = offset + done * C
            inside = (done + pixel < pixels)[:, None] & own[None, :]
            value, slope = _values(
                x + here, grad + here, offsets, inside, center, r, w, beta, SILU, FULL
            )
            by_weight += only(slope * value, inside, FULL)
            by_bias += slope
        of_weight, of_bias = tl.sum(by_weight, axis=0), tl.sum(by_bias, axis=0)
    else:
        value, slope = _values(
            x + offset, grad + offset, offsets, inside, center, r, w, beta, SILU, FULL
        )
        of_weight = tl.sum(only(slope * value, inside, FULL), axis=0)
        of_bias = tl.sum(slope, axis=0)
    to = sums + image.to(tl.int64) * (2 * C) + channel
    tl.store(to, of_weight, mask=own)
    tl.store(to + C, of_bias, mask=own)
    of_bias = _means(w, of_bias, pixels * WIDTH, WIDTH, CHANNELS, GROUPS)
    of_weight = _means(w, of_weight, pixels * WIDTH, WIDTH, CHANNELS, GROUPS)
    if LOOP:
        total = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for done in range(0, pixels, PIXELS):
            here = offset + done * C
            inside = (done + pixel < pixels)[:, None] & own[None, :]
            value, slope = _values(
                x + here, grad + here, offsets, inside, center, r, w, beta, SILU, FULL
            )
            result = _result(value, slope, r, w, of_bias, of_weight)
            write(d_x + here + offsets, result, inside, FULL)
            if HAS_ADD:
                total += only(result, inside, FULL)
    else:
        total = _result(value, slope, r, w, of_bias, of_weight)
        write(d_x + offset + offsets, total, inside, FULL)
        total = only(total, inside, FULL)
    if HAS_ADD:
        to = d_add + image.to(tl.int64) * C + channel
        tl.store(to, tl.sum(total, axis=0), mask=own)


@triton.jit
def part_backward(
    grad,
    x,
    weight,
    bias,
    add,
    mean,
    rstd,
    sums,
    pixels,
    parts,
    of_part,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    OWN: tl.constexpr,
    SILU: tl.constexpr,
    HAS_ADD: tl.constexpr,
    FULL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """What one part of an image adds to the gradients of weight and bias: sums [B, parts, 2, C]."""
    blocks: tl.constexpr = (C // WIDTH + OWN - 1) // OWN
    first = tl.program_id(0) % blocks * OWN
    image, part = tl.program_id(0) // blocks // parts, tl.program_id(0) // blocks % parts
    start = part * of_part
    count = tl.minimum(of_part, pixels - start)
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, CHANNELS)
    channel = first * WIDTH + lane  # [CHANNELS]
    own = (lane < OWN * WIDTH) & (channel < C)
    center, r, w, beta = _kept(
        mean, rstd, weight, bias, add, image, first, own, C, WIDTH, OWN, HAS_ADD, CHANNELS, GROUPS
    )
    offset = image.to(tl.int64) * (pixels * C) + start * C + first * WIDTH
    offsets = pixel[:, None] * C + lane[None, :]  # [PIXELS, CHANNELS]
    by_weight = tl.zeros([PIXELS, CHANNELS], tl.float32)
    by_bias = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for done in range(0, count, PIXELS):
        here = offset + done * C
        inside = (done + pixel < count)[:, None] & own[None, :]
        value, slope = _values(
            x + here, grad + here, offsets, inside, center, r, w, beta, SILU, FULL
        )
        by_weight += only(slope * value, inside, FULL)
        by_bias += slope
    to = sums + (image.to(tl.int64) * parts + part) * (2 * C) + channel
    tl.store(to, tl.sum(by_weight, axis=0), mask=own)
    tl.store(to + C, tl.sum(by_bias, axis=0), mask=own)


@triton.jit
def rest_backward(
    grad,
    x,
    weight,
    bias,
    add,
    mean,
    rstd,
    sums,
    d_x,
    d_add,
    pixels,
    parts,
    of_part,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    OWN: tl.constexpr,
    SILU: tl.constexpr,
    HAS_ADD: tl.constexpr,
    FULL: tl.constexpr,
    PARTS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """The gradient of one part of an image, and its sum over the part's pixels [B, parts, C]."""
    blocks: tl.constexpr = (C // WIDTH + OWN - 1) // OWN
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # backwards, as in rest_forward
    first = program % blocks * OWN
    image, part = program // blocks // parts, program // blocks % parts
    start = part * of_part
    count = tl.minimum(of_part, pixels - start)
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, CHANNELS)
    channel = first * WIDTH + lane  # [CHANNELS]
    own = (lane < OWN * WIDTH) & (channel < C)
    center, r, w, beta = _kept(
        mean, rstd, weight, bias, add, image, first, own, C, WIDTH, OWN, HAS_ADD, CHANNELS, GROUPS
    )

    one = tl.arange(0, PARTS)
    cells = one[:, None] * (2 * C) + channel[None, :]  # [PARTS, CHANNELS]
    filled = (one < parts)[:, None] & own[None, :]
    table = sums + image.to(tl.int64) * parts * (2 * C)
    of_weight = tl.sum(tl.load(table + cells, mask=filled, other=0.0), axis=0)
    of_bias = tl.sum(tl.load(table + C + cells, mask=filled, other=0.0), axis=0)
    of_weight = _means(w, of_weight, pixels * WIDTH, WIDTH, CHANNELS, GROUPS)
    of_bias = _means(w, of_bias, pixels * WIDTH, WIDTH, CHANNELS, GROUPS)

    offset = image.to(tl.int64) * (pixels * C) + start * C + first * WIDTH
    offsets = pixel[:, None] * C + lane[None, :]  # [PIXELS, CHANNELS]
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for done in range(0, count, PIXELS):
        here = offset + done * C
        inside = (done + pixel < count)[:, None] & own[None, :]
        value, slope = _values(
            x + here, grad + here, offsets, inside, center, r, w, beta, SILU, FULL
        )
        result = _result(value, slope, r, w, of_bias, of_weight)
        write(d_x + here + offsets, result, inside, FULL)
        if HAS_ADD:
            total += only(result, inside, FULL)
    if HAS_ADD:
        to = d_add + (image.to(tl.int64) * parts + part) * C + channel
        tl.store(to, tl.sum(total, axis=0), mask=own)
