"""Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991).

A set of features stands for the region that it covers: a ball round each vector that reaches to its
third nearest neighbor of the same set. Precision is the share of samples inside the reference's
region, recall the share of the reference inside the samples' region.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NEIGHBORS = 3  # as in the paper
ROWS, COLUMNS = 2048, 4096  # of distances that are computed together: 64 MB in float64

Features = npt.NDArray[np.float32]


def precision_recall(
    samples: Features,
    reference: Features,
    *,
    neighbors: int = NEIGHBORS,
    device: torch.device | None = None,
) -> tuple[float, float]:
    """Return precision and recall of two sets of features, float32 [N, D] and [M, D].

    Distances are computed in float64, a block at a time: the memory does not grow with N times M.

    Args:
        device: where to compute; not used where it has no float64 (MPS).

    Raises:
        ValueError: a set of no more images than ``neighbors``, or features of different lengths.
    """
    if samples.shape[1] != reference.shape[1]:
        raise ValueError("features of different lengths have no distance")
    if min(len(samples), len(reference)) <= neighbors:
        raise ValueError(f"precision and recall need more than {neighbors} images of each set")
    where = device if device is not None and device.type != "mps" else torch.device("cpu")
    ours, theirs = (torch.from_numpy(features).to(where) for features in (samples, reference))
    return (
        _share_inside(ours, theirs, _squared_radii(theirs, neighbors)),
        _share_inside(theirs, ours, _squared_radii(ours, neighbors)),
    )


def _squared_radii(features: Tensor, neighbors: int) -> Tensor:
    """Return the squared distance to the k-th nearest other vector of the set, float64 [N]."""
    radii = []
    for start in range(0, len(features), ROWS):
        rows = features[start : start + ROWS]
        nearest = rows.new_empty((len(rows), 0), dtype=torch.float64)
        for column in range(0, len(features), COLUMNS):
            distances = _squared_distances(rows, features[column : column + COLUMNS])
            # Row i of the block and column i + start - column are the same vector.
            distances.diagonal(start - column).fill_(torch.inf)
            merged = torch.cat([nearest, distances], dim=1)
            nearest = merged.topk(min(neighbors, merged.shape[1]), largest=False).values
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def _share_inside(points: Tensor, centers: Tensor, squared_radii: Tensor) -> float:
    """Return the share of points that lie in a ball round one of the centers, its surface too."""
    inside = 0
    for start in range(0, len(points), ROWS):
        rows = points[start : start + ROWS]
        covered = torch.zeros(len(rows), dtype=torch.bool, device=points.device)
        for column in range(0, len(centers), COLUMNS):
            distances = _squared_distances(rows, centers[column : column + COLUMNS])
            covered |= (distances <= squared_radii[column : column + COLUMNS]).any(dim=1)
        inside += int(covered.sum())
    return inside / len(points)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distances of every pair, float64 [N, M].

    What is no more than the rounding of ``a^2 + b^2 - 2 a b`` is 0: copies of one image have a
    distance of 0, and four of them a ball of radius 0 in which a fifth must lie.
    """
    a, b = a.double(), b.double()
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    distances = squares - 2 * (a @ b.T)
    rounding = 4 * a.shape[1] ** 0.5 * torch.finfo(torch.float64).eps
    return torch.where(distances <= rounding * squares, 0.0, distances)
