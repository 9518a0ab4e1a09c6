"""FFHQ: the LMDB that the original reads, or a folder of its PNGs.

The LMDB holds ``length`` (decimal digits) and, for every resolution it was made in, encoded images
under ``<resolution>-<five digits>`` (ermongroup/ddim, datasets/ffhq.py; the form comes from
StyleGAN2's PyTorch ports). The folder is that of https://github.com/NVlabs/ffhq-dataset, with or
without its subfolders.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DdimxError, UsageError
from ..arrays import Bytes, Integers
from .encoded import EncodedSource, centered, fingerprint_of, side_of
from .listing import list_images
from .lmdb_file import Lmdb, open_lmdb

SPLIT_SEED = 2019
TRAINING_PART = 0.9


class FfhqSource(EncodedSource):
    """Nine tenths of the images, or the last tenth, of the original's shuffled order."""

    def __init__(
        self,
        root: Path,
        *,
        size: int | tuple[int, int],
        held_out: bool,
        workers: int,
        channels: int = 3,
    ) -> None:
        """Find the images in ``root``; nothing is decoded yet.

        Raises:
            UsageError: the LMDB was made in other resolutions, or the package lmdb is missing.
            DdimxError: neither an LMDB nor images are there.
        """
        super().__init__(size, workers, channels=channels)
        if not root.exists():
            raise DdimxError(
                f"no FFHQ in {root}: put the LMDB or the folder of PNGs there (from "
                "https://github.com/NVlabs/ffhq-dataset), or name its place with "
                "--set data.root=PATH"
            )
        self._root = root
        is_lmdb = root.is_file() or (root / "data.mdb").is_file()
        self._lmdb = open_lmdb(root) if is_lmdb else None
        if self._lmdb is None:
            self._listing = list_images(root)
            self._names = list(self._listing.names)
        else:
            self._names = _keys(self._lmdb, side_of(self.size, "FFHQ's LMDB"))
        self._chosen = part_of(len(self._names), held_out)
        self.fingerprint = fingerprint_of(self._names)

    def __len__(self) -> int:
        return len(self._chosen)

    def place(self, index: int) -> str:
        """Return the folder or the LMDB, and the image's name or key in it."""
        return f"{self._root}: {self._names[self._chosen[index]]}"

    def stream(self, index: int) -> Path | io.BytesIO:
        """Return the image's path, or its bytes out of the LMDB or the folder's tars."""
        name = self._names[self._chosen[index]]
        if self._lmdb is None:
            return self._listing.stream(name)
        return io.BytesIO(self._lmdb.get(name.encode()) or b"")

    def fitted(self, image: Image.Image) -> Bytes:
        """Resize by a Lanczos filter, which an LMDB's images do not need."""
        return centered(self.view(image), self.size)


def part_of(count: int, held_out: bool) -> Integers:
    """Return the indices of one part, by the original's shuffle (NumPy's old generator)."""
    order = np.arange(count, dtype=np.int64)
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    cut = int(count * TRAINING_PART)
    return order[cut:] if held_out else order[:cut]


def _keys(source: Lmdb, size: int) -> list[str]:
    """Return the keys of one resolution, in the order of their numbers."""
    length = source.get(b"length")
    if length is None or not length.isdigit():
        raise DdimxError(f"{source.path}: no entry 'length'; is it an LMDB of FFHQ?")
    if source.get(f"{size}-00000".encode()) is None:
        sizes = [2**i for i in range(3, 11) if source.get(f"{2**i}-00000".encode()) is not None]
        raise UsageError(
            f"{source.path}: no images of {size} pixels (there are {sizes}); set data.image_size"
        )
    if len(length) > 18 or int(length) > source.entries:
        raise DdimxError(
            f"{source.path}: 'length' says more images than its {source.entries} entries"
        )
    return [f"{size}-{index:05d}" for index in range(int(length))]
