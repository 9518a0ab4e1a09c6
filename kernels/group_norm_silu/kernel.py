"""Group normalization in NHWC: a program takes pixels x channels of one image, whole groups of it.

``whole_forward`` holds all pixels of its channels on chip: one read, one write. ``loop_forward``
goes over them twice, the second time from the cache of its own processor. ``part_forward`` and
``rest_forward`` share an image among several programs; a small table between them carries what each
part has summed. It is combined in a fixed order: no bit depends on the batch or on which program
came first.

Sums run over pixels first, per channel, where channels lie beside one another in memory and in the
lanes of a warp, then over the channels of a group. Squares are those of differences from a mean
that is near, and Chan's formula joins them, never E[x^2] - E[x]^2: where the mean is a thousand
deviations that difference has no digit left. Arithmetic is float32; an image's own offset is
64-bit.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read(pointers, inside, FULL: tl.constexpr):
    """Load a tile as float32, zero outside; ``FULL``: all of it is inside, always."""
    if FULL:
        return tl.load(pointers).to(tl.float32)
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def only(value, inside, FULL: tl.constexpr):
    """Put zeros outside."""
    if FULL:
        return value
    return tl.where(inside, value, 0.0)


@triton.jit
def write(pointers, value, inside, FULL: tl.constexpr):
    """Store a tile in the pointers' dtype."""
    if FULL:
        tl.store(pointers, value)
    else:
        tl.store(pointers, value, mask=inside)


