"""The scene of three Gaussians whose files are known byte by byte, and random ones."""

from math import sqrt

import numpy as np
from hypothesis import strategies as st

from ddimx.splats.cloud import GaussianCloud, axes

HALF = sqrt(0.5)

# Position, sigmas, quaternion (w, x, y, z), sRGB, alpha. The first is tall and stands as it is; the
# second, a ball of #336699, is turned by 90 degrees about y; the third, of a third of a turn about
# (-1, 1, -1), is so opaque that its logit would be infinite.
ROWS = [
    ((0.5, -0.25, 1.0), (0.125, 0.5, 0.25), (1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 0.5),
    ((-1.0, 2.0, 0.125), (1.0, 1.0, 1.0), (HALF, 0.0, HALF, 0.0), (0.2, 0.4, 0.6), 0.9375),
    ((0.0, 0.0, -3.0), (0.0625, 0.0625, 0.0625), (0.5, -0.5, 0.5, -0.5), (0.5, 0.5, 0.5), 1.0),
]


def three() -> GaussianCloud:
    return GaussianCloud(
        *(np.array(column, dtype=np.float32) for column in zip(*ROWS, strict=True))
    )


def random_cloud(count: int, seed: int, reach: float = 1.0) -> GaussianCloud:
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(count, 4))
    return GaussianCloud(
        rng.uniform(-reach, reach, (count, 3)),
        np.exp(rng.uniform(-5, 0, (count, 3))) * reach,
        q / np.linalg.norm(q, axis=1, keepdims=True),
        rng.random((count, 3)),
        rng.uniform(0.02, 1.0, count),
    )


clouds = st.builds(
    random_cloud,
    count=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    reach=st.sampled_from([0.01, 1.0, 100.0]),
)


def covariances(cloud):
    scaled = axes(cloud.quaternions) * cloud.sigmas[:, None, :].astype(float)
    return scaled @ np.swapaxes(scaled, 1, 2)
