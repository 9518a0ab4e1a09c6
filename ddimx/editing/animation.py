"""Animations from frames on disk, without holding them all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import whole_file
from ..runs.contact_sheet import LEGIBLE

MOST_GIF = (
    200  # Pillow keeps all frames of a GIF until it is written; WebP's are encoded one by one
)
HOLD = 1000  # milliseconds that the last frame stays


def evenly(total: int, most: int) -> list[int]:
    """Return up to ``most`` (at least 1) of 0..total-1, evenly spaced, the last one always."""
    if most >= total:
        return list(range(total))
    if most == 1:
        return [total - 1]
    return [int(i) for i in np.linspace(0, total - 1, most).round()]


def write_animation(path: Path, frames: Sequence[Path], milliseconds: int = 60) -> None:
    """Write image files of one size as a WebP or GIF, enlarged to be seen, that loops.

    A WebP takes memory for one frame at a time, whatever their number; of a GIF at most
    ``MOST_GIF`` frames are taken.
    """
    kind = path.suffix.removeprefix(".")
    if kind == "gif":
        frames = [frames[i] for i in evenly(len(frames), MOST_GIF)]
    reel = _Reel(frames)
    durations = [milliseconds] * (len(frames) - 1) + [HOLD]
    with whole_file(path) as part:
        if len(frames) == 1:
            reel.copy().save(part, format=kind.upper(), lossless=True)
        else:
            reel.save(
                part, format=kind.upper(), save_all=True, duration=durations, loop=0, lossless=True
            )


class _Reel(Image.Image):
    """An image of many frames, each of which is read when Pillow seeks it."""

    def __init__(self, frames: Sequence[Path]) -> None:
        super().__init__()
        self._frames = list(frames)
        self._at = -1
        self.seek(0)

    @property
    def n_frames(self) -> int:
        return len(self._frames)

    def seek(self, frame: int) -> None:
        if frame >= len(self._frames):
            raise EOFError
        if frame == self._at:
            return
        with Image.open(self._frames[frame]) as image:
            scale = max(1, LEGIBLE // max(image.size))
            size = (image.width * scale, image.height * scale)
            enlargement = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
        # Image has no public way to change its pixels and mode at once.
        vars(self).update(vars(enlargement))
        self._at = frame

    def tell(self) -> int:
        return self._at
