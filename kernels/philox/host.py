"""The reference's numbers on a CPU, bit for bit, by NumPy: two to four times as fast.

Philox needs a hundred small operations and Box-Muller fifty. NumPy starts each in a fraction of the
time that PyTorch takes, and here they work in place on pieces that stay in the processor's cache.
:mod:`ddimx.kernels.philox.reference` says what is computed; arguments and results are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import reference
from .reference import MASK32, ROUNDS, Words

U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]

PIECE = 16384  # groups of four words at once: 800 KB of buffers
_MULTIPLIER_0 = np.uint64(reference.MULTIPLIER_0)
_MULTIPLIER_1 = np.uint64(reference.MULTIPLIER_1)
_MASK, _HALF = np.uint64(MASK32), np.uint64(32)


def serves(seed: int | Tensor, *tensors: Any) -> bool:
    """Return whether these arguments are of a CPU and one seed, and not being traced."""
    if torch.compiler.is_compiling():
        return False
    if isinstance(seed, Tensor):
        if seed.numel() != 1:
            return False
        tensors = (*tensors, seed)
    return all(
        not isinstance(t, Tensor) or (type(t) is Tensor and t.device.type == "cpu") for t in tensors
    )


def philox_words(
    seed: int | Tensor, c0: Tensor, c1: int | Tensor, c2: int | Tensor, c3: int | Tensor
) -> Words:
    """Return the four words of every counter, as :func:`reference.philox_words` does."""
    counters = [c if isinstance(c, Tensor) else torch.tensor(c) for c in (c0, c1, c2, c3)]
    shape = np.broadcast_shapes(*(tuple(c.shape) for c in counters))
    columns = [_column(c.expand(shape) if c.numel() > 1 else c) for c in counters]
    out = np.empty((4, math.prod(shape)), dtype=np.uint64)
    buffers = np.empty((6, PIECE), dtype=np.uint64)
    keys = _keys(seed)
    for at in range(0, out.shape[1], PIECE):
        piece = slice(at, min(at + PIECE, out.shape[1]))
        state = [buffer[: piece.stop - at] for buffer in buffers]
        for place, column in zip(state, columns, strict=False):
            place[:] = column[piece] if len(column) > 1 else column
        _mix(state, keys)
        out[:, piece] = buffers[:4, : piece.stop - at]
    w0, w1, w2, w3 = torch.from_numpy(out.view(np.int64)).view(4, *shape).unbind()
    return w0, w1, w2, w3


def normal(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    *,
    dtype: torch.dtype,
) -> Tensor:
    """Draw standard normals [B, numel], as :func:`reference.normal` does."""
    out = np.empty((len(sample) * ((numel + 3) // 4), 4), dtype=np.float32)
    for piece, words in _pieces(seed, sample, row, stream, (numel + 3) // 4):
        radius = _log(_uniform(words[0::2].reshape(-1)))
        radius *= np.float32(-2.0)
        # PyTorch's own root, for on some CPUs its last bit differs from the correct one.
        torch.from_numpy(radius).sqrt_()
        cos, sin = _cos_sin(words[1::2].reshape(-1))
        cos *= radius
        sin *= radius
        half = len(cos) // 2
        for place, part in enumerate((cos[:half], sin[:half], cos[half:], sin[half:])):
            out[piece, place] = part
    return _flat(out, len(sample), numel).to(dtype)


def uniform(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    *,
    dtype: torch.dtype,
) -> Tensor:
    """Draw uniforms in (0, 1], [B, numel], as :func:`reference.uniform` does."""
    out = np.empty((len(sample) * ((numel + 3) // 4), 4), dtype=np.float32)
    for piece, words in _pieces(seed, sample, row, stream, (numel + 3) // 4):
        for place, word in enumerate(words):
            out[piece, place] = _uniform(word)
    return _flat(out, len(sample), numel).to(dtype)


def randint(
    seed: int | Tensor,
    sample: Tensor,
    row: int | Tensor,
    stream: int | Tensor,
    numel: int,
    high: int,
) -> Tensor:
    """Draw integers in [0, high), int64 [B, numel], as :func:`reference.randint` does."""
    out = np.empty((len(sample) * ((numel + 3) // 4), 4), dtype=np.uint64)
    for piece, words in _pieces(seed, sample, row, stream, (numel + 3) // 4):
        if high < 2**32:
            words *= np.uint64(high)
            words >>= _HALF
        for place, word in enumerate(words):
            out[piece, place] = word
    return _flat(out.view(np.int64), len(sample), numel)


def _pieces(
    seed: int | Tensor, sample: Tensor, row: int | Tensor, stream: int | Tensor, groups: int
) -> Iterator[tuple[slice, U64]]:
    """Yield where each piece lies among the B * groups groups, and its words, uint64 [4, K].

    The words lie in [0, 2^32) and are overwritten by the next piece.
    """
    keys = _keys(seed)
    block = np.arange(groups, dtype=np.uint64)
    wide = max(1, min(groups, PIECE))  # a piece is part of a sample, or some whole ones
    high = PIECE // wide
    buffer = np.empty(6 * high * wide, dtype=np.uint64)
    columns = [_column(value) for value in (sample, row, stream)]
    for b in range(0, len(sample), high):
        below = slice(b, min(b + high, len(sample)))
        for g in range(0, groups, wide):
            beside = slice(g, min(g + wide, groups))
            shape = (below.stop - b, beside.stop - g)
            size = shape[0] * shape[1]
            state = buffer[: 6 * size].reshape(6, *shape)
            state[0] = block[beside]
            for place, column in zip((1, 2, 3), columns, strict=True):
                state[place] = (column[below] if len(column) > 1 else column)[:, None]
            flat = state.reshape(6, size)
            _mix(list(flat), keys)
            at = b * groups + g
            yield slice(at, at + size), flat[:4]


def _keys(seed: int | Tensor) -> list[tuple[np.uint64, np.uint64]]:
    """Return the two key words of every round."""
    key0, key1 = int(seed) & MASK32, (int(seed) >> 32) & MASK32
    return [
        (
            np.uint64((key0 + r * reference.WEYL_0) & MASK32),
            np.uint64((key1 + r * reference.WEYL_1) & MASK32),
        )
        for r in range(ROUNDS)
    ]


def _column(value: int | Tensor) -> U64:
    """Return a counter word as uint64 [N], of one element where it is the same for all."""
    if not isinstance(value, Tensor):
        value = torch.tensor(value)
    return value.detach().to(torch.int64).reshape(-1).numpy().view(np.uint64)


def _mix(state: list[U64], keys: list[tuple[np.uint64, np.uint64]]) -> None:
    """Mix counters, the first four of ``state`` [K], in place; two more are scratch.

    There must be an even number of rounds, after which the words are where the counters were.
    """
    x0, x1, x2, x3, p0, p1 = state
    for key0, key1 in keys:
        np.multiply(x0, _MULTIPLIER_0, p0)
        np.multiply(x2, _MULTIPLIER_1, p1)
        # x1 and x3 only enter by exclusive or, so their upper halves are cleared with x0 and x2.
        for product, other, key, x in ((p1, x1, key0, x0), (p0, x3, key1, x2)):
            np.right_shift(product, _HALF, x)
            np.bitwise_xor(x, other, x)
            np.bitwise_xor(x, key, x)
            np.bitwise_and(x, _MASK, x)
        x1, x3, p0, p1 = p1, p0, x3, x1
    np.bitwise_and(x1, _MASK, x1)
    np.bitwise_and(x3, _MASK, x3)


def _uniform(words: U64) -> F32:
    result = words.view(np.int64).astype(np.float32)  # there is no fast way from uint64
    result *= np.float32(2.0**-32)
    result += np.float32(2.0**-33)
    return result


def _log(u: F32) -> F32:
    """Return the reference's logarithm; ``u`` is overwritten."""
    bits = u.view(np.int32)
    exponent = bits - np.int32(reference.SQRT_HALF_BITS)
    exponent >>= np.int32(23)
    bits -= exponent << np.int32(23)
    u -= np.float32(1.0)
    tail = _horner(u, reference.LOG)
    tail *= u
    tail -= np.float32(0.5)
    tail *= u * u
    tail += u
    scaled = exponent.astype(np.float32)
    scaled *= np.float32(reference.LN2)
    tail += scaled
    return tail


