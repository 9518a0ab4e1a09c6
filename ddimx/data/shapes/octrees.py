"""Octrees on disk to train on: a prepared set, or the original project's tree of token files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ...config import Config
from ...config_file import override
from ...errors import DdimxError, UsageError, unknown
from ...octree.errors import OctreeError
from ...octree.file import Shape, read_shape
from ...octree.tree import Octree
from ...untrusted.names import relative
from ..arrays import Integers
from .lists import PARTS, Entry, lists_of, read_list, read_tree
from .scan import scan_shapes


class ShapeSource:
    """One split of a folder that ``ddimx prepare octrees`` or ``prepare furniture`` made, or of the
    original project's tree (:func:`ddimx.data.shapes.lists.read_tree`).

    Attributes:
        labels: int64 [N], the categories' places in ``classes``.
        families: int64 [N], equal for variants of one shape; None where no shape has variants.
        fingerprint: SHA-256 over the split's files, and over how many variants of each are taken.
    """

    def __init__(
        self,
        root: Path,
        split: str | None,
        *,
        category: str | None = None,
        classes: tuple[str, ...] = (),
        lacking: bool = False,
    ) -> None:
        """Read the shapes of a split: of all categories, of one, or of those in ``classes``.

        Args:
            split: its name; None for a part without shapes.
            lacking: accept a category or class without shapes. Of a small set that was split by
                identity the held-out part may have none; in the training part it is a mistake.

        Raises:
            UsageError: no such data set, split or category, or a class without shapes.
            DdimxError: a list or a token file that cannot be read, or one with fewer variants than
                the list says.
        """
        entries = [] if split is None else _entries(root, split)
        if category is not None:
            known_categories = {entry.category for entry in entries}
            if entries and category not in known_categories and not lacking:
                raise unknown("data.category", category, known_categories)
            entries = [entry for entry in entries if entry.category == category]
        categories = {entry.category for entry in entries}
        absent = [name for name in classes if name not in categories]
        if absent and entries and not lacking:
            raise UsageError(f"{root}: no shape of class '{absent[0]}' in split '{split}'")
        self.classes = classes or tuple(sorted(categories))
        entries = [entry for entry in entries if entry.category in self.classes]
        place = {name: i for i, name in enumerate(self.classes)}
        digest = hashlib.sha256()
        self._shapes: list[Shape] = []
        for entry in entries:
            shape = read_shape(entry.file, variants=entry.variants > 1)
            trees = (shape.tree, *shape.variants)[: entry.variants]
            if len(trees) < entry.variants:
                raise DdimxError(
                    f"{entry.file}: {len(trees)} variants, {entry.variants} in the list"
                )
            self._shapes += [Shape(tree, shape.category, shape.shape_id) for tree in trees]
            digest.update(entry.file.read_bytes())
            if entry.variants > 1:
                digest.update(f" {entry.variants}".encode())
        self.fingerprint = digest.hexdigest()
        counts = [entry.variants for entry in entries]
        labels = np.array([place[entry.category] for entry in entries], dtype=np.int64)
        self.labels: Integers | None = np.repeat(labels, counts)
        self.families: Integers | None = None
        if max(counts, default=1) > 1:
            self.families = np.repeat(np.arange(len(entries)), counts)

    def __len__(self) -> int:
        return len(self._shapes)

    def shapes(self, indices: Integers) -> list[Shape]:
        """Return shapes as they are on disk."""
        return [self._shapes[int(i)] for i in indices]

    @property
    def trees(self) -> list[Octree]:
        """Return all trees, at the depths of their files."""
        return [shape.tree for shape in self._shapes]


def open_shapes(config: Config, *, held_out: bool = False) -> ShapeSource:
    """Open the octrees that ``config.data`` names, the training or the held-out split.

    Raises:
        UsageError: as :class:`ShapeSource`, or no ``data.root`` or ``data.max_depth``.
        OctreeError: a tree less deep than ``data.max_depth``.
    """
    data = config.data
    if data.root is None:
        raise UsageError("data.root must name a folder that 'ddimx prepare octrees' made")
    if data.max_depth is None:
        raise UsageError("data.max_depth must say how deep the octrees are")
    rest = data.test_split if data.held_out else None
    split = rest if held_out else data.train_split
    source = ShapeSource(
        Path(data.root).expanduser(),
        split,
        category=data.category,
        classes=config.model.classes,
        lacking=held_out,
    )
    for shape in source.shapes(np.arange(len(source))):
        if shape.tree.depth < data.max_depth:
            raise OctreeError(
                f"{data.root}: shape {shape.shape_id} is of depth {shape.tree.depth}, "
                f"data.max_depth is {data.max_depth}: prepare deeper ones, or give "
                f"--set data.max_depth={shape.tree.depth}"
            )
    return source


def with_depth_of_files(config: Config) -> Config:
    """Return a configuration whose model is no deeper than the octrees of the original's tree.

    Its files do not say how deep they are, and the configuration that comes with the package says 6
    whatever the files are; a prepared set is held to the configuration instead.

    Raises:
        DdimxError: a list or a token file that cannot be read.
    """
    data = config.data
    if not data.octrees or data.root is None or data.max_depth is None:
        return config
    root = Path(data.root).expanduser()
    if lists_of(root):
        return config
    entries = read_tree(root, data.train_split)
    depth = read_shape(entries[0].file).tree.depth if entries else data.max_depth
    return config if depth >= data.max_depth else override(config, [f"data.max_depth={depth}"])


def _entries(root: Path, split: str) -> list[Entry]:
    """Return the shapes of a split, each with its category."""
    path = root / f"{relative(split, 'data.train_split, data.test_split')}.jsonl"
    if not path.is_file():
        entries = read_tree(root, split)
        if not entries:
            raise UsageError(f"no list of shapes {path}; {_way_out(root, split)}")
        return entries
    entries = read_list(path)
    nameless = next((entry.file for entry in entries if not entry.category), None)
    if nameless is not None:
        raise DdimxError(f"{path}: {nameless.name} has no category")
    return entries


def _way_out(root: Path, split: str) -> str:
    """Return what to do where a folder has no octrees of a split: what it holds decides."""
    splits = sorted(lists_of(root)) or [part for part in PARTS if read_tree(root, part)]
    if splits:
        return f"splits there: {', '.join(splits)}"
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if (folder / f"{split}.jsonl").is_file() or read_tree(folder, split):
            return f"octrees are in {folder}: --set data.root={folder}"
    try:
        scan = scan_shapes(root)
    except DdimxError as error:
        return f"make it with 'ddimx prepare octrees' ({error})"
    return f"it holds {scan}: make octrees of them with 'ddimx prepare octrees {root} DST'"
