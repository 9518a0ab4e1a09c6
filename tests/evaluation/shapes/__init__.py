"""What the tests of sets of shapes share: small octrees, and folders of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddimx.octree.file import Shape, write_shape
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import Octree, from_leaves


def block(low: Sequence[int], size: Sequence[int], depth: int = 4) -> Octree:
    """A solid block of cells from ``low`` on."""
    axes = [np.arange(a, a + s) for a, s in zip(low, size, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return from_leaves(keys_of(cells), depth)


def blocks(count: int, seed: int, corner: Sequence[int] = (0, 0, 0)) -> list[Octree]:
    """Blocks of random sizes 2..7 along each axis, in the half of the cube that has ``corner``."""
    rng = np.random.default_rng(seed)
    return [block(corner, rng.integers(2, 8, 3)) for _ in range(count)]


def save(folder: Path, trees: Sequence[Octree], category: str = "") -> list[Path]:
    """Write trees as ``000000.npz`` and so on."""
    paths = [folder / f"{i:06d}.npz" for i in range(len(trees))]
    for path, tree in zip(paths, trees, strict=True):
        write_shape(path, Shape(tree, category, path.stem))
    return paths


def prepared(folder: Path, **splits: Sequence[Octree]) -> Path:
    """Write a prepared data set; shapes are in turn of the categories "chair" and "table"."""
    for split, trees in splits.items():
        lines = []
        for i, tree in enumerate(trees):
            category = ("chair", "table")[i % 2]
            file = f"shapes/{category}/{split}{i}.npz"
            write_shape(folder / file, Shape(tree, category, f"{split}{i}"))
            lines.append(json.dumps({"file": file, "category": category, "shape_id": file}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