def _cos_sin(words: U64) -> tuple[F32, F32]:
    """Return the reference's cosine and sine of 2 pi w / 2^32."""
    angle = words.astype(np.uint32)
    angle += np.uint32(2**29)  # wraps around, as the angle does
    quadrant = angle >> np.uint32(30)
    angle &= np.uint32(2**30 - 1)
    reduced = angle.view(np.int32)
    reduced -= np.int32(2**29)
    x = reduced.astype(np.float32)
    x *= np.float32(reference.RADIANS_PER_UNIT)
    square = x * x
    sin = _horner(square, reference.SIN)
    sin *= square
    sin *= x
    sin += x
    cos = _horner(square, reference.COS)
    cos *= square
    cos -= np.float32(0.5)
    cos *= square
    cos += np.float32(1.0)
    # In odd quadrants the two change places, in half of them their signs: on their bits.
    cos_bits, sin_bits = cos.view(np.uint32), sin.view(np.uint32)
    exchange = cos_bits ^ sin_bits
    exchange &= np.uint32(0) - (quadrant & np.uint32(1))
    cos_bits ^= exchange
    sin_bits ^= exchange
    sin_bits ^= (quadrant & np.uint32(2)) << np.uint32(30)
    quadrant += np.uint32(1)
    cos_bits ^= (quadrant & np.uint32(2)) << np.uint32(30)
    return cos, sin


def _horner(x: F32, coefficients: tuple[float, ...]) -> F32:
    result: F32 = x * np.float32(coefficients[-1])
    result += np.float32(coefficients[-2])
    for coefficient in reversed(coefficients[:-2]):
        result *= x
        result += np.float32(coefficient)
    return result


def _flat(out: npt.NDArray[Any], samples: int, numel: int) -> Tensor:
    """Return groups of four as a contiguous tensor [B, numel]."""
    groups = out.reshape(samples, (numel + 3) // 4 * 4)
    return torch.from_numpy(groups)[:, :numel].contiguous()
