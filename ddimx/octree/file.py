"""Octree token files: the seed project's ``.npz`` and ``.npy``, with what makes them whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DdimxError
from ..files import visible_files, whole_file
from ..untrusted.archives import open_zip
from ..untrusted.arrays import members, opened, read_header, read_npy, read_npz
from .clean import CleanedOctree
from .errors import OctreeError
from .keys import MAX_DEPTH
from .tree import Octree, from_tokens

SUFFIXES = (".npz", ".npy")
FIELDS = (
    *("tokens", "mask", "category", "shape_id", "max_depth", "bounds_min", "bounds_max"),
    "cleaned",  # how many leaves cleaning has removed and added, where it was done
)
OF_VARIANTS = ("variants", "variant_lengths")  # their tokens one after another, and how many each
MAGIC = (b"\x93NUMPY", b"PK\x03\x04")  # .npy, .npz
COPIES = 64  # of a token's size while a tree is made of it: keys and counts are int64
UNEQUAL = 1e-6  # by how much a cube's edges may differ, relative to its coordinates


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape as it stands in a file: the tree, its category's name and its identity.

    Attributes:
        variants: the same shape changed, in the unit cube, to train on besides.
    """

    tree: Octree
    category: str = ""
    shape_id: str = ""
    variants: tuple[Octree, ...] = ()


def token_files(folder: Path, *, recursive: bool = True) -> list[Path]:
    """Return the files of a folder that are token files by their suffix, sorted by path.

    Which files these are is said by :func:`ddimx.files.visible_files`.
    """
    return visible_files(folder, SUFFIXES, recursive=recursive)


def holds_tokens(source: Path | bytes) -> bool:
    """Return whether a file looks like an octree's, from its directory or header alone.

    Args:
        source: a file, or what a member of an archive holds.
    """
    try:
        with opened(source) as stream:
            if stream.read(len(MAGIC[1])) == MAGIC[1]:
                with open_zip(stream) as archive:
                    return "tokens" in members(archive)
            stream.seek(0)
            header = read_header(stream)
    except (OSError, ValueError):
        return False
    return len(header.shape) == 1 and header.dtype.kind in "iu"


def read_shape(
    path: Path,
    *,
    depth: int | None = None,
    content: bytes | None = None,
    variants: bool = False,
) -> Shape:
    """Read a token file, ``.npz`` or ``.npy``, padded or not, of any integer type.

    The padding is what the mask says, else the zeros at the end: a 0 stands for no cell. A batch of
    one, [1, L], is read like [L]; more shapes than one in a file are refused.

    Args:
        depth: what the tree's depth must be; None takes the file's word, else the stream's.
        content: its bytes, where it is a member of an archive; ``path`` is then for messages.
        variants: read the variants in the file too, which must be of the same depth.

    Raises:
        OctreeError: a stream that is not an octree, or fields that contradict it; the message names
            the file, and level and index where there are such.
        DdimxError: no such file, or one that is something else.
    """
    names = (*FIELDS, *OF_VARIANTS) if variants else FIELDS
    fields = _fields(path, path if content is None else content, names)
    try:
        tokens = _unpadded(_row("tokens", fields["tokens"]), fields.get("mask"))
        depth_in_file = _depth(fields.get("max_depth"))
        if depth is not None and depth_in_file is not None and depth_in_file != depth:
            raise OctreeError(f"the file is of depth {depth_in_file}, not {depth}")
        lower, edge = _cube(fields.get("bounds_min"), fields.get("bounds_max"))
        tree = from_tokens(tokens, depth if depth is not None else depth_in_file, lower, edge)
        category, shape_id = (_text(name, fields.get(name)) for name in ("category", "shape_id"))
        if "cleaned" in fields:
            tree = CleanedOctree(tree.masks, lower, edge, *_changes(fields["cleaned"]))
        return Shape(tree, category, shape_id, _variants(fields, tree.depth))
    except OctreeError as error:
        raise error.within(str(path)) from None


def write_shape(path: Path, shape: Shape) -> None:
    """Write an ``.npz`` without padding: tokens, mask, category, shape_id, depth and bounds.

    Variants are in arrays of their own, which who reads the shape alone passes over. Of a tree that
    was cleaned, so are the numbers of leaves that were removed and added.
    """
    tree = shape.tree
    more: dict[str, Any] = {}
    if isinstance(tree, CleanedOctree):
        more["cleaned"] = np.array([tree.removed, tree.added], dtype=np.int64)
    if shape.variants:
        streams = [variant.tokens() for variant in shape.variants]
        lengths = np.array([len(stream) for stream in streams], dtype=np.int64)
        more |= zip(OF_VARIANTS, (np.concatenate(streams), lengths), strict=True)
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
            **more,
        )


