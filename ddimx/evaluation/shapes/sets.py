"""Sets of shapes on disk: run folders, folders of token files, prepared data sets and their lists,
and data sets as they come: the original project's tree of token files, or trees of point clouds.
All but prepared sets may lie in a zip file, which is not unpacked.

Which files belong to a set is decided here; nothing depends on the order in which a disk lists
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data.shapes.layouts import OF_PARTS, TOKENS
from ...data.shapes.lists import PARTS, lists_of, read_list
from ...data.shapes.meshes import read_points, read_surface
from ...data.shapes.reading import content_of
from ...data.shapes.scan import ShapeFile, ShapeScan, scan_shapes
from ...errors import DdimxError, UsageError
from ...octree.file import SUFFIXES, Shape, holds_tokens, read_shape, token_files
from ...octree.tree import Octree
from ...progress import Progress
from ...untrusted.archives import Member

MANIFEST = "manifest.json"


def named_on_both_sides(
    a: Sequence[str], b: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]] | None:
    """Return both sides' categories, or None unless every shape has one."""
    return (a, b) if all(a) and all(b) else None


@dataclass(frozen=True)
class ShapeSet:
    """Shapes that were read, and what was found beside them.

    Attributes:
        label: where they come from.
        shapes: the valid ones, in the order of their files' names.
        files: theirs, relative to the set's folder where they lie in it.
        invalid: one message for every file that holds no valid octree.
    """

    label: str
    shapes: tuple[Shape, ...]
    files: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()

    @property
    def trees(self) -> list[Octree]:
        """The shapes' octrees."""
        return [shape.tree for shape in self.shapes]

    @property
    def categories(self) -> list[str]:
        """The shapes' categories, "" where none is known."""
        return [shape.category for shape in self.shapes]


@dataclass(frozen=True)
class Listed:
    """The files of a set, before any of them is read.

    Attributes:
        label: where they come from.
        files: sorted; of what lies in a zip file, ``FILE.zip:MEMBER``.
        categories: those that a list names, by file; a file that is missing here says so itself.
        of_points: whether the files are point clouds, of which octrees are still to be made.
        zipped: the zip file and the member, of those files that lie in one.
    """

    label: str
    files: tuple[Path, ...]
    categories: dict[Path, str]
    of_points: bool = False
    zipped: dict[Path, tuple[Path, Member]] = field(default_factory=dict)

    def shape(self, path: Path, depth: int | None) -> Shape:
        """Read one of the files; of points an octree of ``depth`` is made.

        Raises:
            OctreeError, DdimxError: it holds no valid octree, or no points.
        """
        place = self.zipped.get(path)
        if place is None:
            if self.of_points and depth is not None:
                return Shape(read_surface(path).tree(depth))
            return read_shape(path)
        content = content_of(*place)
        if self.of_points and depth is not None:
            return Shape(read_points(content, str(path)).tree(depth))
        return read_shape(path, content=content)


def find(where: Path, split: str | None = None) -> Listed:
    """List the token files of a set.

    Args:
        where: a folder of a run (its own files only), any folder (those below it too), a prepared
            data set, or one of its lists, as ``DIR/val.jsonl``; or a data set of point clouds, as
            PC15k. A zip file stands for its contents.
        split: which part of a data set; None refuses to choose.

    Raises:
        UsageError: nothing there, no token files, or a prepared data set without such a split.
        DdimxError: a list that cannot be read, or that names a file which is not there.
    """
    where = where.expanduser()
    if where.suffix == ".jsonl" and where.is_file():
        return _of_list(where)
    is_zip = _is_zip(where)
    if not where.is_dir() and not is_zip:
        raise UsageError(
            f"{where}: no such folder (a set is a folder, a zip file, or a list DIR/test.jsonl)"
        )
    lists = lists_of(where)
    if lists and split in lists:
        return _of_list(where / f"{split}.jsonl")
    if lists:
        raise UsageError(
            f"{where} is a prepared data set with {', '.join(lists)}: "
            + (f"there is no '{split}'" if split else f"name a list, as {where / lists[-1]}.jsonl")
        )
    if split is not None and (scan := data_set(where)) is not None:
        parts = sorted({shape.part for shape in scan.shapes if shape.part})
        if parts and split not in parts:
            raise UsageError(f"{where} is {scan}: there is no '{split}'")
        members = [shape for shape in scan.shapes if shape.part == split or not parts]
        by_file = {Path(shape.origin): shape.category for shape in members}
        of_points, zipped = scan.of_points, _zipped(members)
        return Listed(f"{where}: {split}", tuple(sorted(by_file)), by_file, of_points, zipped)
    if is_zip:
        members = _tokens_in(where)
        return Listed(
            str(where), tuple(Path(s.origin) for s in members), {}, zipped=_zipped(members)
        )
    files = tuple(token_files(where, recursive=not (where / MANIFEST).is_file()))
    if not files:
        raise UsageError(
            f"{where}: no token files (looked for {', '.join(SUFFIXES)}); "
            "'ddimx prepare octrees' makes them of meshes"
        )
    return Listed(str(where), files, {})


