"""Exporting many shapes: in several processes, with progress, and to the end though some fail."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from ..errors import DdimxError
from ..files import sweep
from ..progress import Progress
from ..runs.lock import lock_folder
from ..signals import Stop
from ..timing import Clock
from .job import PARTS, ExportResult, export_item, scene_of, side_by_side, write_scene
from .pictures import Scene
from .settings import ExportSettings
from .sources import ExportItem

FEW = 24  # shapes that one process makes before others would have started
MOST_WORKERS = 8


def run(
    items: Sequence[ExportItem],
    settings: ExportSettings,
    stop: Stop,
    progress: Progress,
    *,
    merged: ExportItem | None = None,
) -> dict[str, Any]:
    """Export the shapes and return what was made.

    The result's ``status`` is "complete", "failed" (some shapes have an ``error``) or
    "interrupted"; every file that it names is there and whole. Several processes' seconds are added
    up in ``seconds_by_part``.

    Args:
        merged: write one file of all shapes, where this item says; its source is not read.

    Raises:
        UsageError: another process exports into one of the folders.
    """
    with ExitStack() as stack:
        for folder, own in folders_of(items if merged is None else [merged], settings).items():
            stack.enter_context(lock_folder(folder, "export"))
            sweep(folder, *own)
        start_seconds = time.monotonic()
        if merged is None:
            results = export_all(items, settings, stop, progress, title="exporting")
            is_unfinished = len(results) < len(items)
        else:
            progress.start("exporting", len(items))
            results = _together(items, settings, stop, progress, merged)
            is_unfinished = bool(stop) and not any(result.files for result in results)
        progress.stop()
        failed = [{"source": r.label, "error": r.error} for r in results if r.error is not None]
        return {
            "status": "interrupted" if is_unfinished else "failed" if failed else "complete",
            "shapes": len(items),
            "splats": sum(result.splats for result in results),
            "exported": [
                {"source": r.label, "splats": r.splats, "files": list(r.files)}
                for r in results
                if r.files
            ],
            "failed": failed,
            "seconds": time.monotonic() - start_seconds,
            "seconds_by_part": {p: sum(r.seconds.get(p, 0.0) for r in results) for p in PARTS},
        }


def folders_of(items: Sequence[ExportItem], settings: ExportSettings) -> dict[Path, list[str]]:
    """Return the folders that are written to, with the names of the files in each."""
    names: dict[Path, list[str]] = {}
    for item in items:
        for path in settings.targets(item.base, item.exact).values():
            names.setdefault(path.parent, []).append(path.name)
    return names


def export_all(
    items: Sequence[ExportItem],
    settings: ExportSettings,
    stop: Stop,
    progress: Progress,
    *,
    title: str,
) -> list[ExportResult]:
    """Return what became of each item, in their order; when asked to stop, of fewer."""
    progress.start(title, len(items))
    by_item: dict[int, ExportResult] = {}
    for number, result in _each(items, settings, stop):
        by_item[number] = result
        progress.advance()
    progress.stop()
    return [result for _, result in sorted(by_item.items())]


def _each(
    items: Sequence[ExportItem], settings: ExportSettings, stop: Stop
) -> Iterator[tuple[int, ExportResult]]:
    """Yield the items' numbers with what became of them, as it comes.

    When asked to stop, what is under way is finished.
    """
    pending = takewhile(lambda _: not stop, enumerate(items))
    workers = settings.workers or min(os.cpu_count() or 1, MOST_WORKERS, len(items) // FEW)
    if workers <= 1 or len(items) == 1:
        yield from ((number, export_item(item, settings)) for number, item in pending)
        return
    from ..runs.processes import end_idle, run_all

    export = partial(_export_numbered, settings=settings)
    try:
        for work in run_all(export, pending, processes=workers):
            number, item = work.item
            yield (
                number,
                work.result or ExportResult(item.label, error=f"{item.label}: {work.error}"),
            )
    finally:
        end_idle()


def _export_numbered(numbered: tuple[int, ExportItem], settings: ExportSettings) -> ExportResult:
    return export_item(numbered[1], settings)


def _together(
    items: Sequence[ExportItem],
    settings: ExportSettings,
    stop: Stop,
    progress: Progress,
    merged: ExportItem,
) -> list[ExportResult]:
    """Return those that failed, and at the end what the others became together."""
    settings = replace(settings, center=True)  # they get other places anyway
    clock = Clock()
    scenes: list[Scene] = []
    failed: list[ExportResult] = []
    for item in items:
        if stop:
            return failed
        try:
            scenes.append(scene_of(item, settings, clock))
        except DdimxError as error:
            failed.append(ExportResult(item.label, error=str(error)))
        progress.advance()
    if not scenes:
        return failed
    try:
        scene = side_by_side(scenes)
        files = write_scene(scene, merged.base, settings, clock, merged.exact)
    except DdimxError as error:
        wrong = ExportResult(merged.label, error=str(error), seconds=clock.seconds)
        return [*failed, wrong]
    made = ExportResult(merged.label, len(scene.cloud), tuple(files), seconds=clock.seconds)
    return [*failed, made]
