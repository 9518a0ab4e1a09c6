"""Where drawn octrees go: one token file each, and a contact sheet of what they look like."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import UsageError
from ..octree.file import Shape, read_shape, write_shape
from ..octree.tree import Octree
from ..splats.preview.render import render_thumbnail
from .formats import LISTED
from .indices import Indices

FORMAT = "npz"
PICTURE = 192  # pixels of a shape on the contact sheet
_NAME = re.compile(rf"^(\d{{6,}})\.{FORMAT}$")


class ShapeSink:
    """One token file for every shape, named by its index: ``000007.npz``."""

    one_file = False

    def __init__(self, folder: Path, kind: str = FORMAT, classes: Sequence[str] = ()) -> None:
        """Write to ``folder``.

        Raises:
            UsageError: another format.
        """
        if kind != FORMAT:
            raise UsageError(f"--format {kind}: octrees are written as {FORMAT}")
        self._folder, self._classes = folder, tuple(classes)

    def done(self) -> Set[int]:
        """Return the indices whose files exist; files are written whole."""
        if not self._folder.is_dir():
            return Indices()
        with os.scandir(self._folder) as entries:
            return Indices(int(m[1]) for e in entries if (m := _NAME.match(e.name)))

    def write(
        self, indices: Sequence[int], samples: Sequence[Octree], labels: Tensor | None
    ) -> None:
        """Write one file for every tree, with its class and its identity."""
        names = [""] * len(samples)
        if labels is not None:
            classes = (*self._classes, "")
            names = [classes[label] for label in labels.tolist()]
        for index, tree, category in zip(indices, samples, names, strict=True):
            write_shape(self._path(index), Shape(tree, category, f"{index:06d}"))

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Return the files' names, which are final already; of more than ``LISTED`` none."""
        return [self._path(i).name for i in indices] if len(indices) <= LISTED else []

    def tidy(self) -> None:
        """Remove nothing."""

    def pixels(self, indices: range) -> npt.NDArray[np.uint8]:
        """Return pictures of the shapes, uint8 [B, H, W, 3]."""
        trees = [read_shape(self._path(i)).tree for i in indices]
        return np.stack([render_thumbnail(tree, size=PICTURE) for tree in trees])

    def changes(self, indices: range) -> dict[str, list[int]]:
        """Return how many leaves cleaning has removed from and added to each of these shapes."""
        trees = [read_shape(self._path(i)).tree for i in indices]
        return {
            "cells_removed": [getattr(tree, "removed", 0) for tree in trees],
            "cells_added": [getattr(tree, "added", 0) for tree in trees],
        }

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}.{FORMAT}"
