"""An export that several processes make: each its block of the shapes, in their order.

Files are those that one process writes, each by the shard that owns its shape. A shard that was
killed makes its block again when it is started again, and writes what is not there, as one process
does; a shard with a record only tries again what has failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import sweep
from ..progress import Progress
from ..runs.lock import lock_folder
from ..runs.part import Failures, Made, Part, Partial
from ..runs.record import NAME, Record
from ..runs.run import reporting
from ..runs.shards import Shard
from ..runs.shared import SharedWork
from ..signals import Stop
from .run import export_all, folders_of
from .settings import ExportSettings
from .sources import ExportItem

TOTALS = ("splats", "files", "bytes", "seconds")  # in the records of shards


def run_shard(
    items: Sequence[ExportItem],
    settings: ExportSettings,
    stop: Stop,
    progress: Progress,
    *,
    folder: Path,
    shard: Shard,
    gather: bool = False,
) -> dict[str, Any] | Partial | None:
    """Export a shard's shapes; where all are accounted for then, say what there is.

    Args:
        items: all shapes, in their order; each goes below ``folder``.
        settings: how.
        stop: set once the user asked to stop.
        progress: is told how far it is.
        folder: where to.
        shard: this process's.
        gather: export nothing.

    Returns:
        A record as of :func:`ddimx.exporting.run.run`, of all shards, with the numbers of files and
        bytes instead of the files; None if it was stopped.

    Raises:
        UsageError: the folder is that of a run, another process exports into it, or makes the
            shard.
        DdimxError: the folder cannot be written; with ``gather``, shapes are missing.
    """
    if (folder / NAME).exists():
        raise UsageError(
            f"--out {folder} is the folder of a run, which has shards of its own; give shards that "
            "export another folder"
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file")

    @contextmanager
    def alone() -> Iterator[None]:
        with ExitStack() as stack:
            for path in {folder, *folders_of(items, settings)}:
                stack.enter_context(lock_folder(path, "export"))
            yield

    def make(part: Part) -> Made | None:
        mine = [items[i] for i in part.pending]
        for path, names in folders_of(mine, settings).items():
            sweep(path, *names)
        results = export_all(mine, settings, stop, progress, title=f"exporting, shard {part.shard}")
        if len(results) < len(mine):
            return None
        failed: Failures = {}
        made: list[int] = []
        totals: dict[str, float] = dict.fromkeys(TOTALS, 0)
        for index, result in zip(part.pending, results, strict=True):
            if result.error is not None:
                named = result.label in result.error
                failed[index] = (
                    result.label,
                    result.error if named else f"{result.label}: {result.error}",
                )
                continue
            made.append(index)
            totals["splats"] += result.splats
            totals["files"] += len(result.files)
            totals["bytes"] += sum(file["bytes"] for file in result.files)
            totals["seconds"] += sum(result.seconds.values())
        return Made(made, failed, totals)

    def conclude(records: dict[Shard, Record], failed: Failures) -> dict[str, Any]:
        lost = [
            index
            for index, item in enumerate(items)
            if index not in failed
            and not all(path.is_file() for path in settings.targets(item.base).values())
        ]
        if lost:
            raise work.lost(records, lost, "are not there")
        told = [{"source": source, "error": error} for _, (source, error) in sorted(failed.items())]
        return {
            "status": "failed" if failed else "complete",
            "shapes": len(items),
            "shards": len(records),
            "exported": len(items) - len(failed),
            **{name: sum(record.get(name, 0) for record in records.values()) for name in TOTALS},
            "failed": told,
        }

    identity = _identity(items, settings, folder)
    work = SharedWork(folder, "shapes", len(items), identity, key="export")
    with reporting(folder):
        work.begin(alone, lambda: None, gather=gather)
        return work.run(shard, make, conclude, gather=gather)


def _identity(
    items: Sequence[ExportItem], settings: ExportSettings, folder: Path
) -> dict[str, Any]:
    """Return what determines the files: the settings, and the names of all shapes."""
    names = "".join(f"{item.base.relative_to(folder)}\n" for item in items)
    asked = asdict(settings)
    for name in ("overwrite", "workers"):
        del asked[name]
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    return asked | {"names_sha256": digest, "numpy": version("numpy")}
