"""Exporting many shapes: in several processes, with progress, and to the end though some fail."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import DdimxError
from ..files import sweep
from ..progress import Progress
from ..runs import lock_folder
from ..signals import Stop, begin_worker
from .job import Done, export_item, scene_of, side_by_side, write_scene
from .pictures import Scene
from .settings import Settings
from .sources import Item

FEW = 24  # shapes that one process makes before others would have started
MOST_WORKERS = 8
POLL_SECONDS = 0.2  # between two looks at whether to stop


def run(
    items: Sequence[Item],
    settings: Settings,
    stop: Stop,
    progress: Progress,
    *,
    merged: Item | None = None,
) -> dict[str, Any]:
    """Export the shapes and return what was made.

    The result's ``status`` is "complete", "failed" (some shapes have an ``error``) or
    "interrupted"; every file that it names is there and whole.

    Args:
        merged: write one file of all shapes, where this item says; its source is not read.

    Raises:
        UsageError: another process exports into one of the folders.
    """
    names: dict[Path, list[str]] = {}
    for item in items if merged is None else [merged]:
        for path in settings.targets(item.base, item.exact).values():
            names.setdefault(path.parent, []).append(path.name)
    with ExitStack() as stack:
        for folder, own in names.items():
            stack.enter_context(lock_folder(folder, "export"))
            sweep(folder, *own)
        return _run(items, settings, stop, progress, merged)


def _run(
    items: Sequence[Item],
    settings: Settings,
    stop: Stop,
    progress: Progress,
    merged: Item | None,
) -> dict[str, Any]:
    begun = time.monotonic()
    progress.start("exporting", len(items))
    if merged is None:
        done = []
        for result in _each(items, settings, stop):
            done.append(result)
            progress.advance()
        left = len(done) < len(items)
    else:
        done = _together(items, settings, stop, progress, merged)
        left = bool(stop) and not any(result.files for result in done)
    progress.stop()
    failed = [{"source": r.label, "error": r.error} for r in done if r.error is not None]
    return {
        "status": "interrupted" if left else "failed" if failed else "complete",
        "shapes": len(items),
        "splats": sum(result.splats for result in done),
        "exported": [
            {"source": r.label, "splats": r.splats, "files": list(r.files)} for r in done if r.files
        ],
        "failed": failed,
        "seconds": time.monotonic() - begun,
    }


def _each(items: Sequence[Item], settings: Settings, stop: Stop) -> Iterator[Done]:
    workers = settings.workers or min(os.cpu_count() or 1, MOST_WORKERS, len(items) // FEW)
    if workers <= 1 or len(items) == 1:
        for item in items:
            if stop:
                return
            yield export_item(item, settings)
        return
    # Started afresh: a copy of a process that holds torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(items)), context, begin_worker) as pool:
        try:
            yield from _pooled(pool, items, settings, stop)
        except BrokenProcessPool:
            raise DdimxError(
                "a worker process was killed, perhaps for want of memory; what was written is "
                "whole, and the same command with --workers 1 goes on"
            ) from None


def _pooled(
    pool: ProcessPoolExecutor, items: Sequence[Item], settings: Settings, stop: Stop
) -> Iterator[Done]:
    """Yield results in the order of the items; when asked to stop, those that are under way."""
    futures = [pool.submit(export_item, item, settings) for item in items]
    stopped = False
    for future in futures:
        while not (future.done() or stop):
            wait([future], timeout=POLL_SECONDS)
        if stop and not stopped:
            stopped = True
            for other in futures:
                other.cancel()
        if not future.cancelled():
            yield future.result()


def _together(
    items: Sequence[Item], settings: Settings, stop: Stop, progress: Progress, merged: Item
) -> list[Done]:
    """Return those that failed, and at the end what the others became together."""
    scenes: list[Scene] = []
    failed: list[Done] = []
    for item in items:
        if stop:
            return failed
        try:
            scenes.append(scene_of(item, settings))
        except DdimxError as error:
            failed.append(Done(item.label, error=str(error)))
        progress.advance()
    if not scenes:
        return failed
    try:
        scene = side_by_side(scenes)
        files = write_scene(scene, merged.base, settings, merged.exact)
    except DdimxError as error:
        return [*failed, Done(merged.label, error=str(error))]
    return [*failed, Done(merged.label, len(scene.cloud), tuple(files))]
