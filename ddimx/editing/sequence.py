"""The way from noise to image: frames, a strip and an animation for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ..config import DataConfig
from ..errors import UsageError
from ..files import whole_file
from ..pixels import to_bytes
from ..runs.contact_sheet import MOST, write_grid
from ..runs.image_sink import ImageSink
from ..runs.pictures import as_image
from ..sampling.hooks import Task
from ..sampling.settings import Settings
from ..solvers.executor import Step
from ..solvers.plan import Plan
from ..weights.model import Model
from .animation import evenly, write_animation
from .pictures import image_shape

STRIP = 16  # frames on a strip

Show = Literal["x0", "state"]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Frames:
    """Which rows of a plan are shown, what of them, and as what animation."""

    rows: tuple[int, ...]
    show: Show
    animation: str
    milliseconds: int = 60

    def path(self, index: int, row: int) -> str:
        """Return the name of a sample's frame below the run's folder."""
        return f"{index:06d}/{row:04d}.png"

    @property
    def strip(self) -> list[int]:
        """The rows on the strip."""
        return [self.rows[i] for i in evenly(len(self.rows), STRIP)]


def choose_frames(
    plan: Plan, show: Show, animation: str, most: int | None = None, fps: float = 16.0
) -> Frames:
    """Return the frames of a run: every row, or ``most`` of them evenly spaced with the last.

    Raises:
        UsageError: no frames, or a speed that is none.
    """
    if most is not None and most < 1:
        raise UsageError(f"frames must be at least 1, got {most}")
    if not 1 <= fps <= 100:
        raise UsageError(f"fps must lie in 1..100, got {fps:g}")
    rows = np.arange(len(plan)) if show == "state" else np.flatnonzero(np.isfinite(plan.t))
    places = evenly(len(rows), len(rows) if most is None else most)
    return Frames(tuple(int(rows[i]) for i in places), show, animation, round(1000 / fps))


def sequence_task(settings: Settings, model: Model, frames: Frames) -> Task:
    """Return the run that writes frames row by row, so that memory does not grow with them."""
    image_shape(model)
    data, rows = model.config.data, frozenset(frames.rows)

    def observe(folder: Path, step: Step, samples: Sequence[int]) -> None:
        if step.row not in rows:
            return
        state = step.x if frames.show == "state" else step.x0
        assert state is not None
        pixels = to_bytes(state[: len(samples)].cpu(), data).numpy()
        for index, picture in zip(samples, pixels, strict=True):
            with whole_file(folder / frames.path(index, step.row)) as part:
                as_image(picture).save(part, format="PNG")

    def files(indices: range) -> list[str]:
        return [name for i in indices for name in (*_summary(i, frames), *_frames(i, frames))]

    return Task(
        verb="sequence",
        identity={"verb": "sequence", "show": frames.show, "rows_shown": list(frames.rows)}
        | {"animation": frames.animation, "milliseconds": frames.milliseconds},
        sink=lambda folder, about: SequenceSink(folder, data, frames, model.classes, about),
        files=files,
        observe=observe,
        finish=lambda folder, sink, indices: _sheet(folder, indices, frames),
    )


class SequenceSink(ImageSink):
    """Results as PNG; a sample's strip and animation are made before its result is written.

    So a sample whose result is there is complete.
    """

    def __init__(
        self,
        folder: Path,
        data: DataConfig,
        frames: Frames,
        classes: Sequence[str],
        about: Mapping[str, str],
    ) -> None:
        super().__init__(folder, data, "png", classes, about)
        self._frames = frames

    def write(
        self, indices: Sequence[int], samples: Sequence[Tensor], labels: Tensor | None
    ) -> None:
        """Write strips and animations from the frames on disk, then the results."""
        for index in indices:
            strip, animation, _ = (self._folder / n for n in _summary(index, self._frames))
            tiles = _strip(self._folder, index, self._frames)
            write_grid(strip, tiles, len(tiles))
            paths = [self._folder / name for name in _frames(index, self._frames)]
            write_animation(animation, paths, self._frames.milliseconds)
        super().write(indices, samples, labels)

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Return the names of all files."""
        return [n for i in indices for n in (*_summary(i, self._frames), *_frames(i, self._frames))]


def _summary(index: int, frames: Frames) -> tuple[str, str, str]:
    name = f"{index:06d}"
    return f"{name}-strip.png", f"{name}-steps.{frames.animation}", f"{name}.png"


def _frames(index: int, frames: Frames) -> list[str]:
    return [frames.path(index, row) for row in frames.rows]


def _strip(folder: Path, index: int, frames: Frames) -> Bytes:
    pictures = [np.asarray(Image.open(folder / frames.path(index, row))) for row in frames.strip]
    return np.stack([p if p.ndim == 3 else p[..., None] for p in pictures])


def _sheet(folder: Path, indices: range, frames: Frames) -> list[str]:
    """Write ``grid.png``: one sample's strip under the other."""
    columns = len(frames.strip)
    rows = [_strip(folder, i, frames) for i in indices[: max(1, MOST // columns)]]
    write_grid(folder / "grid.png", np.concatenate(rows), columns)
    return []
