"""What ``prepare octrees`` and ``prepare furniture`` have in common: options and the last words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import DdimxError, UsageError
from .. import options

if TYPE_CHECKING:
    from ...data.shapes.prepare import Outcome, ShapeFolder
    from ...progress import Progress

SHOWN = 20  # bad meshes that are listed on the screen; --json and failures.json hold all

Depth = Annotated[
    int, typer.Option(metavar="N", min=1, max=12, help="Subdivisions: a grid of 2^N cells a side.")
]
Workers = Annotated[int | None, options.workers("Processes (default: one a core).")]
Visible = Annotated[
    bool,
    typer.Option("--visible", help="Leave out cells that cannot be seen from outside (depth 1-9)."),
]
Replace = Annotated[
    bool, options.shared("overwrite", help="Make a set of other settings again, in its place.")
]


def check_visible(depth: int, visible: bool) -> None:
    """Refuse --visible at a depth that is too large for it, and where SciPy is missing."""
    from ...octree.visible import MAX_VISIBLE_DEPTH, labeling

    if visible and depth > MAX_VISIBLE_DEPTH:
        raise UsageError(f"--visible needs a --depth of at most {MAX_VISIBLE_DEPTH}")
    if visible:
        labeling()


def cores() -> int:
    """Return how many processes there are by default."""
    import os

    return os.cpu_count() or 1


def versions() -> dict[str, Any]:
    """Return the versions that a prepared set records."""
    from importlib.metadata import PackageNotFoundError, version

    from ... import __version__

    versions = {"ddimx": __version__}
    for name in ("numpy", "plyfile"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"versions": versions}


def report(
    shapes: ShapeFolder,
    outcome: Outcome,
    parts: list[str],
    progress: Progress,
    json_output: bool,
    about: dict[str, Any] | None = None,
) -> None:
    """Say what there is now; ``about`` is what --json tells besides.

    Raises:
        DdimxError: something could not be made; the message lists it.
    """
    from ..output import print_json

    summary = _summary(shapes, outcome, parts)
    progress.stop()  # so that the lines stand below the bar
    progress.say(_text(summary))
    if json_output:
        print_json(summary | (about or {}))
    if outcome.failed:
        raise DdimxError(_failures([made.reason for made in outcome.failed]))


def _summary(shapes: ShapeFolder, outcome: Outcome, parts: list[str]) -> dict[str, Any]:
    from ...data.shapes.lists import PARTS

    categories: dict[str, dict[str, int]] = {}
    for made, part in zip(outcome.made, parts, strict=True):
        counts = categories.setdefault(made.job.category, dict.fromkeys(PARTS, 0))
        counts[part] += 1
    return {
        "path": str(shapes.folder),
        "depth": shapes.settings.depth,
        "shapes": len(outcome.made),
        "found": outcome.found,
        "parts": {part: parts.count(part) for part in PARTS},
        "categories": dict(sorted(categories.items())),
        "failed": [{"source": m.job.origin, "reason": m.reason} for m in outcome.failed],
    }


def _text(summary: dict[str, Any]) -> str:
    """Return what the person at the terminal reads at the end."""
    already = summary["found"]
    state = f" ({already} were there already)" if already else ""
    counts = ", ".join(f"{count} {part}" for part, count in summary["parts"].items())
    made = f"{summary['shapes']} octrees of depth {summary['depth']}{state}"
    lines = [f"{summary['path']}: {made}: {counts}"]
    width = max(map(len, summary["categories"]))
    lines += [
        f"  {name:{width}}  {sum(parts.values()):5d}"
        for name, parts in summary["categories"].items()
    ]
    return "\n".join(lines)


def _failures(reasons: list[str]) -> str:
    lines = [f"{len(reasons)} could not be made (failures.json lists all):"]
    lines += [f"  {reason}" for reason in reasons[:SHOWN]]
    return "\n".join(
        [*lines, "mend or remove them and give the same command, or train without them"]
    )
