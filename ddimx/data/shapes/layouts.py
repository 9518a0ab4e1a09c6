"""How data sets of shapes lie in folders: what the place of a file says of its shape.

    PC15k                        <synset>/<train|val|test>/<id>.npy
    Occupancy Networks           <synset>/<id>/pointcloud.npz, <synset>/<train|val|test>.lst
    ShapeNetCore                 <synset>/<id>/models/model_normalized.obj (v1: <id>/model.obj)
    ShapeNet55                   <synset>-<id>.npy, train.txt and test.txt
    folders of parts             <category>/<train|val|test>/<id>.*, <category>/<part>.txt
                                 <train|val|test>/<category>/<id>.*
    folders                      <category>/<id>.*

Nothing here looks at a disk: a place is the parts of a path. What lies deeper than in these forms
is named by its whole path.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import DdimxError, UsageError
from ...untrusted.names import relative
from .meshes import ending
from .shapenet import SYNSETS

Parts = tuple[str, ...]

PC15K, OCCUPANCY, SHAPENET = "PC15k", "Occupancy Networks", "ShapeNetCore"
SHAPENET55, OF_PARTS, FOLDERS = "ShapeNet55", "folders of parts", "folders"
PREPARED = "prepared set"  # what ``ddimx prepare octrees`` made
TOKENS = "token files"  # the original project's tree: folders of parts that hold octrees
CLOUDS = (PC15K, OCCUPANCY, SHAPENET55)  # that hold points, not meshes
PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
DEEPEST = 2  # folders between the one that is named and the one where a data set begins

_SYNSET = re.compile(r"\d{8}", re.ASCII)
_FLAT = re.compile(r"(\d{8})-(.+)\.npy", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """What the place of a file says of it.

    Attributes:
        layout: one of the names above.
        key: what it has in common with the other files of the same shape.
        part: "train", "val" or "test" where a folder says so.
    """

    layout: str
    category: str
    shape_id: str
    key: Parts
    part: str | None = None


def stem_of(name: str) -> str:
    """Return a file's name without the ending by which it is read."""
    return name[: len(name) - len(ending(name))]


def is_synset(name: str) -> bool:
    """Whether a folder is named as ShapeNet's categories are: by eight digits."""
    return _SYNSET.fullmatch(name) is not None


def category_of(name: str) -> str:
    """Return the category that a folder is named by; of a synset the word that people use."""
    return SYNSETS.get(name, name)


def is_list(name: str) -> bool:
    """Whether a file, by its name, is a list of the shapes of one part."""
    path = PurePosixPath(name.lower())
    return path.stem in PART_NAMES and path.suffix in (".txt", ".lst")


def place_in_data_set(parts: Parts) -> Place | None:
    """Return what a place says in one of the data sets above; None if it is not one of theirs."""
    *_, name = parts
    stem = stem_of(name)
    if len(parts) <= 2 and (match := _FLAT.fullmatch(name)):
        return Place(SHAPENET55, category_of(match[1]), match[2], (name,))
    if len(parts) >= 3 and is_synset(parts[0]):
        model = (category_of(parts[0]), parts[1], parts[:2])
        if parts[2:] in (("models", "model_normalized.obj"), ("model.obj",)):
            return Place(SHAPENET, *model)
        if parts[2:] == ("pointcloud.npz",):
            return Place(OCCUPANCY, *model)
    if len(parts) == 3 and parts[1].lower() in PART_NAMES:
        layout = PC15K if is_synset(parts[0]) and name.lower().endswith(".npy") else OF_PARTS
        key, part = (*parts[:-1], stem), PART_NAMES[parts[1].lower()]
        return Place(layout, category_of(parts[0]), stem, key, part)
    return None


def parts_above_categories(places: Sequence[Parts]) -> bool:
    """Whether all shapes lie in folders of parts, in which there are folders of categories.

    A single such folder may be a category: of ShapeNet's, one is called "train".
    """
    tops = {PART_NAMES.get(parts[0].lower()) for parts in places}
    depths = {len(parts) for parts in places}
    return len(tops) > 1 and None not in tops and min(depths) >= 3


def place_in_folders(parts: Parts, category: str, *, parts_first: bool = False) -> Place:
    """Return what a place says otherwise; ``category`` is that of what lies in no folder of one.

    Args:
        parts_first: as :func:`parts_above_categories` has it.
    """
    *folders, name = parts
    stem = stem_of(name)
    key = (*folders, stem)
    if len(folders) == 1 and folders[0].lower() in PART_NAMES:
        return Place(OF_PARTS, category, stem, key, PART_NAMES[folders[0].lower()])
    if not folders:
        return Place(FOLDERS, category, stem, key)
    if parts_first:
        shape_id = "-".join([*folders[2:], stem])
        part = PART_NAMES[folders[0].lower()]
        return Place(OF_PARTS, category_of(folders[1]), shape_id, key, part)
    return Place(FOLDERS, category_of(folders[0]), "-".join([*folders[1:], stem]), key)


def beginning(places: Iterable[Parts], source: Path) -> Parts:
    """Return the folders below ``source`` in which its data set begins: none, if it is the root.

    So a folder too high does no harm, where there is no doubt what is meant.

    Raises:
        UsageError: it holds several data sets, or other shapes beside one of ShapeNet's.
    """
    begins: Counter[Parts] = Counter()
    layouts: dict[Parts, str] = {}
    others: set[Parts] = set()
    for parts in places:
        for depth in range(min(DEEPEST + 1, len(parts))):
            place = place_in_data_set(parts[depth:])
            if place is not None:
                begins[parts[:depth]] += 1
                layouts.setdefault(parts[:depth], place.layout)
                break
        else:
            others.add(parts[:DEEPEST])
    if () in begins or not begins:
        return ()
    first, *more = begins
    beside = sorted(other for other in others if other[: len(first)] != first)
    if not more and not beside:
        return first
    if set(layouts.values()) == {OF_PARTS}:
        return ()  # folders within a category may have such names too
    data_sets = ", ".join(f"{source.joinpath(*p)} ({layouts[p]})" for p in layouts)
    what = "several data sets" if more else f"other shapes beside a data set ({beside[0][0]})"
    raise UsageError(f"{source} holds {what}: {data_sets}; name one of them")


def list_places(place: Place, parts: Parts) -> list[Parts]:
    """Return where the lists may lie that say to which part a shape belongs: the first that is
    there counts, and all beside it.

    Args:
        parts: the file's place, from where the data set begins.
    """
    if place.layout == OCCUPANCY:
        return [(*parts[:1], f"{part}.lst") for part in PART_NAMES]
    if place.layout == SHAPENET55:
        folders: list[Parts] = [(), ("ShapeNet-55",), parts[:-1]]
        return [(*folder, f"{part}.txt") for folder in folders for part in PART_NAMES]
    if place.layout == OF_PARTS:
        return [(*parts[:-2], f"{parts[-2]}.txt")]
    return []


def read_names(data: bytes, origin: str) -> list[str]:
    """Return the names of a list, one a line; empty lines are passed over.

    Raises:
        DdimxError: it is not a text in UTF-8, or a name leads out of a folder.
    """
    try:
        lines = data.decode("utf-8").splitlines()
    except ValueError as error:
        raise DdimxError(f"{origin}: not a list of names ({error})") from None
    return [relative(line.strip(), origin) for line in lines if line.strip()]
