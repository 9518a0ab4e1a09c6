"""Gaussians as physical quantities; what a file format makes of them is the writer's business.

Frame: right-handed, y up, as the meshes and octrees. Colors are display values (sRGB), for that
is what a person writes as ``#rrggbb`` and what every splat viewer takes ``0.5 + C0 f_dc`` to be;
only glTF's ``COLOR_0`` wants linear light, and its writer converts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import DdimxError, UsageError

Array = npt.NDArray[np.float32]

UNIT_TOLERANCE = 1e-3  # of a quaternion's length; float32 arithmetic errs by 1e-6
UPRIGHT: Array = np.array([1, 0, 0, 0], dtype=np.float32)  # the quaternion that turns nothing


@dataclass(frozen=True, eq=False)
class GaussianCloud:
    """N Gaussians, N >= 1.

    Attributes:
        positions: float32 [N, 3], the centers.
        sigmas: float32 [N, 3], standard deviations along the Gaussian's own axes, > 0.
        quaternions: float32 [N, 4], (w, x, y, z) of unit length, own axes to world.
        colors: float32 [N, 3], sRGB in [0, 1].
        alphas: float32 [N], opacity at the center, in (0, 1].

    Raises:
        DdimxError: no Gaussians, another shape, or a value outside its range.
    """

    positions: Array
    sigmas: Array
    quaternions: Array
    colors: Array
    alphas: Array

    def __post_init__(self) -> None:
        count = len(self.positions)
        if not count:
            raise DdimxError("a cloud needs at least one Gaussian")
        widths = {"positions": 3, "sigmas": 3, "quaternions": 4, "colors": 3, "alphas": None}
        for name, width in widths.items():
            values = np.asarray(getattr(self, name), dtype=np.float32)
            shape = (count,) if width is None else (count, width)
            if values.shape != shape:
                raise DdimxError(f"{name} have shape {values.shape}, expected {shape}")
            object.__setattr__(self, name, values)
        self._check()

    def __len__(self) -> int:
        return len(self.positions)

    def _check(self) -> None:
        lengths = np.linalg.norm(self.quaternions, axis=1)
        rules = {
            "positions": (np.isfinite(self.positions).all(axis=1), "finite"),
            "sigmas": (((self.sigmas > 0) & np.isfinite(self.sigmas)).all(axis=1), "positive"),
            "quaternions": (np.abs(lengths - 1) < UNIT_TOLERANCE, "of unit length"),
            "colors": (((self.colors >= 0) & (self.colors <= 1)).all(axis=1), "within 0..1"),
            "alphas": ((self.alphas > 0) & (self.alphas <= 1), "above 0 and at most 1"),
        }
        for name, (good, what) in rules.items():
            if not good.all():
                index = int(np.argmin(good))
                value = getattr(self, name)[index].tolist()
                raise DdimxError(f"{name}[{index}] = {value}: must be {what}")

    def rotated(self, rotation: npt.ArrayLike) -> GaussianCloud:
        """Return the cloud turned about the origin by a proper rotation, float [3, 3].

        Raises:
            UsageError: the matrix is not a rotation; a mirror would turn shapes inside out.
        """
        matrix = np.asarray(rotation, dtype=np.float64)
        if matrix.shape != (3, 3) or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6):
            raise UsageError(f"no rotation: {matrix.tolist()}")
        if np.linalg.det(matrix) < 0:
            raise UsageError(f"a mirror, no rotation: {matrix.tolist()}")
        turned = multiply(quaternion_of(matrix), self.quaternions)
        return replace(
            self,
            positions=(self.positions @ matrix.T).astype(np.float32),
            quaternions=turned.astype(np.float32),
        )


def balls(
    positions: npt.ArrayLike, sigma: float, color: npt.ArrayLike, alpha: float
) -> GaussianCloud:
    """Return round Gaussians of one size, color ([3], or [N, 3]) and opacity."""
    centers = np.asarray(positions, dtype=np.float32)
    count = len(centers)
    return GaussianCloud(
        centers,
        np.full((count, 3), sigma, dtype=np.float32),
        np.tile(UPRIGHT, (count, 1)),
        np.broadcast_to(np.asarray(color, dtype=np.float32), (count, 3)),
        np.full(count, alpha, dtype=np.float32),
    )


def merge(clouds: Sequence[GaussianCloud]) -> GaussianCloud:
    """Return one cloud of all Gaussians, in the order given."""
    if not clouds:
        raise DdimxError("nothing to merge")
    fields = ("positions", "sigmas", "quaternions", "colors", "alphas")
    return GaussianCloud(*(np.concatenate([getattr(c, f) for c in clouds]) for f in fields))


def every_nth(cloud: GaussianCloud, step: int) -> GaussianCloud:
    """Return every ``step``-th Gaussian, from the first on."""
    fields = ("positions", "sigmas", "quaternions", "colors", "alphas")
    return GaussianCloud(*(getattr(cloud, name)[::step] for name in fields))


def multiply(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the quaternion product a b, float64 [..., 4], as (w, x, y, z): first b, then a."""
    aw, ax, ay, az = np.moveaxis(np.asarray(a, dtype=np.float64), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b, dtype=np.float64), -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def quaternion_of(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the unit quaternion (w, x, y, z) of one rotation [3, 3], its largest part positive.

    Each row below is the quaternion times four times one of its parts; the longest row is taken,
    so nothing is divided by what may vanish (Shepperd 1978).
    """
    m = matrix
    trace = np.trace(m)
    rows = np.array(
        [
            [1 + trace, m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], 1 + 2 * m[0, 0] - trace, m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], 1 + 2 * m[1, 1] - trace, m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 + 2 * m[2, 2] - trace],
        ]
    )
    longest = rows[int(np.argmax(np.diag(rows)))]
    unit: npt.NDArray[np.float64] = longest / np.linalg.norm(longest)
    return unit


def axes(quaternions: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return rotation matrices of unit quaternions, [N, 4] -> [N, 3, 3]; columns are own axes."""
    w, x, y, z = np.moveaxis(np.asarray(quaternions, dtype=np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))
