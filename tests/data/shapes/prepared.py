"""A prepared data set of made-up octrees, as ``ddimx prepare octrees`` lays one out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ddimx.octree.file import Shape, write_shape
from ddimx.octree.geometry import mirrored
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import Octree, from_leaves

Entry = tuple[str, str, Octree]  # category, identity, tree


def chair(seat: int, depth: int = 4) -> Octree:
    """Four legs, a seat at this height, a back at x = 1: not its own mirror image."""
    n = 2**depth
    x, y, z = np.mgrid[1 : n - 1, 0:n, 1 : n - 1]
    legs = np.isin(x, (1, n - 2)) & np.isin(z, (1, n - 2)) & (y < seat)
    cells = legs | (y == seat) | ((x == 1) & (y > seat))
    return from_leaves(keys_of(np.stack([x[cells], y[cells], z[cells]], axis=1)), depth)


def table(height: int, depth: int = 4) -> Octree:
    """A top on one leg."""
    n = 2**depth
    x, y, z = np.mgrid[0:n, 0:n, 0:n]
    cells = (y == height) | ((x == n // 2) & (z == n // 2) & (y < height))
    return from_leaves(keys_of(np.stack([x[cells], y[cells], z[cells]], axis=1)), depth)


def write_split(root: Path, split: str, entries: Iterable[Entry]) -> None:
    """Write token files and the list of one split."""
    lines = []
    for category, identity, tree in entries:
        file = f"shapes/{category}/{identity}.npz"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_shape(root / file, Shape(tree, category, identity))
        lines.append(json.dumps({"file": file, "category": category, "shape_id": identity}))
    (root / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_variants(root: Path) -> Path:
    """Write a chair with three variants, as the list says of four in its file, and a table."""
    write_split(root, "train", [("chair", "c3", chair(3)), ("table", "t6", table(6))])
    others = (mirrored(chair(3), 0), chair(4), chair(5))
    write_shape(root / "shapes/chair/c3.npz", Shape(chair(3), "chair", "c3", others))
    path = root / "train.jsonl"
    path.write_text(path.read_text().replace('"shape_id": "c3"', '"shape_id": "c3", "variants": 3'))
    return root


def write_set(root: Path, depth: int = 4) -> Path:
    """Write five shapes to train on and one of each category in ``val`` and ``test``."""
    train = [("chair", f"c{i}", chair(i, depth)) for i in (3, 4, 5)]
    train += [("table", f"t{i}", table(i, depth)) for i in (6, 7)]
    held_out = [("chair", "c6", chair(6, depth)), ("table", "t5", table(5, depth))]
    for split, entries in (("train", train), ("val", held_out), ("test", held_out)):
        write_split(root, split, entries)
    return root