def _fields(path: Path, source: Path | bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the arrays of a .npz, or that of a .npy as the tokens; ``path`` is for messages."""
    try:
        with opened(source) as stream:
            magic = stream.read(6)
        if not magic.startswith(MAGIC):
            raise DdimxError(f"{path}: not an octree file: neither .npz nor .npy")
        if magic == MAGIC[0]:
            return {"tokens": read_npy(source, COPIES)}
        fields = read_npz(source, names, COPIES)
    except FileNotFoundError:
        raise DdimxError(f"no file {path}") from None
    except IsADirectoryError:
        raise DdimxError(f"{path} is a folder, not a token file") from None
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable .npz or .npy ({error})") from None
    if "tokens" not in fields:
        raise DdimxError(f"{path}: an .npz without 'tokens', so not an octree file")
    return fields


def _row(name: str, value: Any) -> Any:
    """Return a field of one dimension; a batch of one is its only row."""
    if value.ndim == 2 and value.shape[1] in (3, 6) and value.dtype.kind == "f":
        raise OctreeError(
            f"it holds {len(value)} points and no octree; 'ddimx prepare octrees' makes one of them"
        )
    if value.ndim == 2 and len(value) > 1:
        raise OctreeError(f"{name} holds {len(value)} shapes: write one file for each")
    if value.ndim == 2 and len(value) == 1:
        return value[0]
    if value.ndim != 1:
        raise OctreeError(f"{name} has shape {value.shape}, expected [L]")
    return value


def _unpadded(tokens: Any, mask: Any) -> Any:
    """Return the tokens [L] up to where the mask ends, or without one the last token not 0."""
    if tokens.dtype.kind not in "iu":
        raise OctreeError(f"tokens are {tokens.dtype}, expected integers")
    if mask is None:
        positions = np.flatnonzero(tokens)
        return tokens[: int(positions[-1]) + 1 if len(positions) else 0]
    mask = _row("mask", mask)
    if mask.shape != tokens.shape:
        raise OctreeError(f"mask has shape {mask.shape}, tokens {tokens.shape}")
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise OctreeError("the mask holds something besides 0 and 1")
    holes = np.flatnonzero(np.diff(mask.astype(np.int8)) > 0)
    if len(holes):
        raise OctreeError("the mask has a hole: padding belongs at the end", index=int(holes[0]))
    if len(mask) and not mask[0]:
        raise OctreeError("the mask is empty: it keeps no token")
    return tokens[: int(mask.astype(bool).sum())]


def _variants(fields: dict[str, Any], depth: int) -> tuple[Octree, ...]:
    """Return the trees of the variants' arrays, none where both are missing."""
    tokens, lengths = (fields.get(name) for name in OF_VARIANTS)
    if tokens is None and lengths is None:
        return ()
    if tokens is None or lengths is None:
        raise OctreeError(f"one of {' and '.join(OF_VARIANTS)} is missing")
    for name, value in zip(OF_VARIANTS, (tokens, lengths), strict=True):
        if value.ndim != 1 or value.dtype.kind not in "iu":
            raise OctreeError(f"{name} are {value.dtype} {value.shape}, expected integers [L]")
    in_range = ((lengths >= 1) & (lengths <= len(tokens))).all()
    ends = [0, *np.cumsum(lengths, dtype=np.int64).tolist()] if in_range else []
    if not ends or ends[-1] != len(tokens):
        raise OctreeError(f"variant_lengths do not add up to the {len(tokens)} tokens of variants")
    return tuple(from_tokens(tokens[start:end], depth) for start, end in pairwise(ends))


def _depth(value: Any) -> int | None:
    """Return the field max_depth as a number, or None if there is none."""
    if value is None:
        return None
    if value.size != 1 or value.dtype.kind not in "iu":
        raise OctreeError(f"max_depth is {value.dtype} {value.shape}, expected one integer")
    depth = int(value.reshape(()))
    if not 1 <= depth <= MAX_DEPTH:
        raise OctreeError(f"max_depth {depth} is not within 1..{MAX_DEPTH}")
    return depth


def _changes(value: Any) -> tuple[int, int]:
    """Return how many leaves were removed and added."""
    if value.shape != (2,) or value.dtype.kind not in "iu" or (value < 0).any():
        raise OctreeError("cleaned is not two whole numbers of leaves")
    removed, added = value.tolist()
    return removed, added


def _cube(low: Any, high: Any) -> tuple[tuple[float, float, float], float]:
    """Return the cube's minimum corner and its edge; the original project's is [0, 1]^3."""
    if low is None and high is None:
        return (0.0, 0.0, 0.0), 1.0
    if low is None or high is None:
        raise OctreeError("one of bounds_min and bounds_max is missing")
    for name, value in (("bounds_min", low), ("bounds_max", high)):
        if value.shape != (3,) or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise OctreeError(f"{name} is not three finite numbers")
    low, high = low.astype(np.float64), high.astype(np.float64)
    edges = high - low
    if not (edges > 0).all():
        raise OctreeError("bounds_max does not lie above bounds_min")
    if np.ptp(edges) > UNEQUAL * max(np.abs(low).max(), np.abs(high).max()):
        raise OctreeError("the bounds are those of a box, not of a cube")
    x, y, z = low.tolist()
    return (x, y, z), float(edges.max())


def _text(name: str, value: Any) -> str:
    """Return a name as text: a string, bytes in UTF-8, or a number such as a synset's."""
    if value is None:
        return ""
    if value.size != 1 or value.dtype.kind not in "USiu":
        raise OctreeError(f"{name} is {value.dtype} {value.shape}, expected one text")
    item = value.reshape(()).item()
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
