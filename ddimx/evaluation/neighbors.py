"""Memorization: how far samples are from their nearest training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.images.sources import ImageSource

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Nearest training images of samples, beside those of held-out images.

    Distances are root mean squared differences of pixels in [0, 1].

    Attributes:
        distances: float32 [samples], to the nearest training image or its mirror image.
        nearest: uint8 [samples, H, W, C], those images, mirrored where that was nearer.
        held_out_median: median distance of held-out images, what an unseen image has.
    """

    distances: npt.NDArray[np.float32]
    nearest: Bytes
    held_out_median: float

    @property
    def share_beyond(self) -> float:
        """Share of samples that are farther from the training set than the held-out median."""
        return float((self.distances > self.held_out_median).mean())


def neighbors(
    samples: Bytes, source: ImageSource, held_out: ImageSource, *, mirrored: bool
) -> Neighbors:
    """Find the nearest training image of every sample, uint8 [N, H, W, C].

    ``mirrored`` counts a training image's mirror image as seen, as it is with random flips.
    """
    training = _all(source)
    if mirrored:
        training = np.concatenate([training, training[:, :, ::-1]])
    distances, index = _nearest(samples, training)
    unseen, _ = _nearest(_all(held_out), training)
    return Neighbors(
        distances=distances.numpy(),
        nearest=training[index.numpy()],
        held_out_median=float(unseen.median()),
    )


def side_by_side(samples: Bytes, neighbors: Neighbors) -> Bytes:
    """Lay samples [N, H, W, C] and their neighbors out as pairs, uint8 [2N, H, W, C]."""
    pairs = np.stack([samples, neighbors.nearest], axis=1)
    return pairs.reshape(-1, *samples.shape[1:])


def _all(source: ImageSource) -> Bytes:
    return source.images(np.arange(len(source), dtype=np.int64))


def _nearest(images: Bytes, among: Bytes) -> tuple[Tensor, Tensor]:
    """Return the distance to, and the index of, the nearest of ``among`` for every image."""
    a, b = (
        torch.from_numpy(x.reshape(len(x), -1)).to(torch.float32) / 255 for x in (images, among)
    )
    distances, index = torch.cdist(a, b).min(dim=1)
    return distances / a.shape[1] ** 0.5, index
