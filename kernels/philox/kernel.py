"""Philox and Box-Muller inside Triton kernels: the same words as the reference, bit for bit.

All four words of a call are used. Sine, cosine and logarithm are the reference's polynomials, so
normals differ from it only where a device fuses a multiplication with an addition.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import reference

S0, S1, S2 = (tl.constexpr(c) for c in reference.SIN)
C0, C1, C2 = (tl.constexpr(c) for c in reference.COS)
L0, L1, L2, L3, L4, L5, L6 = (tl.constexpr(c) for c in reference.LOG)
SQRT_HALF_BITS = tl.constexpr(reference.SQRT_HALF_BITS)
LN2 = tl.constexpr(reference.LN2)
RADIANS = tl.constexpr(reference.RADIANS_PER_UNIT)


@triton.jit
def normals(seed, group, sample, row, STREAM: tl.constexpr):
    """Draw the four normals of every group: int32 [K] -> float32 [K, 4].

    Args:
        seed: int64, the key's bits; sample, row: integers of which the low 32 bits count.
        group: int32 [K], element // 4.
    """
    stream = tl.full([], STREAM, tl.int32)
    w0, w1, w2, w3 = tl.philox(seed, group, sample.to(tl.int32), row.to(tl.int32), stream)
    z0, z1 = _box_muller(w0, w1)  # [K]
    z2, z3 = _box_muller(w2, w3)  # [K]
    # A join's new dimension is the last and so varies fastest: [K, 2, 2] in the order 0 1 2 3.
    pairs = tl.join(tl.join(z0, z2), tl.join(z1, z3))  # [K, 2, 2]
    return tl.reshape(pairs, [group.shape[0], 4])


@triton.jit
def _box_muller(w0, w1):
    """Map uint32 words [K] to two standard normals, float32 [K]."""
    uniform = w0.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33
    radius = tl.sqrt(-2.0 * _log(uniform))
    cos, sin = _cos_sin(w1)
    return radius * cos, radius * sin


@triton.jit
def _log(u):
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    tail = L5 + f * L6
    tail = L4 + f * tail
    tail = L3 + f * tail
    tail = L2 + f * tail
    tail = L1 + f * tail
    tail = (L0 + f * tail) * f - 0.5
    return exponent.to(tl.float32) * LN2 + (tail * (f * f) + f)


@triton.jit
def _cos_sin(w):
    """Cosine and sine of 2 pi w / 2^32, reduced exactly to [-pi/4, pi/4)."""
    turned = w + 0x20000000  # wraps around, as the angle does
    quadrant = (turned >> 30).to(tl.int32)
    x = ((turned & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(tl.float32) * RADIANS
    square = x * x
    sin = (S0 + square * (S1 + square * S2)) * square * x + x
    cos = ((C0 + square * (C1 + square * C2)) * square - 0.5) * square + 1.0
    odd = (quadrant & 1) != 0
    return (
        _flip(tl.where(odd, sin, cos), (quadrant + 1) & 2),
        _flip(tl.where(odd, cos, sin), quadrant & 2),
    )


@triton.jit
def _flip(value, bit_1):
    """Change the sign where bit 1 is set."""
    return (value.to(tl.int32, bitcast=True) ^ (bit_1 << 30)).to(tl.float32, bitcast=True)
