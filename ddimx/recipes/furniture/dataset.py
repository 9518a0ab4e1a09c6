"""A set of octrees from Sweet Home 3D's libraries: which items, in which part, with whose names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...data.shapes.jobs import Job
from ...data.shapes.prepare import Outcome
from ...errors import UsageError, unknown
from ...octree.file import read_shape
from .categories import CATEGORIES, RECIPE, category_of, families, split_families
from .sweethome import Item, Library, read_item
from .variants import changes_of

HELD_OUT = 0.075  # of each category, for each of val and test


@dataclass(frozen=True)
class Piece:
    """An item that is taken, with its category."""

    item: Item
    category: str


def choose(
    libraries: Sequence[Library], categories: Sequence[str], recipe: int = RECIPE
) -> list[Piece]:
    """Return the items that have a category: one of ``categories``, or any if that is empty.

    Args:
        recipe: ``RECIPE`` or an earlier one, from 1.

    Raises:
        UsageError: an unknown category, or no item of those wanted.
    """
    for name in categories:
        if name not in CATEGORIES:
            raise unknown("category", name, CATEGORIES)
    items = [
        Piece(item, category)
        for library in libraries
        for item in library.items
        if (category := category_of(item, recipe)) and (not categories or category in categories)
    ]
    if not items:
        raise UsageError("the libraries hold no furniture of these categories")
    return items


def jobs_of(
    pieces: Sequence[Piece], recipe: int = RECIPE, variants: int = 1, seed: int = 0
) -> list[Job]:
    """Return what makes them.

    Args:
        recipe: ``RECIPE`` or an earlier one, from 1.
        variants: how many there are of each, itself among them.
        seed: of the variants' numbers.
    """
    return [
        Job(
            category=piece.category,
            shape_id=piece.item.shape_id,
            origin=f"{piece.item.library.name}: {piece.item.model}",
            stamp=piece.item.checksum,
            read=partial(read_item, piece.item, fans=recipe == 1),
            size=piece.item.model_size,
            about={
                "name": piece.item.name,
                "creator": piece.item.credit.creator,
                "licence": piece.item.credit.licence,
                "url": piece.item.credit.url,
            },
            changes=changes_of(piece.item.shape_id, piece.category, variants, seed),
        )
        for piece in pieces
    ]


def made_pieces(pieces: Sequence[Piece], outcome: Outcome) -> list[Piece]:
    """Return those that were made, in the order of ``outcome.made``."""
    by_file = {job.file: piece for piece, job in zip(pieces, jobs_of(pieces), strict=True)}
    return [by_file[shape.job.file] for shape in outcome.made]


def parts_of(pieces: Sequence[Piece], folder: Path, outcome: Outcome) -> list[str]:
    """Return the part of each shape that was made: variants together, each category in its share.

    Args:
        pieces: as ``made_pieces`` returns them.
        folder: the set, from which the shapes are read.
    """
    trees = [read_shape(folder / shape.job.file).tree for shape in outcome.made]
    items, categories = [p.item for p in pieces], [p.category for p in pieces]
    groups = families(items, categories, trees)
    parts = [""] * len(pieces)
    for category in set(categories):
        own = [i for i, name in enumerate(categories) if name == category]
        names = [items[i].shape_id for i in own]
        split = split_families(names, [groups[i] for i in own], HELD_OUT)
        for i, part in zip(own, split, strict=True):
            parts[i] = part
    return parts
