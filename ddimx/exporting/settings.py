"""What an export was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import UsageError
from ..splats.formats import FORMATS, EncodeOptions, Format, format_named
from ..splats.formats.niantic import ZSTD_VERSION, zstd
from ..splats.frames import rotation_to
from ..splats.from_octree import Look

# The longest first, so that "chair.3dgs.ply" becomes "chair".
SUFFIXES = tuple(sorted((f.suffix for f in FORMATS.values()), key=len, reverse=True))


@dataclass(frozen=True)
class ExportSettings:
    """How shapes become files.

    Attributes:
        formats: names of :data:`ddimx.splats.formats.FORMATS`; none is right with pictures only.
        look: how leaves become Gaussians.
        up: "y", "z" or "-y"; None takes each format's own.
        options: what the writers are asked for (without ``up``, which each format decides).
        max_depth: what the octrees' depth must be.
        depth: at which deeper octrees are cut; None keeps their own.
        center: whether the middle of the octree's cube is put at the origin.
        unit: how many of the octree's units are one in the file, or "cube": its cube's edge is.
        preview, turntable: a PNG of three views; an animated WebP all around.
        overwrite: replace files that differ.
        workers: processes; None decides by the number of files.

    Raises:
        UsageError: an unknown name, an option that a format cannot meet, nothing to make.
    """

    formats: tuple[str, ...] = ("3dgs",)
    look: Look = field(default_factory=Look)
    up: str | None = None
    options: EncodeOptions = field(default_factory=EncodeOptions)
    max_depth: int | None = None
    depth: int | None = None
    center: bool = False
    unit: float | Literal["cube"] = 1.0
    preview: bool = False
    turntable: bool = False
    overwrite: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if not (self.formats or self.preview or self.turntable):
            raise UsageError("nothing to make: give --format, --preview or --turntable")
        for name in self.formats:
            format_named(name).check(name, self.options)
        if self.options.spz_version is not None and "spz" not in self.formats:
            raise UsageError(f"--spz-version {self.options.spz_version}: only with --format spz")
        if self.options.spz_version == ZSTD_VERSION:
            zstd()
        is_number = not isinstance(self.unit, str) and 0 < self.unit < math.inf
        if self.unit != "cube" and not is_number:
            raise UsageError(f"--unit {self.unit}: give a number above 0, or 'cube'")
        if self.depth is not None and self.depth < 1:
            raise UsageError(f"--depth {self.depth}: give 1 or more")
        if self.up is not None:
            rotation_to(self.up)
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers}: give 1 or more")

    def targets(self, base: Path, exact: Path | None = None) -> dict[str, Path]:
        """Return the files of a shape by what they are.

        Args:
            base: their path without suffix.
            exact: the path of the one format's file, where a name was asked for.
        """
        suffixes = {name: FORMATS[name].suffix for name in self.formats}
        suffixes |= {"preview": ".png"} if self.preview else {}
        suffixes |= {"turntable": ".webp"} if self.turntable else {}
        paths = {what: base.with_name(base.name + suffix) for what, suffix in suffixes.items()}
        return paths if exact is None else paths | {self.formats[0]: exact}

    def up_of(self, format_: Format) -> str:
        """Return the axis that is up in files of a format."""
        return format_.up if self.up is None else self.up


def named_formats(words: Sequence[str]) -> tuple[str, ...]:
    """Return formats given one by one or with commas, each once, in the order given.

    Raises:
        UsageError: an unknown name.
    """
    names = [part.strip().lower() for word in words for part in word.split(",") if part.strip()]
    for name in names:
        format_named(name)
    return tuple(dict.fromkeys(names))


def unit_of(text: str) -> float | Literal["cube"]:
    """Return what ``--unit`` says: a number, or "cube".

    Raises:
        UsageError: neither of them.
    """
    if text == "cube":
        return "cube"
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--unit {text}: give a number above 0, or 'cube'") from None


def without_suffix(path: Path) -> Path:
    """Return a path without a splat format's suffix: the same path if it has none."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix) and path.name != suffix:
            return path.with_name(path.name.removesuffix(suffix))
    return path
