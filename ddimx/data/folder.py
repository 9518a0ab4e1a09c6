"""An image folder as a data set: any format Pillow reads, cropped to a square and resized."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DdimxError
from .sources import Bytes, Integers

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# What Pillow raises for broken files, and for such as claim an absurd size.
UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)
HELD_OUT_EVERY = 20  # one image in twenty is held out, chosen by its name's hash


class FolderSource:
    """All images below a folder, in the order of their names; RGB, centre crop, one size.

    A file is held out by a hash of its relative path, so that adding files moves none of the
    others to the other side of the split.
    """

    labels: Integers | None = None
    families: Integers | None = None

    def __init__(self, root: Path, *, size: int, held_out: bool, workers: int) -> None:
        """List the images of ``root``; nothing is decoded yet.

        Raises:
            DdimxError: no such folder, or no image in it.
        """
        if not root.is_dir():
            raise DdimxError(f"no image folder {root}")
        names = sorted(
            p.relative_to(root).as_posix()
            for p in root.rglob("*")
            if p.suffix.lower() in SUFFIXES and p.is_file()
        )
        if not names:
            raise DdimxError(f"{root}: no images (looked for {', '.join(sorted(SUFFIXES))})")
        self._root = root
        self._names = [n for n in names if is_held_out(n) == held_out]
        self._size = size
        self._pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="decode")
        self.fingerprint = hashlib.sha256("\n".join(names).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._names)

    def images(self, indices: Integers) -> Bytes:
        """Decode images, uint8 [len(indices), size, size, 3].

        Raises:
            DdimxError: a file that cannot be decoded, by name.
        """
        return np.stack(list(self._pool.map(self._decode, indices.tolist())))

    def _decode(self, index: int) -> Bytes:
        path = self._root / self._names[index]
        try:
            with Image.open(path) as image:
                return square(eight_bits(image).convert("RGB"), self._size)
        except UNREADABLE as error:
            raise DdimxError(f"{path}: cannot be decoded ({error})") from None


def is_held_out(name: str) -> bool:
    """Return whether a file of this relative path belongs to the held-out split."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_EVERY == 0


def square(image: Image.Image, size: int) -> Bytes:
    """Crop the centre square and resize it with a Lanczos filter: uint8 [size, size, 3]."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    cropped = image.crop((left, top, left + side, top + side))
    return np.asarray(cropped.resize((size, size), Image.Resampling.LANCZOS), dtype=np.uint8)


def eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits with its upper 8; any other as it is."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow would clip them at 255
        high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(high.astype(np.uint8))
    return image
