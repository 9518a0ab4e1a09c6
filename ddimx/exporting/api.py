"""``ddimx.export``: the verb as a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import DdimxError, UsageError
from ..octree.file import Shape
from ..octree.tree import Octree
from ..progress import Progress
from ..signals import Stop
from ..splats.formats import EncodeOptions
from ..splats.from_octree import Look
from ..untrusted.names import relative
from .destinations import is_file_name, merged_item, named
from .run import run
from .settings import ExportSettings, named_formats
from .sources import ExportItem, items_of

Source = str | Path | Octree | Shape


def export(
    source: Source | list[Source] | tuple[Source, ...],
    out: str | Path | None = None,
    *,
    format: str | Sequence[str] = "3dgs",
    color: str = "height",
    opacity: float = 0.95,
    scale: float = 0.5,
    surfel: bool = False,
    light: bool | None = None,
    up: str | None = None,
    sh_degree: int | None = None,
    spz_version: int | None = None,
    ascii: bool = False,
    max_depth: int | None = None,
    depth: int | None = None,
    center: bool = False,
    unit: float | Literal["cube"] = 1.0,
    merge: bool = False,
    preview: bool = False,
    turntable: bool = False,
    overwrite: bool = False,
    workers: int | None = 1,
) -> list[Path]:
    """Write octrees as Gaussian splats and return the paths of the files.

        ddimx.export("runs/0001-sample-furniture", format=["3dgs", "glb"], preview=True)
        ddimx.export(tree, "chair.ply", surfel=True)

    Args:
        source: a token file, a folder of them, an octree or a shape, or several of these.
        out: a folder, or for one shape (or ``merge``) in one format a file. Files and folders are
            by default exported beside their sources; octrees need it.
        format: "3dgs", "ply", "splat", "spz", "glb", "json", one or several.
        color, opacity, scale, surfel, light: as in :class:`ddimx.splats.from_octree.Look`.
        up: the axis that points up in the files, "y", "z" or "-y"; None takes each format's own.
        sh_degree: 0 to 3; None takes each format's own: 3 for "3dgs", else 0.
        spz_version: 2, 3 or 4. ascii: PLY as text.
        max_depth: what the octrees' depth must be. depth: at which deeper ones are cut.
        center: put the middle of the octree's cube at the origin.
        unit: how many of the octree's units are one in the file; "cube" makes the cube's edge 1.
        merge: one file of all shapes, side by side.
        preview, turntable: pictures beside the splats.
        overwrite: replace files that are there with other contents.
        workers: processes; with more than 1, call it under ``if __name__ == "__main__"``.

    Raises:
        UsageError: an option or a source that cannot be used; nothing was started.
        DdimxError: some shapes failed, all others are written; the message lists them.
    """
    settings = ExportSettings(
        formats=named_formats([format] if isinstance(format, str) else format),
        look=Look(color, opacity, scale, surfel, light),
        up=up,
        options=EncodeOptions(sh_degree, ascii, spz_version=spz_version),
        max_depth=max_depth,
        depth=depth,
        center=center,
        unit=unit,
        preview=preview,
        turntable=turntable,
        overwrite=overwrite,
        workers=workers,
    )
    items = placed(source, None if out is None else Path(out), settings, merge=merge)
    record = run(
        items,
        settings,
        Stop(),
        Progress(quiet=True),
        merged=merged_item(items) if merge else None,
    )
    if record["failed"]:
        raise DdimxError(failures(record))
    return [Path(file["path"]) for shape in record["exported"] for file in shape["files"]]


def placed(
    source: Source | list[Source] | tuple[Source, ...],
    out: Path | None,
    settings: ExportSettings,
    *,
    merge: bool,
) -> list[ExportItem]:
    """Return the shapes of all sources and where each goes.

    Raises:
        UsageError: nothing to export, nowhere to put it, or two shapes of one name.
    """
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    folder = None if is_file_name(out) else out
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} exists and is not a folder")
    items: list[ExportItem] = []
    for each in sources:
        if isinstance(each, (str, Path)):
            items += items_of(Path(each), folder)
        else:
            items.append(_in_memory(each, out, len(items)))
    if not items:
        raise UsageError("nothing to export")
    if out is not None and folder is None:
        return named(items, settings, out, merge)
    counts = Counter(item.base for item in items)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None and not merge:
        raise UsageError(f"two shapes would be written to {twice}")
    return items


def _in_memory(source: Any, out: Path | None, number: int) -> ExportItem:
    if isinstance(source, Octree):
        source = Shape(source)
    if not isinstance(source, Shape):
        raise UsageError(f"cannot export {type(source).__name__}; give paths, octrees or shapes")
    if out is None:
        raise UsageError("an octree in memory has no place of its own: give out=")
    name = source.shape_id or f"{number:06d}"
    try:
        plain = Path(relative(name, "shape_id")).name == name
    except DdimxError:
        plain = False
    if not plain:
        raise UsageError(f"shape id {name!r} is not a file name")
    return ExportItem(source, out / name)


def failures(record: dict[str, Any]) -> str:
    """Return one message about the shapes that failed, the first ten by name."""
    failed = record["failed"]
    lines = [f"{len(failed)} of {record['shapes']} shapes failed, the others are written:"]
    if not record["exported"]:  # also where the one file of several shapes failed
        lines = ["no shape could be exported:"]
        if len(failed) == 1:
            return str(failed[0]["error"])
    lines += [f"  {_line(each)}" for each in failed[:10]]
    lines += [f"  and {len(failed) - 10} more"] if len(failed) > 10 else []
    return "\n".join(lines)


def _line(failed: dict[str, str]) -> str:
    named_already = failed["source"] in failed["error"]
    return failed["error"] if named_already else f"{failed['source']}: {failed['error']}"
