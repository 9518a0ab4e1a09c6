"""What the Triton kernels make of Philox's words, in the interpreter where there is no GPU."""

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
_cos_sin = pytest.importorskip("ddimx.kernels.philox.kernel")._cos_sin
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def turned(words, cos_to, sin_to, COUNT: tl.constexpr):
    lane = tl.arange(0, COUNT)
    cos, sin = _cos_sin(tl.load(words + lane).to(tl.uint32, bitcast=True))
    tl.store(cos_to + lane, cos)
    tl.store(sin_to + lane, sin)


def cos_sin(words):
    """Cosine and sine of 2 pi w / 2^32 of a power of two of words, float32."""
    bits = torch.from_numpy(np.asarray(words, dtype=np.uint32).view(np.int32)).to(DEVICE)
    cos, sin = (torch.empty(len(bits), device=DEVICE) for _ in range(2))
    turned[(1,)](bits, cos, sin, COUNT=len(bits))
    return cos.cpu(), sin.cpu()


def test_quarter_turns_are_exact():
    cos, sin = cos_sin([0, 2**30, 2**31, 3 * 2**30])
    assert cos.tolist() == [1.0, 0.0, -1.0, 0.0]
    assert sin.tolist() == [0.0, 1.0, 0.0, -1.0]


def test_angles_are_reduced_at_odd_eighths():
    """Beside (2 k + 1) / 8 of a turn the octant changes; the polynomials are right to 1.5e-7."""
    eighths = np.arange(1, 9, 2, dtype=np.int64) * 2**29
    words = (eighths[:, None] + [-2, -1, 0, 1]).ravel()
    angle = words * (2 * np.pi / 2**32)
    cos, sin = cos_sin(words)
    assert np.abs(cos.numpy() - np.cos(angle)).max() < 1.5e-7
    assert np.abs(sin.numpy() - np.sin(angle)).max() < 1.5e-7
