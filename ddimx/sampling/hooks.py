"""What another verb changes in a sampling run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs.contact_sheet import MOST, write_grid
from ..runs.sinks import Sink
from ..solvers.executor import Step
from .batch import NOTHING, Given


def contact_sheet(folder: Path, sink: Sink, indices: range) -> list[str]:
    """Write ``grid.png`` of the first samples; return the names of other files, here none."""
    write_grid(folder / "grid.png", sink.pixels(indices[:MOST]))
    return []


@dataclass(frozen=True, eq=False)
class Task:
    """How another verb's run differs from plain sampling.

    Attributes:
        verb: the name in the run's folder.
        given: what its samples are given.
        identity: what determines the files besides model and settings.
        translate: brings the identity in a manifest of an earlier version, which is its first
            argument, up to this version's; as the second it is given what all verbs share so.
        names: the samples' files, where these are not named by index.
        sink: opens what takes the samples, where neither ``names`` nor the format says it.
        files: the names of all files of a run, where there are more than the samples'.
        observe: is shown every step and the indices it is of, in the run's folder.
        finish: writes the contact sheet and returns the names of all further files.
        results: what ``finish`` has found out, for the manifest.
    """

    verb: str = "sample"
    given: Given = NOTHING
    identity: dict[str, Any] = field(default_factory=dict)
    translate: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda _, old: old
    names: Callable[[int], str] | None = None
    sink: Callable[[Path], Sink] | None = None
    files: Callable[[range], list[str]] | None = None
    observe: Callable[[Path, Step, Sequence[int]], None] | None = None
    finish: Callable[[Path, Sink, range], list[str]] = contact_sheet
    results: dict[str, Any] = field(default_factory=dict)


SAMPLING = Task()