def data_set(where: Path) -> ShapeScan | None:
    """Return what a folder or a zip file holds if it is a data set as it comes: of points, or of
    token files in folders of parts; None for all else, as runs and prepared sets.
    """
    if not _is_zip(where) and (
        not where.is_dir() or (where / MANIFEST).is_file() or lists_of(where)
    ):
        return None
    try:
        scan = scan_shapes(where)
    except UsageError:  # nothing in it, or several data sets
        return None
    is_tree = scan.layout == TOKENS
    if scan.layout == OF_PARTS:  # of a zip file the scan does not look into the members
        is_tree = all(_holds_tokens(shape) for shape in scan.shapes[:1])
    return scan if scan.of_points or is_tree else None


def parts_of(where: Path) -> list[str]:
    """Return the names of a data set's parts, none where a folder has no parts."""
    where = where.expanduser()
    scan = data_set(where)
    named = {shape.part for shape in scan.shapes} if scan is not None else set()
    return lists_of(where) or [part for part in PARTS if part in named]


def training_list(reference: Path, split: str) -> Path | None:
    """Return the list of training shapes beside a reference, if it is a data set's other part; of
    a data set without lists its folder.

    None also where the reference is the training part itself.
    """
    reference = reference.expanduser()
    if reference.suffix == ".jsonl":
        folder, split = reference.parent, reference.stem
    else:
        folder = reference
    if split == "train":
        return None
    path = folder / "train.jsonl"
    if path.is_file():
        return path
    return folder if folder == reference and "train" in parts_of(folder) else None


def read(
    listing: Listed,
    *,
    categories: Sequence[str] = (),
    strict: bool = True,
    depth: int | None = None,
    progress: Progress | None = None,
) -> ShapeSet:
    """Read a set's files.

    Args:
        categories: keep only shapes of these; none keeps all. A file that cannot be read belongs
            to no category that is known, so it is counted as invalid whatever they are.
        strict: whether a file that is not a valid octree is an error, or is counted as invalid.
        depth: of the octrees that are made of point clouds.

    Raises:
        OctreeError, DdimxError: such a file, if ``strict``; or not one valid file.
        UsageError: no shape of the categories.
    """
    if listing.of_points and depth is None:
        raise UsageError(f"{listing.label}: point clouds, and no depth for octrees")
    bar = progress or Progress(quiet=True)
    bar.start(f"reading {listing.label}", len(listing.files))
    shapes: list[tuple[Path, Shape]] = []
    invalid: list[str] = []
    for path in listing.files:
        try:
            shape = listing.shape(path, depth)
            category = listing.categories.get(path, shape.category)  # the list's word counts
            shapes.append((path, Shape(shape.tree, category, shape.shape_id)))
        except DdimxError as error:
            if strict:
                raise
            invalid.append(str(error))
        bar.advance()
    bar.stop()
    if not shapes:
        raise DdimxError(f"{listing.label}: not one valid octree; the first: {invalid[0]}")
    members = [
        (path, shape) for path, shape in shapes if not categories or shape.category in categories
    ]
    if not members:
        names = sorted({shape.category for _, shape in shapes} - {""})
        remark = f"there are: {', '.join(names)}" if names else "its files name none"
        raise UsageError(
            f"{listing.label}: no shape of category {' or '.join(categories)}; {remark}"
        )
    files = tuple(_shown(path, Path(listing.label)) for path, _ in members)
    return ShapeSet(listing.label, tuple(shape for _, shape in members), files, tuple(invalid))


def joined(parts: Sequence[ShapeSet]) -> ShapeSet:
    """Return several sets as one, in their order; at least one is needed."""
    return ShapeSet(
        " + ".join(part.label for part in parts),
        tuple(shape for part in parts for shape in part.shapes),
        tuple(file for part in parts for file in part.files),
        tuple(message for part in parts for message in part.invalid),
    )


def _is_zip(where: Path) -> bool:
    return where.suffix.lower() == ".zip" and where.is_file()


def _tokens_in(where: Path) -> list[ShapeFile]:
    """Return the token files of a zip file, wherever they lie in it, by their paths.

    Raises:
        UsageError: there are none, or it holds a prepared set, whose lists would not be looked at.
        DdimxError: it cannot be read.
    """
    scan = scan_shapes(where)
    if ".jsonl" in scan.skipped:
        raise UsageError(f"{where}: a prepared data set in a zip file; unpack it, for its lists")
    shapes = [shape for shape in scan.shapes if shape.ending in SUFFIXES]
    if not shapes:
        raise UsageError(f"{where}: no token files (looked for {', '.join(SUFFIXES)})")
    return sorted(shapes, key=lambda shape: Path(shape.origin))


def _holds_tokens(shape: ShapeFile) -> bool:
    """Return whether a shape of a zip file is an octree's."""
    if shape.member is None or shape.ending not in SUFFIXES:
        return False
    try:
        return holds_tokens(content_of(shape.path, shape.member))
    except DdimxError:
        return False


def _zipped(shapes: Sequence[ShapeFile]) -> dict[Path, tuple[Path, Member]]:
    return {Path(s.origin): (s.path, s.member) for s in shapes if s.member is not None}


def _shown(path: Path, label: Path) -> str:
    folder = label.parent if label.suffix == ".jsonl" else label
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _of_list(path: Path) -> Listed:
    """Read a list of a prepared data set: one JSON object a line, with "file" and "category"."""
    entries = read_list(path)
    if not entries:
        raise UsageError(f"{path}: lists no shapes")
    files = tuple(sorted(entry.file for entry in entries))
    return Listed(str(path), files, {entry.file: entry.category for entry in entries})
