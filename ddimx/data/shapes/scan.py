"""Which shapes a folder or a zip file holds: meshes, point clouds and octrees, by their places.

Where a file lies says what it is called, see :mod:`ddimx.data.shapes.layouts`. ShapeNet's
``all.csv``, if it lies in the folder, says which shape belongs to which part. What is not a shape
of its own is counted, by the reason.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...errors import DdimxError, UsageError, unknown
from ...octree.file import holds_tokens
from ...progress import Progress
from ...untrusted.archives import Member
from ...untrusted.foreign import reason
from .contents import CSV, SourceFile, files_of
from .layouts import (
    CLOUDS,
    FOLDERS,
    OCCUPANCY,
    OF_PARTS,
    PART_NAMES,
    PREPARED,
    SHAPENET,
    TOKENS,
    Parts,
    Place,
    beginning,
    category_of,
    is_list,
    is_synset,
    list_places,
    parts_above_categories,
    place_in_data_set,
    place_in_folders,
    read_names,
    stem_of,
)
from .lists import PARTS, lists_of, read_list
from .meshes import EXTENSIONS, POINTS, ending

TEXT = ".txt"


@dataclass(frozen=True)
class ShapeFile:
    """A shape's file with what its place says.

    Attributes:
        path: of the file, or of the zip file that it is a member of.
        part: "train", "val" or "test" where its place or a list says so.
        member: where it lies in the zip file.
    """

    path: Path
    category: str
    shape_id: str
    part: str | None
    member: Member | None = None

    @property
    def ending(self) -> str:
        """The ending of its name: what kind of file it is."""
        return ending(self.path.name if self.member is None else self.member.name)

    @property
    def origin(self) -> str:
        """What messages call it: its path, or that of the zip file and the member's name."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member.name}"


@dataclass(frozen=True)
class ShapeScan:
    """The shapes of a folder or a zip file.

    Attributes:
        layout: one of the names of :mod:`ddimx.data.shapes.layouts`.
        root: where the data set begins: the folder itself, or one within.
        shapes: ordered by their paths.
        skipped: how many files are no shapes of their own, by the reason.
        remark: what a person may have meant otherwise, "" if there is no doubt.
    """

    layout: str
    root: Path
    shapes: tuple[ShapeFile, ...]
    skipped: dict[str, int]
    remark: str = ""

    @property
    def of_points(self) -> bool:
        """Whether it is one of the data sets that hold point clouds."""
        return self.layout in CLOUDS

    def __str__(self) -> str:
        """One line, as "PC15k: 3 categories, 6 shapes (4 train, 2 test)"."""
        categories = len({shape.category for shape in self.shapes})
        counts = Counter(shape.part for shape in self.shapes)
        by_part = [f"{counts[part]} {part}" for part in PARTS if counts[part]]
        if by_part and counts[None]:
            by_part.append(f"{counts[None]} of no part")
        text = f"{self.layout}: {categories} {'category' if categories == 1 else 'categories'}"
        text += f", {len(self.shapes)} {'shape' if len(self.shapes) == 1 else 'shapes'}"
        return f"{text} ({', '.join(by_part)})" if by_part else text


