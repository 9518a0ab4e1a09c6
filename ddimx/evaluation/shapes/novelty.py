"""Novelty: how much a shape overlaps with the training shape that is nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...octree import geometry
from ...octree.errors import OctreeError
from ...octree.tree import Octree
from ...progress import Progress
from .intervals import bootstrap, share_of

COPY = 1.0  # the IoU of a shape that is a training shape, cell by cell

Overlaps = npt.NDArray[np.float64]


class Training:
    """The training shapes' cells, laid out so that one shape meets all of them at once.

    ``universe`` holds every cell that some training shape has, ascending; ``members`` those of
    each shape as places in it, one shape after another, from ``starts`` on.
    """

    def __init__(self, trees: Sequence[Octree]) -> None:
        if len({tree.depth for tree in trees}) != 1:
            raise OctreeError("training shapes need one common depth, and at least one shape")
        self.depth = trees[0].depth
        self.sizes = np.array([len(tree.leaves) for tree in trees], dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        cells = np.concatenate([tree.leaves for tree in trees])
        self.universe, places = np.unique(cells, return_inverse=True)
        self.members = places.reshape(-1)

    def overlaps(self, tree: Octree) -> Overlaps:
        """Return the tree's IoU with every training shape, float64 [shapes].

        Raises:
            OctreeError: another depth.
        """
        if tree.depth != self.depth:
            raise OctreeError(f"the shape is of depth {tree.depth}, training's of {self.depth}")
        inside = np.zeros(len(self.universe), dtype=np.int64)
        places = geometry.indices(self.universe, tree.leaves)
        inside[places[places >= 0]] = 1
        shared = np.add.reduceat(inside[self.members], self.starts)
        ious: Overlaps = shared / (len(tree.leaves) + self.sizes - shared)
        return ious

    def nearest(self, tree: Octree) -> tuple[float, int]:
        """Return the greatest IoU with a training shape, and that shape's index."""
        ious = self.overlaps(tree)
        return float(ious.max()), int(ious.argmax())

    def nearest_moved(self, tree: Octree) -> float:
        """Return the greatest IoU over the tree's mirror images and quarter turns about y."""
        shifted = (
            geometry.turned(side, quarters)
            for side in (tree, geometry.mirrored(tree, 0))
            for quarters in range(4)
        )
        return max(self.nearest(other)[0] for other in shifted)


def novelty(
    samples: Sequence[Octree],
    reference: Sequence[Octree],
    train: Sequence[Octree],
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return how near samples are to their nearest training shapes, beside unseen shapes.

    The reference's IoU with training shapes is that of shapes which nobody trained on; what it has
    of copies are the data set's own duplicates.
    "moved" is the nearest IoU over mirror images and quarter turns too, as training may use them.

    Returns:
        Nearest IoUs as mean, median and greatest of "samples", "reference" and "moved"; how many
        of each are "copies", cell by cell; and for every sample its own IoU and the index of its
        nearest training shape, "iou" and "nearest".
    """
    training = Training(train)
    bar = progress or Progress(quiet=True)
    bar.start("nearest training shapes", len(samples) + len(reference))
    values_by_name: dict[str, list[float]] = {"samples": [], "reference": [], "moved": []}
    nearest = []
    for tree in samples:
        overlap, index = training.nearest(tree)
        nearest.append(index)
        values_by_name["samples"].append(overlap)
        values_by_name["moved"].append(training.nearest_moved(tree))
        bar.advance()
    for tree in reference:
        values_by_name["reference"].append(training.nearest(tree)[0])
        bar.advance()
    bar.stop()
    values = {name: np.array(ious) for name, ious in values_by_name.items()}
    unseen = float(np.median(values["reference"]))
    return {
        **{name: _spread(ious, seed) for name, ious in values.items()},
        "share_below_reference_median": share_of(values["samples"] < unseen).to_json(),
        "copies": {name: int((ious >= COPY).sum()) for name, ious in values.items()},
        "iou": values_by_name["samples"],
        "nearest": nearest,
    }


def _spread(ious: Any, seed: int) -> dict[str, Any]:
    return {
        "mean": bootstrap(ious, seed).to_json(),
        "median": float(np.median(ious)),
        "max": float(ious.max()),
    }
