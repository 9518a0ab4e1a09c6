"""The Fréchet distance of two normals, and the statistics it is taken of, in float64.

FID (Heusel et al., arXiv 1706.08500, equation 6) is
``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` of the means and covariances of features.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DdimxError
from ...files import whole_file
from ...untrusted.arrays import read_npz
from ...untrusted.text import parse_json, shortened, shown

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of a set's features.

    Attributes:
        mean: float64 [D]; covariance: float64 [D, D], with divisor count - 1.
        count: how many images; 0 where a file of another program does not say.
        about: which images, which preprocessing, which feature network.
        features: float32 [M, D], of all images or of M of them, for KID, precision and recall;
            None where they were not kept.
    """

    mean: Array
    covariance: Array
    count: int
    about: dict[str, Any] = field(default_factory=dict)
    features: npt.NDArray[np.float32] | None = None


class Accumulator:
    """Mean and covariance of features that arrive in batches, without keeping them."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    def add(self, features: npt.ArrayLike) -> None:
        """Add features [B, D] (Chan's update, which loses no digits to a large mean)."""
        batch = np.asarray(features, dtype=np.float64)
        mean = batch.mean(axis=0)
        centered = batch - mean
        self.merge(len(batch), mean, centered.T @ centered)

    def merge(self, count: int, mean: Array, scatter: Array) -> None:
        """Add ``count`` features of this mean [D] and scatter [D, D], the covariance times count-1.

        Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances (1979), equations 2.1: exact but for roundings, whatever is merged with what.
        """
        if not self.count:
            self._mean, self._scatter = np.zeros_like(mean), np.zeros((len(mean), len(mean)))
        total = self.count + count
        delta = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(delta, delta) * (self.count * count / total)
        self._mean = self._mean + delta * (count / total)
        self.count = total

    def statistics(self, about: dict[str, Any]) -> Statistics:
        """Return what was added.

        Raises:
            DdimxError: fewer than two images, or features that are not finite.
        """
        if self.count < 2:
            raise DdimxError(f"{about.get('images', 'images')}: a covariance needs two images")
        if not (np.isfinite(self._mean).all() and np.isfinite(self._scatter).all()):
            raise DdimxError(f"{about.get('images', 'images')}: features are not finite")
        return Statistics(self._mean, self._scatter / (self.count - 1), self.count, about)


def merge_statistics(*parts: Statistics) -> Statistics:
    """Return the statistics of all images of several sets, as of machines that share no folder.

    Mean and covariance are merged exactly, so that they are those of all images but for roundings.
    ``about`` keeps what is the same of all; their names are joined, ``parts`` and ``unreadable``
    are summed. Features are those of all sets, where all have kept theirs.

    Raises:
        DdimxError: a file that does not say how many images it is of, or sets of different
            networks, weights or preprocessing.
    """
    if not parts:
        raise DdimxError("no statistics to merge")
    total, first = Accumulator(), parts[0]
    for part in parts:
        name = part.about.get("images", "statistics")
        if part.count < 2:
            raise DdimxError(f"{shown(name)}: does not say of how many images it is")
        if len(part.mean) != len(first.mean):
            raise DdimxError(
                f"features of {len(first.mean)} and of {len(part.mean)} numbers do not merge"
            )
        for key in ("network", "weights_sha256", "resize", "preprocessing", "decoding"):
            if part.about.get(key) != first.about.get(key):
                raise DdimxError(
                    f"{shown(name)}: {key} is {shown(part.about.get(key))}, of the first set it is "
                    f"{shown(first.about.get(key))}: these do not merge"
                )
        total.merge(part.count, part.mean, part.covariance * (part.count - 1))
    about = {k: v for k, v in first.about.items() if all(p.about.get(k) == v for p in parts)}
    about["images"] = " + ".join(str(part.about.get("images", "?")) for part in parts)
    for key in ("parts", "unreadable"):
        counts = [n for part in parts if isinstance(n := part.about.get(key), int)]
        if counts:
            about[key] = sum(counts)
    features = [part.features for part in parts if part.features is not None]
    merged = total.statistics(about)
    return (
        replace(merged, features=np.concatenate(features))
        if len(features) == len(parts)
        else merged
    )


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return the squared Fréchet distance.

    The root's trace is the sum of the singular values of ``A' B``, where ``S1 = A A'`` and
    ``S2 = B B'``: they are known to 1e-16 of the largest, while eigenvalues of a product would be,
    and their roots to 1e-8 only. Eigenvalues of a covariance that are 0 but for roundings, as all
    are beyond the number of images, are left out: their roots would be 1e-8 as well, and others
    with another number of threads.

    Raises:
        DdimxError: features of different lengths, or numbers so large that there is no distance.
    """
    if a.mean.shape != b.mean.shape:
        raise DdimxError(f"features of {len(a.mean)} and of {len(b.mean)} numbers do not compare")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            factors = []
            for covariance in (a.covariance, b.covariance):
                values, vectors = np.linalg.eigh(covariance)
                # As numpy.linalg.matrix_rank has it: what eigh makes of 0 is below.
                least = np.abs(values).max(initial=0) * len(values) * np.finfo(np.float64).eps
                kept = values > least
                factors.append(vectors[:, kept] * np.sqrt(values[kept]))
            overlap = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
            difference = a.mean - b.mean
            traces = np.trace(a.covariance) + np.trace(b.covariance)
            distance = float(difference @ difference + traces - 2 * overlap)
    except np.linalg.LinAlgError:
        distance = np.nan
    if not np.isfinite(distance):
        raise DdimxError("the statistics' numbers are too large to be of images' features")
    return max(distance, 0.0)


def write_statistics(path: Path, statistics: Statistics, *, replace: bool = True) -> None:
    """Write ``mu``, ``sigma`` (as pytorch-fid names them), ``count`` and ``about``, a JSON text.

    ``features`` are written where they were kept. ``replace`` is as in
    :func:`ddimx.files.whole_file`.
    """
    arrays = {
        "mu": statistics.mean,
        "sigma": statistics.covariance,
        "count": np.array(statistics.count),
        "about": np.array(json.dumps(statistics.about, ensure_ascii=False)),
    }
    if statistics.features is not None:
        arrays["features"] = statistics.features
    with whole_file(path, replace=replace) as part, part.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def read_statistics(path: Path) -> Statistics:
    """Read statistics, ours or another program's with ``mu`` and ``sigma``.

    Of guided-diffusion's files (``mu``, ``sigma``, and ``mu_s``, ``sigma_s`` of another layer) the
    first two are read.

    Raises:
        DdimxError: no such file, or arrays that are not a mean and a covariance.
    """
    names = ("mu", "sigma", "count", "about", "features")
    arrays = npz_arrays(path, names, copies=2)  # as float64
    mean, covariance = arrays.get("mu"), arrays.get("sigma")
    if mean is None or covariance is None:
        raise DdimxError(f"{path}: holds no 'mu' and 'sigma'")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DdimxError(f"{path}: mu {list(mean.shape)} and sigma {list(covariance.shape)}")
    if mean.dtype.kind not in "iuf" or covariance.dtype.kind not in "iuf":
        raise DdimxError(f"{path}: mu and sigma are {mean.dtype} and {covariance.dtype}")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DdimxError(f"{path}: mu or sigma is not finite")
    try:
        about = parse_json(str(arrays["about"].item())) if "about" in arrays else {}
        count = int(arrays["count"].item()) if "count" in arrays else 0
        if not isinstance(about, dict):
            raise ValueError("'about' is not a mapping")
    except (ValueError, TypeError, OverflowError) as error:
        reason = shortened(str(error))
        raise DdimxError(f"{path}: 'about' or 'count' is damaged ({reason})") from None
    features = arrays.get("features")
    if features is not None:
        if features.ndim != 2 or features.shape[1] != len(mean) or features.dtype != np.float32:
            raise DdimxError(
                f"{path}: features {features.dtype} {list(features.shape)}, expected float32 "
                f"[M, {len(mean)}]"
            )
        if not np.isfinite(features).all():
            raise DdimxError(f"{path}: features are not finite")
    return Statistics(mean, covariance, count, about, features)


def npz_arrays(path: Path, names: Collection[str], copies: int = 1) -> dict[str, Any]:
    """Return those arrays of an .npz that have these names; nothing is unpickled.

    Args:
        copies: how many times their size is held at once while they are worked on.

    Raises:
        DdimxError: no such file, or not an .npz of plain arrays.
    """
    try:
        return read_npz(path, names, copies)
    except FileNotFoundError:
        raise DdimxError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable .npz of plain arrays ({error})") from None
