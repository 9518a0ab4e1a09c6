"""What a token file, or a folder of them, holds, as plain values for ``ddimx info``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DdimxError, MissingPackage
from .file import Shape, read_shape, token_files
from .geometry import components
from .tree import Octree

# A folder with one of these at its top is a model, whatever else lies there.
MODELS = ("*.safetensors", "*.pth", "*.ckpt", "*.bin", "model_index.json", "config.json")


def shapes_in(folder: Path) -> list[Path]:
    """Return the token files in a folder and below it, none if the folder is a model's."""
    if not folder.is_dir() or any(any(folder.glob(pattern)) for pattern in MODELS):
        return []
    return token_files(folder)


def describe(path: Path, shape: Shape) -> dict[str, Any]:
    """Return what a token file that was read holds; without SciPy, all but its connected parts."""
    tree = shape.tree
    low = [float(v) for v in tree.lower]
    return {
        "file": {
            "path": str(path),
            "bytes": path.stat().st_size,
            "category": shape.category,
            "shape_id": shape.shape_id,
        },
        "octree": {
            "valid": True,
            "depth": tree.depth,
            "nodes": list(tree.counts),
            "tokens": sum(tree.counts),
            "leaves": tree.counts[-1],
            "bounds_min": low,
            "bounds_max": [v + tree.edge for v in low],
            "leaf_edge": tree.edge * 0.5**tree.depth,
        },
        "connectivity": _connectivity(tree),
    }


def _connectivity(tree: Octree) -> dict[str, Any]:
    """Return the number and the sizes of connected parts, or why they are omitted."""
    try:
        parts, by_faces = (components(tree, joined)[1] for joined in (26, 6))
    except MissingPackage as error:
        return {"omitted": str(error)}
    return {
        "parts": len(parts),
        "largest_share": int(parts[0]) / tree.counts[-1],
        "parts_by_faces": len(by_faces),
        "largest_share_by_faces": int(by_faces[0]) / tree.counts[-1],
    }


def describe_folder(folder: Path, files: list[Path]) -> dict[str, Any]:
    """Return what a folder's token files hold together; broken ones are listed, not raised."""
    shapes: list[Shape] = []
    messages: list[str] = []
    for file in files:
        try:
            shapes.append(read_shape(file))
        except DdimxError as error:
            messages.append(str(error))
    leaves = np.array([shape.tree.counts[-1] for shape in shapes])
    quantiles = dict(zip(("least", "median", "most"), (0, 0.5, 1), strict=True))
    return {
        "folder": {"path": str(folder), "files": len(files), "valid": len(shapes)},
        "depths": _counted(str(shape.tree.depth) for shape in shapes),
        "categories": _counted(shape.category or "(none)" for shape in shapes),
        "leaves": {k: int(np.quantile(leaves, q)) for k, q in quantiles.items() if shapes},
        "broken": messages,
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