def scan_shapes(
    source: Path,
    *,
    category: str | None = None,
    skip: Path | None = None,
    extensions: Sequence[str] = (),
    progress: Progress | None = None,
) -> ShapeScan:
    """Find the shapes of a folder, or of a zip file.

    Of files of one name beside each other the first kind of ``extensions`` is taken, by default of
    ``EXTENSIONS``: a mesh before points. Texts (``.txt``) are points only where nothing else is
    there, and of those the ones in folders, where there are such. Shapes of one name in several
    parts are called ``<part>-<id>``. Of a prepared set the shapes are those of its lists; one
    within the folder is passed over.

    Args:
        category: the name of what lies in no category's folder (default: the folder's own); of
            the folders' categories only this one is taken. A synset stands for its category.
        skip: a folder within that is not looked into.
        extensions: the kinds of files that are taken; none: all.
        progress: counts the files that were met, where there are many.

    Raises:
        UsageError: no such folder, nothing in it that can be read, several data sets, a name that
            is not text, or no such category or extension.
        DdimxError: a list or a zip file that cannot be read, or a name in it that leads out.
    """
    for extension in extensions:
        if extension not in EXTENSIONS:
            raise unknown("--extension", extension, EXTENSIONS)
    skipped: Counter[str] = Counter()
    wanted = None if category is None else category_of(category)
    prepared_parts = lists_of(source)
    if prepared_parts:
        listed = [
            ShapeFile(entry.file, entry.category or source.name, stem_of(entry.file.name), part)
            for part in prepared_parts
            for entry in read_list(source / f"{part}.jsonl")
        ]
        listed = [shape for shape in listed if not extensions or shape.ending in extensions]
        chosen = _of_category(sorted(listed, key=lambda s: s.path), wanted, skipped)
        if not chosen:
            raise UsageError(f"no shapes in the lists of the prepared set {source}")
        return ShapeScan(PREPARED, source, tuple(chosen), dict(skipped))
    bar = progress or Progress(quiet=True)
    files = list(bar.counted(files_of(source, skip, skipped), f"looking through {source}"))
    own = source.resolve().stem if source.is_file() else source.resolve().name
    above = int(is_synset(own) and not any(file.parts[0] == own for file in files))
    if above:  # one category by itself
        files = [replace(file, parts=(own, *file.parts)) for file in files]
    kinds = tuple(extensions or EXTENSIONS)
    candidates = [file for file in files if _is_candidate(file, kinds)]
    if not extensions:
        others = [file for file in candidates if file.ending != TEXT]
        below = [file for file in candidates if len(file.parts) > 1 + above]
        candidates = others or below or candidates  # texts beside shapes tell of them
    begin = beginning((file.parts for file in candidates), source)
    # A zip file of a folder has that folder in it; of folders it is only remarked.
    single = () if above else _single_folder([file.parts for file in candidates])
    if single and not begin and source.is_file():
        begin, single = single, ()
    lists = _Lists(files, begin)
    official = _official_parts(files, above, begin)
    are_candidates = set(candidates)
    for file in files:
        if file in are_candidates or is_list(file.name) or file.name == CSV:
            continue
        kind = file.ending
        zipped = file.member is not None and kind == ".gltf" and kind in kinds
        skipped[f"{kind} in a zip file, which must be unpacked" if zipped else kind] += 1

    root = source.joinpath(*begin[above:])
    name = wanted or (own if root == source else root.name) or "shape"
    places = [file.parts[len(begin) :] for file in candidates]
    in_data_set = [place_in_data_set(parts) for parts in places]
    of_folders = sorted({place.layout for place in in_data_set if place} & {SHAPENET, OCCUPANCY})
    parts_first = not any(in_data_set) and parts_above_categories(places)
    shapes: dict[Parts, tuple[ShapeFile, str]] = {}
    for file, parts, place in zip(candidates, places, in_data_set, strict=True):
        if place is None:
            if of_folders and is_synset(parts[0]) and len(parts) > 2:
                skipped[f"{file.ending} beside a shape of {' and '.join(of_folders)}"] += 1
                continue
            place = place_in_folders(parts, name, parts_first=parts_first)
        part, reason_to_skip = lists.look_up(place, parts)
        if reason_to_skip:
            skipped[reason_to_skip] += 1
            continue
        part = part or official.get((place.category, place.shape_id))
        shape = ShapeFile(file.path, place.category, place.shape_id, part, file.member)
        other, layout = shapes.setdefault(place.key, (shape, place.layout))
        if other is not shape:
            first, second = sorted((other, shape), key=lambda each: kinds.index(each.ending))
            shapes[place.key] = (first, layout)
            skipped[f"{second.ending} beside {first.ending} of the same shape"] += 1
    if lists.absent():
        skipped["named by a list, but absent"] += lists.absent()
    chosen = _of_category([shape for shape, _ in shapes.values()], wanted, skipped)
    if not chosen:
        counts = f"; passed over: {counted(skipped)}" if skipped else ""
        raise UsageError(f"no meshes or point clouds ({' '.join(kinds)}) in {source}{counts}")
    names = Counter((shape.category, shape.shape_id.casefold()) for shape in chosen)
    for number, shape in enumerate(chosen):  # each part may count from 0
        if shape.part and names[shape.category, shape.shape_id.casefold()] > 1:
            chosen[number] = replace(shape, shape_id=f"{shape.part}-{shape.shape_id}")
    layout = Counter(layout for _, layout in shapes.values()).most_common(1)[0][0]
    remark = ""
    if single and layout == FOLDERS:
        within = source.joinpath(*single)
        remark = (
            f"all shapes lie in {within}, so they are of one category, '{chosen[0].category}'; if "
            f"its folders are the categories, give {within}"
        )
    first = chosen[0]
    if layout == OF_PARTS and first.ending in POINTS and first.member is None:
        layout = TOKENS if holds_tokens(first.path) else layout
    return ShapeScan(layout, root, tuple(chosen), dict(skipped), remark)


