"""Training batches of octrees: augmented, cut to the model's depth, laid out without padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...config import DataConfig
from ...noise import Noise, Stream
from ...octree.keys import keys_of
from ...octree.tree import Octree, from_leaves
from ..arrays import Integers
from ..batches import Batch, BatchStream
from ..order import order_of
from .octrees import ShapeSource

Floats = npt.NDArray[np.float64]


class ShapeBatches(BatchStream[list[Octree]]):
    """Batches of trees as a function of the step.

    A batch holds ``ids`` uint8 [N] and ``keys`` int64 [N], sorted by (shape, level, key),
    ``counts`` int64 [B, depth] and ``label`` int64 [B].
    """

    def __init__(
        self,
        source: ShapeSource,
        data: DataConfig,
        noise: Noise,
        batch_size: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Lay out the epochs of ``source`` over steps of ``batch_size`` shapes."""
        assert data.max_depth is not None
        super().__init__(order_of(source, data.balance, noise), batch_size, part)
        self._source, self._data, self._noise = source, data, noise
        self._depth = data.max_depth

    def _read(self, step: int) -> tuple[Integers, list[Octree]]:
        places = self._positions(step)
        indices = self.order.indices(places)
        trees = [shape.tree for shape in self._source.shapes(indices)]
        # Mirror and scale as the configuration says, each shape by its own keyed draws.
        positions = torch.from_numpy(places)
        data, noise = self._data, self._noise
        flips = np.zeros(len(trees), dtype=bool)
        if data.random_flip:
            chance = noise.uniform(positions, (), row=step, stream=Stream.TRAIN_FLIP)
            flips = (chance <= 0.5).numpy()
        scales = np.ones((len(trees), 3))
        if data.random_scale:
            unit = noise.uniform(positions, (3,), row=step, stream=Stream.TRAIN_SCALE)
            scales = 1 + data.random_scale * (2 * unit.double().numpy() - 1)
        return indices, [
            transformed(tree, self._depth, mirror=bool(flip), scale=scale)
            for tree, flip, scale in zip(trees, flips, scales, strict=True)
        ]

    def _transformed(
        self, indices: Integers, content: list[Octree], positions: Tensor, step: int
    ) -> Batch:
        batch = packed(content)
        assert self._source.labels is not None
        batch["label"] = torch.from_numpy(self._source.labels[indices])
        return batch


def transformed(tree: Octree, depth: int, *, mirror: bool, scale: Floats) -> Octree:
    """Return a tree mirrored in x and scaled by axis, at ``depth``.

    The scaled shape is brought back to the extent of the longest axis, as a mesh's cube is. Leaves
    move as points, so that scaling leaves no holes only where the tree is deeper than ``depth``.
    """
    if not mirror and (scale == 1).all():
        return tree.coarser(depth)
    unit = Octree(tree.masks).centers()  # [-0.5, 0.5]
    if mirror:
        unit = unit * np.array([-1.0, 1.0, 1.0])
    if (scale != 1).any():
        extent = np.ptp(unit, axis=0)
        longest = (extent * scale).max()
        # A single leaf has no extent to be brought back to, and keeps its own size anyway.
        unit = unit * scale * (extent.max() / longest) if longest > 0 else unit
    size = 2**depth
    cells = np.clip(np.floor((unit + 0.5) * size), 0, size - 1).astype(np.int64)
    return from_leaves(keys_of(cells), depth)


def packed(trees: list[Octree]) -> dict[str, Tensor]:
    """Lay trees of one depth out: ``ids``, ``keys`` and ``counts`` of their internal levels."""
    ids = np.concatenate([masks for tree in trees for masks in tree.masks])
    keys = np.concatenate([keys for tree in trees for keys in tree.keys[:-1]])
    counts = np.array([tree.counts[:-1] for tree in trees], dtype=np.int64)
    return {
        "ids": torch.from_numpy(ids),
        "keys": torch.from_numpy(keys),
        "counts": torch.from_numpy(counts),
    }
