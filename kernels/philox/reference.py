"""Philox-4x32-10 in plain PyTorch: the definition every other backend is compared with.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC'11) and
its library Random123. A draw is addressed, never consumed::

    key     = (seed & 0xffffffff, seed >> 32)
    counter = (element // 4, sample index, row ordinal, stream id)
    word    = philox(key, counter)[element % 4]

Words are 32-bit unsigned and held in int64, for PyTorch has few operations on uint32. The rest
keeps to what a Triton kernel has too: 32-bit multiply-high, shifts, bit casts and float32
multiply-add, with no library sine, cosine or logarithm, whose last bits differ between devices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Words = tuple[Tensor, Tensor, Tensor, Tensor]

MASK32 = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85

# Minimax fits: Lawson-weighted least squares in float64 on 4001 Chebyshev nodes, then rounded to
# float32. The stated errors are those of the rounded coefficients, in exact arithmetic.
# sin x = x + x^3 S(x^2), |x| <= pi/4: absolute error 2.3e-9.
SIN = (-1.666665077e-01, 8.331978694e-03, -1.949563593e-04)
# cos x = 1 - x^2/2 + x^4 C(x^2), |x| <= pi/4: absolute error 5.1e-10.
COS = (4.166664556e-02, -1.388736768e-03, 2.443845187e-05)
# ln(1+f) = f - f^2/2 + f^3 L(f), sqrt(1/2) <= 1+f < sqrt(2): error 3.5e-8 relative to ln(1+f).
LOG = (
    3.333390951e-01,
    -2.500133812e-01,
    1.996306330e-01,
    -1.657758504e-01,
    1.491476744e-01,
    -1.426748782e-01,
    8.700437844e-02,
)
SQRT_HALF_BITS = 0x3F3504F3  # the float32 nearest to sqrt(1/2)
LN2 = math.log(2.0)
RADIANS_PER_UNIT = math.tau / 2**32


def philox_words(
    seed: int | Tensor, c0: Tensor, c1: int | Tensor, c2: int | Tensor, c3: int | Tensor
) -> Words:
    """Return the four words of Philox-4x32-10 for every counter.

    Args:
        seed: the 64-bit key; as a tensor, int64 with the same bits, broadcastable to the counters.
        c0: first counter word, integer in [0, 2^32), any shape; its device is the device of all.
        c1, c2, c3: the other counter words, ints or integer tensors broadcastable with ``c0``.

    Returns:
        Four int64 tensors of the broadcast shape, values in [0, 2^32).
    """
    key0, key1 = seed & MASK32, (seed >> 32) & MASK32
    x0 = c0.to(torch.int64)
    x1, x2, x3 = (_int64(c, c0.device) for c in (c1, c2, c3))
    for _ in range(ROUNDS):
        # Bits 0..63 of a product survive the wrap-around of signed int64. x1 and x3 only enter
        # by exclusive or, so their upper halves are cleared together with x0 and x2.
        p0, p1 = x0 * MULTIPLIER_0, x2 * MULTIPLIER_1
        x0, x1, x2, x3 = _mix(p1, x1, key0), p1, _mix(p0, x3, key1), p0
        key0, key1 = (key0 + WEYL_0) & MASK32, (key1 + WEYL_1) & MASK32
    return x0, x1 & MASK32, x2, x3 & MASK32


def uniform_from_words(words: Tensor) -> Tensor:
    """Map words to float32 in (0, 1]: ``float32(w) * 2^-32 + 2^-33``, rounded to nearest.

    ``words``: int64 of any shape, values in [0, 2^32).
    The least value is 2^-33. The 128 words from 2^32 - 128 on round to exactly 1.0.
    """
    return words.to(torch.float32).mul_(2.0**-32).add_(2.0**-33)


def normal_from_words(w0: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
    """Map two words to two independent standard normals by Box-Muller, in float32.

    ``w0`` gives the radius sqrt(-2 ln u), with u from :func:`uniform_from_words`, and ``w1`` the
    angle 2 pi w1 / 2^32; the results are radius * cos and radius * sin. Both lie within 1e-6 of
    the same formulas in float64 on that u. No value exceeds sqrt(66 ln 2) = 6.764 in size.

    Args:
        w0, w1: int64 of one shape, values in [0, 2^32).

    Returns:
        Two float32 tensors of that shape.
    """
    radius = _log(uniform_from_words(w0)).mul_(-2.0).sqrt_()
    cos, sin = _cos_sin(w1)
    return cos.mul_(radius), sin.mul_(radius)


def normal(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw ``numel`` standard normals for each sample.

    Words 0 and 1 of a counter give its elements 0 and 1, words 2 and 3 its elements 2 and 3; what
    lies past ``numel`` is dropped, so an element does not depend on ``numel``.

    Args:
        seed: the 64-bit key.
        sample: integer tensor [B] of sample indices in [0, 2^32).
        row, stream: ints or integer tensors broadcastable to [B], in [0, 2^32).
        numel: elements per sample, in flattened C, H, W order.
        dtype: of the result; the arithmetic is float32 whatever it is.

    Returns:
        Tensor [B, numel], contiguous, on the device of ``sample``.
    """
    w0, w1, w2, w3 = _words(seed, sample, row, stream, numel)
    return _interleave((*normal_from_words(w0, w1), *normal_from_words(w2, w3)), numel, dtype)


