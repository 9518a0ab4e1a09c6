"""Counter-based random numbers: Philox-4x32-10 and the normals, uniforms and integers made of it.

Every number is a function of ``(seed, sample, row, stream, element)`` alone, so it is the same for
any split into batches, ranks and resumptions. ``reference.py`` holds the definition in PyTorch, for
any device; every other backend draws the same words bit for bit and the same normals to 1e-5.
"""

from ddimx.kernels.philox.reference import (
    normal,
    normal_from_words,
    philox_words,
    randint,
    uniform,
    uniform_from_words,
)

__all__ = [
    "normal",
    "normal_from_words",
    "philox_words",
    "randint",
    "uniform",
    "uniform_from_words",
]