def counted(skipped: Mapping[str, int], most: int = 8) -> str:
    """Return in words what was passed over, the most frequent first."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count} {what}" for what, count in ordered[:most]]
    rest = sum(count for _, count in ordered[most:])
    return ", ".join([*words, f"{rest} others"] if rest else words)


def _of_category(
    shapes: Sequence[ShapeFile], wanted: str | None, skipped: Counter[str]
) -> list[ShapeFile]:
    """Return the shapes of one category, or all; the others are counted.

    Raises:
        UsageError: there are shapes, and none of this category.
    """
    names = {shape.category for shape in shapes}
    if wanted is not None and names and wanted not in names:
        raise unknown("category", wanted, names)
    chosen = [shape for shape in shapes if wanted in (None, shape.category)]
    if len(chosen) < len(shapes):
        skipped["of other categories"] += len(shapes) - len(chosen)
    return chosen


def _single_folder(places: Sequence[Parts]) -> Parts:
    """Return the one folder that holds all shapes, each in a folder of several within; () if none.

    Where all files have one name, or that of their folder, these are folders of a shape each.
    """
    tops, seconds = {parts[0] for parts in places}, {parts[1:2] for parts in places}
    stems = {stem_of(parts[-1]) for parts in places}
    if min(map(len, places), default=0) < 3 or len(tops) > 1 or len(seconds) < 2 or len(stems) < 2:
        return ()
    is_each = all(stem_of(parts[-1]) == parts[-2] for parts in places)
    return () if is_each else tuple(tops)


def _is_candidate(file: SourceFile, kinds: Sequence[str]) -> bool:
    """Whether a file may be a shape by its name; in a zip file a .gltf has nothing beside it."""
    if file.member is not None and file.ending == ".gltf":
        return False
    return file.ending in kinds and not is_list(file.name)


class _Lists:
    """The lists of a data set, read when they are needed: which shapes belong to which part."""

    def __init__(self, files: Sequence[SourceFile], begin: Parts) -> None:
        depth = len(begin)
        self._files = {
            file.parts[depth:]: file
            for file in files
            if is_list(file.name) and file.parts[:depth] == begin
        }
        self._names: dict[Parts, dict[str, bool]] = {}  # of each list: whether it was met

    def look_up(self, place: Place, parts: Parts) -> tuple[str | None, str]:
        """Return the part of a shape, and why it does not belong to the data set, "" if it does.

        Where there are lists, what they do not name does not belong to it.
        """
        lists = [each for each in list_places(place, parts) if each in self._files]
        lists = [each for each in lists if each[:-1] == lists[0][:-1]]
        if not lists:
            return place.part, ""
        for each in lists:
            names = self._of(each)
            for name in (parts[-1], stem_of(parts[-1]), place.shape_id):
                if name in names:
                    names[name] = True
                    return place.part or PART_NAMES[PurePosixPath(each[-1].lower()).stem], ""
        return None, f"not named by {' or '.join(each[-1] for each in lists)}"

    def absent(self) -> int:
        """Return how many names of the lists that were read belong to no file."""
        return sum(not met for names in self._names.values() for met in names.values())

    def _of(self, place: Parts) -> dict[str, bool]:
        if place not in self._names:
            names = read_names(*self._files[place].read())
            self._names[place] = {PurePosixPath(name).name: False for name in names}
        return self._names[place]


def _official_parts(
    files: Sequence[SourceFile], above: int, begin: Parts
) -> dict[tuple[str, str], str]:
    """Read ShapeNet's ``all.csv``: (category, model) -> part; nothing if there is no such file."""
    place = (*begin[above:], CSV)
    own = next((file for file in files if file.parts[above:] == place), None)
    if own is None:
        return {}
    content, origin = own.read()
    try:
        rows = [
            (r["synsetId"].zfill(8), r["modelId"], r["split"])
            for r in csv.DictReader(content.decode("utf-8").splitlines(keepends=True))
        ]
        return {(category_of(s), model): PART_NAMES[part] for s, model, part in rows}
    except (KeyError, ValueError, AttributeError, csv.Error) as error:
        raise DdimxError(
            f"{origin}: not ShapeNet's list of splits (synsetId, modelId, split): {reason(error)}"
        ) from None
