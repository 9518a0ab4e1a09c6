"""KID, the kernel inception distance (Binkowski et al., arXiv 1801.01401).

The squared maximum mean discrepancy of two sets of features under the kernel ``(x y / D + 1)^3``,
by its unbiased estimate: the mean and the standard deviation over random subsets. It may be
slightly below 0 where the sets are alike, and unlike FID it has no bias of small sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# The paper's number of subsets and their size; torch-fidelity has the same, and this seed.
SUBSETS, SIZE, SEED = 100, 1000, 2020

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kid:
    """Mean and standard deviation over ``subsets`` subsets of ``size`` images of each set."""

    mean: float
    deviation: float
    subsets: int
    size: int


def kid(
    samples: Features,
    reference: Features,
    *,
    subsets: int = SUBSETS,
    size: int = SIZE,
    seed: int = SEED,
) -> Kid:
    """Return the KID of two sets of features, float32 [N, D] and [M, D].

    The subsets are those that torch-fidelity draws from the same seed. Where a set has fewer than
    ``size`` images, that many are drawn of both; where the subsets are both sets whole, one is
    taken.

    Raises:
        ValueError: a set of fewer than two images, or features of different lengths.
    """
    if samples.shape[1] != reference.shape[1] or min(len(samples), len(reference)) < 2:
        raise ValueError("KID needs two images of each set, and features of one length")
    size = min(size, len(samples), len(reference))
    if size == len(samples) == len(reference):
        subsets = 1
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        x = samples[random.choice(len(samples), size, replace=False)]
        y = reference[random.choice(len(reference), size, replace=False)]
        values.append(squared_mmd(x, y))
    return Kid(float(np.mean(values)), float(np.std(values)), subsets, size)


def squared_mmd(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the unbiased estimate of the squared discrepancy of [N, D] and [M, D], in float64.

    It is the paper's equation 4: pairs of a feature vector with itself are left out.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    within = 0.0
    for one in (a, b):
        kernel = _kernel(one, one)
        within += (kernel.sum() - np.trace(kernel)) / (len(one) * (len(one) - 1))
    return float(within - 2 * _kernel(a, b).mean())


def _kernel(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ``(a b / D + 1)^3`` of every pair, float64 [N, M]."""
    kernel: npt.NDArray[np.float64] = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel
