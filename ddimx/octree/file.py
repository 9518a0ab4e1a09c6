"""Octree token files: the seed project's ``.npz`` and ``.npy``, with what makes them whole."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DdimxError
from ..files import whole_file
from .errors import OctreeError
from .tree import Octree, from_tokens


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape as it stands in a file: the tree, its category's name and its identity."""

    tree: Octree
    category: str = ""
    shape_id: str = ""


def read_shape(path: Path, *, depth: int | None = None) -> Shape:
    """Read a token file, padded or not.

    Args:
        depth: what the tree's depth must be; None takes the file's word, else the stream's.

    Raises:
        OctreeError: a stream that is no octree; the message names file, level and index.
        DdimxError: no such file, or one without tokens.
    """
    fields = _fields(path)
    try:
        return _shape(fields, depth)
    except OctreeError as error:
        raise error.within(str(path)) from None


def write_shape(path: Path, shape: Shape) -> None:
    """Write an ``.npz`` without padding: tokens, mask, category, shape_id, depth and bounds."""
    tree = shape.tree
    tokens = tree.tokens()
    lower = np.asarray(tree.lower, dtype=np.float64)
    with whole_file(path) as part, part.open("wb") as stream:
        np.savez_compressed(
            stream,
            tokens=tokens,
            mask=np.ones(len(tokens), dtype=np.bool_),
            category=np.array(shape.category),
            shape_id=np.array(shape.shape_id),
            max_depth=np.int64(tree.depth),
            bounds_min=lower,
            bounds_max=lower + tree.edge,
        )


def _fields(path: Path) -> dict[str, Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DdimxError(f"no file {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DdimxError(f"{path}: not a readable .npz or .npy ({error})") from None
    if isinstance(loaded, np.ndarray):
        return {"tokens": loaded}
    with loaded:
        fields = {name: loaded[name] for name in loaded.files}
    if "tokens" not in fields:
        raise DdimxError(f"{path}: an .npz without 'tokens': no octree file")
    return fields


def _shape(fields: dict[str, Any], depth: int | None) -> Shape:
    tokens = np.asarray(fields["tokens"])
    if "mask" in fields:
        tokens = _unpadded(tokens, np.asarray(fields["mask"]))
    said = int(fields["max_depth"]) if "max_depth" in fields else None
    if depth is not None and said is not None and said != depth:
        raise OctreeError(f"the file is of depth {said}, not {depth}")
    lower, edge = (-0.5, -0.5, -0.5), 1.0
    if "bounds_min" in fields:
        low, high = (np.asarray(fields[f"bounds_{end}"], np.float64) for end in ("min", "max"))
        lower, edge = (float(low[0]), float(low[1]), float(low[2])), float((high - low).max())
    tree = from_tokens(tokens, depth if depth is not None else said, lower, edge)
    return Shape(tree, _text(fields.get("category")), _text(fields.get("shape_id")))


def _unpadded(tokens: Any, mask: Any) -> Any:
    if mask.shape != tokens.shape:
        raise OctreeError(f"mask has shape {mask.shape}, tokens {tokens.shape}")
    kept = int(mask.astype(bool).sum())
    if not mask[:kept].all():
        raise OctreeError("the mask has holes: padding belongs at the end")
    return tokens[:kept]


def _text(value: Any) -> str:
    return "" if value is None else str(value)
