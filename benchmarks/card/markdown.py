"""A card's Markdown fragment, made of what its parts recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def fragment(record: dict[str, Any]) -> str:
    """Return the fragment: facts, the table of figures, further tables, pictures.

    Args:
        record: as ``figures.json`` holds it: "model", and "parts" by name.
    """
    parts = record["parts"]
    lines = ["## Measured", ""]
    rows = [row for part in parts.values() for row in part["rows"]]
    if rows:
        lines += [*table(["what", "figure", "how"], rows), ""]
    for part in parts.values():
        for title, header, cells in part["tables"]:
            lines += [f"{title}:", "", *table(header, cells), ""]
    pictures = {name: what for part in parts.values() for name, what in part["pictures"].items()}
    for name, what in pictures.items():
        if not name.startswith("judge"):
            lines += [
                f"![{what.replace('`', '')}]({name})",
                "",
                f"{what[0].upper()}{what[1:]}.",
                "",
            ]
    if trained := [f"{key} {value}" for key, value in record["model"].items()]:
        lines += ["Model: " + "; ".join(trained) + ".", ""]
    machines = sorted({part["machine"]["device"] for part in parts.values()})
    commits = sorted({str(part["machine"]["commit"]) for part in parts.values()})
    lines += [f"Measured on {', '.join(machines)}, at {', '.join(commits)}.", ""]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]
