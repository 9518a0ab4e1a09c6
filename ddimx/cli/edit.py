"""What the verbs that edit pictures have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError

Refine = Annotated[
    int | None,
    typer.Option(help="Corrections of every step of the encoding (default: 2; 0: none, cheapest)."),
]
Resize = Annotated[
    bool, typer.Option("--resize", help="Cut images to the model's proportions and scale them.")
]
NO_CLASS = {"help": "Class to draw (default: none, the pixels say enough)."}
ANIMATION = {
    "choices": ("webp", "gif"),
    "metavar": "webp|gif",
    "help": "The animation's format (default: webp).",
}


def check_there(path: Path) -> None:
    """Raise UsageError unless there is a file or folder."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")


def reconstruction(record: dict[str, Any]) -> str:
    """Return how well encoded images came back, or nothing where there are none."""
    errors = record.get("reconstruction_rms")
    if not errors:
        return ""
    mean, worst = sum(errors.values()) / len(errors), max(errors, key=errors.__getitem__)
    more = "" if len(errors) == 1 else f" on average, at most {errors[worst]:.4f} ({worst})"
    return f"; reconstruction error {mean:.4f} RMS{more}"