@triton.jit
def per_group(value, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr):
    """Sum [CHANNELS] over the channels of each group: [GROUPS]."""
    if GROUPS * WIDTH == CHANNELS:
        return tl.sum(tl.reshape(value, [GROUPS, WIDTH]), axis=1)
    channel, group = tl.arange(0, CHANNELS), tl.arange(0, GROUPS)
    member = (channel // WIDTH)[:, None] == group[None, :]  # [CHANNELS, GROUPS]
    return tl.sum(tl.where(member, value[:, None], 0.0), axis=0)


@triton.jit
def per_channel(value, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr):
    """Give each channel its group's value: [GROUPS] -> [CHANNELS]."""
    if GROUPS * WIDTH == CHANNELS:
        wide = tl.broadcast_to(value[:, None], [GROUPS, WIDTH])
        return tl.reshape(wide, [CHANNELS])
    channel, group = tl.arange(0, CHANNELS), tl.arange(0, GROUPS)
    member = (channel // WIDTH)[:, None] == group[None, :]  # [CHANNELS, GROUPS]
    return tl.sum(tl.where(member, value[None, :], 0.0), axis=1)


@triton.jit
def embedded(add, image, channel, own, C: tl.constexpr, HAS_ADD: tl.constexpr):
    """What is added to the channels [CHANNELS] of an image; it only moves their means."""
    if HAS_ADD:
        value = tl.load(add + image.to(tl.int64) * C + channel, mask=own, other=0.0)
        return value.to(tl.float32)
    return tl.zeros(channel.shape, tl.float32)


@triton.jit
def _joined(
    mean, square, pixels, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr
):
    """Means [GROUPS] and sums of squares about them, from those [CHANNELS] over ``pixels`` each."""
    of_group = per_group(mean, WIDTH, CHANNELS, GROUPS) / WIDTH
    apart = mean - per_channel(of_group, WIDTH, CHANNELS, GROUPS)
    return of_group, per_group(square + pixels * apart * apart, WIDTH, CHANNELS, GROUPS)


@triton.jit
def _over_tile(value, WIDTH: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr):
    """Sum a tile [PIXELS, GROUPS * WIDTH] over pixels and a group's channels: [GROUPS]."""
    by_pixel = tl.sum(tl.reshape(value, [PIXELS, GROUPS, WIDTH]), axis=2)  # [PIXELS, GROUPS]
    return tl.sum(by_pixel, axis=0)


@triton.jit
def _summed(x, offsets, own, count, C: tl.constexpr, FULL: tl.constexpr, PIXELS: tl.constexpr):
    """Mean and sum of squares about it [CHANNELS] of ``count`` pixels from x on."""
    pixel = tl.arange(0, PIXELS)
    inside = (pixel < count)[:, None] & own[None, :]  # [PIXELS, CHANNELS]
    value = read(x + offsets, inside, FULL)
    near = tl.sum(value, axis=0) / tl.minimum(PIXELS, count)  # the mean of the first pixels
    apart = only(value - near[None, :], inside, FULL)
    sums, squares = apart, apart * apart
    for done in range(PIXELS, count, PIXELS):
        inside = (done + pixel < count)[:, None] & own[None, :]
        value = read(x + done * C + offsets, inside, FULL)
        apart = only(value - near[None, :], inside, FULL)
        sums += apart
        squares += apart * apart
    total = tl.sum(sums, axis=0)
    return near + total / count, tl.sum(squares, axis=0) - total * (total / count)


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z)) by two special-function operations, without a division's corrections.

    Their errors are 2 and 3 units in the last place; 1 + exp(-z) is at least 1 and may be infinite.
    """
    root = tl.rsqrt(1.0 + tl.exp2(z * -1.4426950408889634))
    return root * root


@triton.jit
def _activated(apart, scale, shift, SILU: tl.constexpr):
    """Scale and shift a tile [PIXELS, CHANNELS] per channel, and apply the SiLU."""
    y = apart * scale[None, :] + shift[None, :]
    if SILU:
        y = y * sigmoid(y)
    return y


@triton.jit
def whole_forward(
    x,
    weight,
    bias,
    add,
    out,
    mean_to,
    rstd_to,
    pixels,
    eps,
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
    """One image's ``OWN`` groups of ``WIDTH`` channels, at once or (``LOOP``) tile by tile, twice.

    Mean and 1 / deviation are kept, [B, G].
    """
    blocks: tl.constexpr = (C // WIDTH + OWN - 1) // OWN
    image, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * OWN
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, CHANNELS)
    channel = first * WIDTH + lane  # [CHANNELS], as all that has no other shape
    own = (lane < OWN * WIDTH) & (channel < C)
    inside = (pixel < pixels)[:, None] & own[None, :]  # [PIXELS, CHANNELS]
    offset = image.to(tl.int64) * (pixels * C) + first * WIDTH
    offsets = pixel[:, None] * C + lane[None, :]  # [PIXELS, CHANNELS]
    shift = embedded(add, image, channel, own, C, HAS_ADD)
    if LOOP:
        mean, square = _summed(x + offset, offsets, own, pixels, C, FULL, PIXELS)
        mean += shift
        of_group, squares = _joined(mean, square, pixels, WIDTH, CHANNELS, GROUPS)
    elif GROUPS * WIDTH == CHANNELS:  # a group's channels lie in a thread: summed there at first
        value = read(x + offset + offsets, inside, FULL)
        if HAS_ADD:
            value = only(value + shift[None, :], inside, FULL)
        of_group = _over_tile(value, WIDTH, PIXELS, GROUPS) / (pixels * WIDTH)
        mean = per_channel(of_group, WIDTH, CHANNELS, GROUPS)
        apart = only(value - mean[None, :], inside, FULL)
        squares = _over_tile(apart * apart, WIDTH, PIXELS, GROUPS)
    else:
        value = read(x + offset + offsets, inside, FULL)
        mean = tl.sum(value, axis=0) / pixels
        apart = only(value - mean[None, :], inside, FULL)
        square = tl.sum(apart * apart, axis=0)
        mean += shift
        of_group, squares = _joined(mean, square, pixels, WIDTH, CHANNELS, GROUPS)
    rstd = 1.0 / tl.sqrt_rn(squares / (pixels * WIDTH) + eps)  # [GROUPS]

    group = first + tl.arange(0, GROUPS)
    stored = (tl.arange(0, GROUPS) < OWN) & (group < C // WIDTH)
    row = image.to(tl.int64) * (C // WIDTH)
    tl.store(mean_to + row + group, of_group, mask=stored)
    tl.store(rstd_to + row + group, rstd, mask=stored)

    scale = per_channel(rstd, WIDTH, CHANNELS, GROUPS)
    scale *= tl.load(weight + channel, mask=own, other=0.0).to(tl.float32)
    beta = tl.load(bias + channel, mask=own, other=0.0).to(tl.float32)
    if LOOP:
        center = per_channel(of_group, WIDTH, CHANNELS, GROUPS) - shift
        for done in range(0, pixels, PIXELS):
            inside = (done + pixel < pixels)[:, None] & own[None, :]
            here = offset + done * C
            apart = read(x + here + offsets, inside, FULL) - center[None, :]
            y = _activated(apart, scale, beta, SILU)
            write(out + here + offsets, y, inside, FULL)
    else:
        if GROUPS * WIDTH != CHANNELS:  # the differences are from the means of channels
            beta += (mean - per_channel(of_group, WIDTH, CHANNELS, GROUPS)) * scale
        y = _activated(apart, scale, beta, SILU)
        write(out + offset + offsets, y, inside, FULL)


@triton.jit
def part_forward(
    x,
    add,
    work,
    pixels,
    parts,
    of_part,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    OWN: tl.constexpr,
    HAS_ADD: tl.constexpr,
    FULL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Mean and sum of squares of ``of_part`` pixels of an image: work [B, parts, 2, G]."""
    blocks: tl.constexpr = (C // WIDTH + OWN - 1) // OWN
    first = tl.program_id(0) % blocks * OWN
    image, part = tl.program_id(0) // blocks // parts, tl.program_id(0) // blocks % parts
    start = part * of_part
    count = tl.minimum(of_part, pixels - start)
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, CHANNELS)
    channel = first * WIDTH + lane  # [CHANNELS]
    own = (lane < OWN * WIDTH) & (channel < C)
    offset = image.to(tl.int64) * (pixels * C) + start * C + first * WIDTH
    offsets = pixel[:, None] * C + lane[None, :]  # [PIXELS, CHANNELS]
    mean, square = _summed(x + offset, offsets, own, count, C, FULL, PIXELS)
    mean += embedded(add, image, channel, own, C, HAS_ADD)
    of_group, squares = _joined(mean, square, count, WIDTH, CHANNELS, GROUPS)

    group = first + tl.arange(0, GROUPS)
    stored = (tl.arange(0, GROUPS) < OWN) & (group < C // WIDTH)
    to = work + (image.to(tl.int64) * parts + part) * (2 * (C // WIDTH)) + group
    tl.store(to, of_group, mask=stored)
    tl.store(to + C // WIDTH, squares, mask=stored)


@triton.jit
def rest_forward(
    x,
    weight,
    bias,
    add,
    work,
    out,
    mean_to,
    rstd_to,
    pixels,
    parts,
    of_part,
    eps,
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
    """Normalize one part of an image with what all its parts have summed."""
    blocks: tl.constexpr = (C // WIDTH + OWN - 1) // OWN
    # Backwards: what the other kernel has read last is still in the cache.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    first = program % blocks * OWN
    image, part = program // blocks // parts, program // blocks % parts

    group = first + tl.arange(0, GROUPS)
    stored = (tl.arange(0, GROUPS) < OWN) & (group < C // WIDTH)
    one = tl.arange(0, PARTS)
    table = work + image.to(tl.int64) * parts * (2 * (C // WIDTH))
    cells = one[:, None] * (2 * (C // WIDTH)) + group[None, :]  # [PARTS, GROUPS]
    filled = (one < parts)[:, None] & stored[None, :]
    means = tl.load(table + cells, mask=filled, other=0.0)
    squares = tl.load(table + C // WIDTH + cells, mask=filled, other=0.0)
    near = tl.load(table + group, mask=stored, other=0.0)  # [GROUPS], the first part's mean
    weights = tl.minimum(of_part, pixels - one * of_part).to(tl.float32)[:, None]  # [PARTS, 1]
    apart = tl.where(filled, means - near[None, :], 0.0)
    of_group = near + tl.sum(apart * weights, axis=0) / pixels
    apart = tl.where(filled, means - of_group[None, :], 0.0)
    total = tl.sum(squares + weights * WIDTH * apart * apart, axis=0)
    rstd = 1.0 / tl.sqrt_rn(total / (pixels * WIDTH) + eps)  # [GROUPS]
    if part == 0:
        row = image.to(tl.int64) * (C // WIDTH)
        tl.store(mean_to + row + group, of_group, mask=stored)
        tl.store(rstd_to + row + group, rstd, mask=stored)

    start = part * of_part
    count = tl.minimum(of_part, pixels - start)
    pixel, lane = tl.arange(0, PIXELS), tl.arange(0, CHANNELS)
    channel = first * WIDTH + lane  # [CHANNELS]
    own = (lane < OWN * WIDTH) & (channel < C)
    scale = per_channel(rstd, WIDTH, CHANNELS, GROUPS)
    scale *= tl.load(weight + channel, mask=own, other=0.0).to(tl.float32)
    center = per_channel(of_group, WIDTH, CHANNELS, GROUPS)
    center -= embedded(add, image, channel, own, C, HAS_ADD)
    beta = tl.load(bias + channel, mask=own, other=0.0).to(tl.float32)
    offset = image.to(tl.int64) * (pixels * C) + start * C + first * WIDTH
    offsets = pixel[:, None] * C + lane[None, :]  # [PIXELS, CHANNELS]
    for done in range(0, count, PIXELS):
        inside = (done + pixel < count)[:, None] & own[None, :]
        here = offset + done * C
        value = read(x + here + offsets, inside, FULL) - center[None, :]
        y = _activated(value, scale, beta, SILU)
        write(out + here + offsets, y, inside, FULL)
