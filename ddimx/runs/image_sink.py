"""A picture file for every sample, which says where it comes from. Files are whole or absent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ..config import DataConfig
from ..files import whole_file
from ..pixels import to_bytes
from .formats import LISTED
from .indices import Indices
from .pictures import save_image


class ImageSink:
    """One file for every sample, named by its index: ``000007.png``.

    The files say where they come from, by name: their ``index``, their ``class`` and what ``about``
    holds. PNGs have a text chunk for each, ``ddimx seed`` for instance; WebPs have all of them as
    JSON in EXIF's ImageDescription.
    """

    one_file = False

    def __init__(
        self,
        folder: Path,
        data: DataConfig,
        suffix: str,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._data, self._suffix = folder, data, suffix
        self._classes, self._about = tuple(classes), dict(about or {})
        self._name = re.compile(rf"^(\d{{6,}})\.{suffix}$")

    def done(self) -> Set[int]:
        """Return the indices whose files exist; files are written whole."""
        if not self._folder.is_dir():
            return Indices()
        with os.scandir(self._folder) as entries:
            return Indices(int(m[1]) for e in entries if (m := self._name.match(e.name)))

    def write(
        self, indices: Sequence[int], samples: Sequence[Tensor], labels: Tensor | None
    ) -> None:
        """Encode and write one file for every sample, float32 [C, H, W]."""
        for index, picture, facts in self.described(indices, samples, labels):
            with whole_file(self._path(index)) as part:
                save_image(part, picture, self._suffix, facts)

    def described(
        self, indices: Sequence[int], samples: Sequence[Tensor], labels: Tensor | None
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8], dict[str, str]]]:
        """Yield of every sample its index, its pixels uint8 [H, W, C] and what its file says."""
        pictures = to_bytes(torch.stack(list(samples)), self._data).numpy()
        classes = [None] * len(pictures) if labels is None else labels.tolist()
        for index, picture, label in zip(indices, pictures, classes, strict=True):
            facts = {"index": str(index)}
            if label is not None and self._classes:
                facts["class"] = (*self._classes, "none")[label]
            yield index, picture, facts | self._about | self._about_sample(index)

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Return the files' names, which are final already; of more than ``LISTED`` none."""
        return [self._path(i).name for i in indices] if len(indices) <= LISTED else []

    def tidy(self) -> None:
        """Remove nothing."""

    def pixels(self, indices: range) -> npt.NDArray[np.uint8]:
        """Read images back, uint8 [B, H, W, C]."""
        pictures = [np.asarray(Image.open(self._path(i))) for i in indices]
        return np.stack([p if p.ndim == 3 else p[..., None] for p in pictures])

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}.{self._suffix}"

    def _about_sample(self, index: int) -> dict[str, str]:
        """Return what else a sample's file says of it."""
        return {}


class NamedSink(ImageSink):
    """One file for every sample of a run, under names of the caller's choice.

    ``about_sample`` returns what a sample's file says besides what all say, or in its place.
    """

    def __init__(
        self,
        folder: Path,
        data: DataConfig,
        suffix: str,
        names: Callable[[int], str],
        indices: range,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
        about_sample: Callable[[int], dict[str, str]] = lambda _: {},
    ) -> None:
        super().__init__(folder, data, suffix, classes, about)
        self._names, self._indices, self._each = names, indices, about_sample

    def done(self) -> Set[int]:
        """Return the indices whose files exist; files are written whole."""
        return Indices(i for i in self._indices if self._path(i).is_file())

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Return the files' names, all of them: nobody else knows them."""
        return [self._path(i).name for i in indices]

    def _path(self, index: int) -> Path:
        return self._folder / self._names(index)

    def _about_sample(self, index: int) -> dict[str, str]:
        return self._each(index)
