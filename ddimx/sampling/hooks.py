"""What another verb changes in a sampling run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs.contact_sheet import MOST, fitting, write_grid
from ..runs.sinks import Sink
from .batch import NOTHING, Inputs


def contact_sheet(
    folder: Path,
    sink: Sink,
    indices: range,
    classes: Sequence[str] = (),
    labels: bool | None = None,
) -> list[str]:
    """Write ``grid.png`` of the first samples; return the names of other files, here none.

    Args:
        folder: the run's.
        sink: what has taken the samples.
        indices: those of the run.
        classes: the names of the samples' classes, () where the model has none.
        labels: whether the names stand under the samples; None: where there are several of them,
            and all have room.
    """
    pixels, names = sink.pixels(indices[:MOST]), classes[:MOST]
    texts = names if labels else ()
    if labels is None and len(set(names)) > 1:
        texts = fitting(names, *pixels.shape[1:3])
    write_grid(folder / "grid.png", pixels, labels=texts)
    return []


@dataclass(frozen=True, eq=False)
class Task:
    """How another verb's run differs from plain sampling.

    Attributes:
        verb: the name in the run's folder.
        inputs: what its samples are made from besides their noise.
        identity: what determines the files besides model and settings.
        translate: brings the identity in a manifest of an earlier version, which is its first
            argument, up to this version's; as the second it is given what all verbs share so.
        about: what the samples' files say besides what those of plain sampling do, by name.
        sink: opens what takes the samples, where that is not the process's own; it is given the
            run's folder and what the files say of themselves.
        files: the names of all files of a run, where these are not the samples' indices.
        observe: is shown every step and the indices it is of, in the run's folder.
        finish: writes the contact sheet and returns the names of all further files; None for
            :func:`contact_sheet`.
        results: what ``finish`` has found out, for the manifest.
    """

    verb: str = "sample"
    inputs: Inputs = NOTHING
    identity: dict[str, Any] = field(default_factory=dict)
    translate: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda _, old: old
    about: dict[str, str] = field(default_factory=dict)
    sink: Callable[[Path, Mapping[str, str]], Sink] | None = None
    files: Callable[[range], list[str]] | None = None
    observe: Callable[[Path, Any, Sequence[int]], None] | None = None
    finish: Callable[[Path, Sink, range], list[str]] | None = None
    results: dict[str, Any] = field(default_factory=dict)


SAMPLING = Task()