def uniform(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw uniforms in (0, 1], [B, numel]; arguments as :func:`normal`."""
    words = _words(seed, sample, row, stream, numel)
    return _interleave(tuple(uniform_from_words(w) for w in words), numel, dtype)


def randint(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    high: int,
) -> Tensor:
    """Draw ``numel`` integers in [0, high) for each sample; otherwise as :func:`normal`.

    The value is ``(w * high) >> 32``: a probability is off by less than 2^-32, which is a share
    of high / 2^32 of itself.

    Args:
        high: in 1..2^32.

    Returns:
        int64 tensor [B, numel].
    """
    words = _interleave(_words(seed, sample, row, stream, numel), numel, torch.int64)
    return words.mul_(high).bitwise_right_shift_(32).bitwise_and_(MASK32)


def _int64(value: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=torch.int64)
    return torch.full((), value, dtype=torch.int64, device=device)


def _mix(product: Tensor, other: Tensor, key: int | Tensor) -> Tensor:
    """Return ``high32(product) ^ other ^ key``, cleared above bit 31.

    In place where the shapes allow it: on a CPU new memory for every operation costs a third.
    """
    mixed = product >> 32
    mixed = mixed.bitwise_xor_(other) if mixed.shape == other.shape else mixed ^ other
    scalar = not isinstance(key, Tensor) or key.dim() == 0
    return (mixed.bitwise_xor_(key) if scalar else mixed ^ key).bitwise_and_(MASK32)


def _words(
    seed: int | Tensor, sample: Tensor, row: int | Tensor, stream: int | Tensor, numel: int
) -> Words:
    """Return words [B, ceil(numel / 4)]; operands stay unexpanded for as long as they can."""
    block = torch.arange((numel + 3) // 4, dtype=torch.int64, device=sample.device)
    columns = (_int64(c, sample.device).unsqueeze(-1) for c in (sample, row, stream))
    return philox_words(seed, block, *columns)


def _interleave(parts: tuple[Tensor, ...], numel: int, dtype: torch.dtype) -> Tensor:
    """Merge four [B, K] into [B, numel], element ``4 k + j`` from ``parts[j]``."""
    elements = torch.stack([part.to(dtype) for part in parts], dim=-1).flatten(-2)
    return elements[:, :numel].contiguous()


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Evaluate ``c0 + c1 x + c2 x^2 + ...`` in the dtype of ``x``."""
    result = (x * coefficients[-1]).add_(coefficients[-2])
    for coefficient in reversed(coefficients[:-2]):
        result = result.mul_(x).add_(coefficient)
    return result


def _log(u: Tensor) -> Tensor:
    """Natural logarithm of positive normal float32.

    The relative error stays small near u = 1, where the radius is a square root of almost
    nothing; the fast logarithms of accelerators are only absolutely accurate there.
    """
    bits = u.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1.0
    square = f * f
    tail = _horner(f, LOG).mul_(f).sub_(0.5).mul_(square)
    return tail.add_(f).add_(exponent.to(torch.float32).mul_(LN2))


def _cos_sin(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2 pi w / 2^32 as float32, after an exact reduction to [-pi/4, pi/4)."""
    angle = w + 2**29  # may reach quadrant 4, whose two low bits are those of quadrant 0
    quadrant = (angle >> 30).to(torch.int32)
    x = ((angle & (2**30 - 1)) - 2**29).to(torch.float32).mul_(RADIANS_PER_UNIT)
    square = x * x
    sin = _horner(square, SIN).mul_(square).mul_(x).add_(x)
    cos = _horner(square, COS).mul_(square).sub_(0.5).mul_(square).add_(1.0)
    odd = (quadrant & 1).to(torch.bool)
    return (
        torch.where(odd, sin, cos).mul_(1 - ((quadrant + 1) & 2)),
        torch.where(odd, cos, sin).mul_(1 - (quadrant & 2)),
    )
