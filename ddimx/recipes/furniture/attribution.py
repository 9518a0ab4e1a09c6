"""The list of whose models a set is made from, as CC BY asks for beside the set and its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from .licenses import ADDRESS, NOTICES
from .sweethome import Item, Library

CHANGES = (
    "Every model was changed: its surface was turned into the occupied cells of an octree, without "
    "materials or textures, and some were scaled. None of the people named endorses the result."
)


def attribution(libraries: Sequence[Library], pieces: Iterable[Item]) -> str:
    """Return the list as Markdown, the same for the same items whatever their order.

    Each library has a section with its notice and its licence, each creator in it a line with
    their models' names, and the published work's title and address where the library gives them.
    A model under another licence than its library's says so.
    """
    keys = {item.key for item in pieces}
    lines = [
        "# Attribution",
        "",
        f"This is derived from {len(keys)} models of Sweet Home 3D's furniture libraries, as in "
        "the Debian package sweethome3d-furniture.",
        CHANGES,
    ]
    for library in sorted(libraries, key=lambda library: (library.name, library.key)):
        items = [item for item in library.items if item.key in keys]
        if items:
            lines += ["", *_section(library, items)]
    return "\n".join(lines) + "\n"


def _section(library: Library, items: list[Item]) -> list[str]:
    notice = NOTICES.get(library.key)
    licence = f"Licence: {_linked(library.licence)}."
    head = [f"## {library.name}", "", *([notice] if notice else []), licence, ""]
    ordered = sorted(items, key=_order)
    return head + [
        f"- {creator}: {_works(list(own), library.licence)}"
        for creator, own in groupby(ordered, key=lambda item: item.credit.creator)
    ]


def _order(item: Item) -> tuple[str, ...]:
    credit = item.credit
    return (credit.creator.casefold(), credit.creator, credit.url, credit.licence, item.key)


def _works(items: list[Item], usual: str) -> str:
    """Return a creator's models, those of one published work together."""
    works = []
    for credit, own in groupby(items, key=lambda item: item.credit):
        names = ", ".join(_escaped(item.key.partition("#")[2] or item.name) for item in own)
        source = f"[{_escaped(credit.title)}]({credit.url})" if credit.url else credit.title
        other = "" if credit.licence == usual else f"licence {_linked(credit.licence)}"
        besides = ", ".join(part for part in (source and f"from {source}", other) if part)
        works.append(f"{names} ({besides})" if besides else names)
    return "; ".join(works)


def _linked(licence: str) -> str:
    return f"[{licence}]({ADDRESS[licence]})" if licence in ADDRESS else licence


def _escaped(text: str) -> str:
    """Keep names with brackets or underscores from being read as Markdown."""
    return "".join(f"\\{c}" if c in "\\[]*_`<>" else c for c in text)
