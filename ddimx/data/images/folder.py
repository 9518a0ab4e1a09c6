"""An image folder as a data set: any format Pillow reads, cropped to a square and resized."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ...errors import DdimxError
from ...files import visible_files
from ..arrays import Bytes
from .encoded import EncodedSource, fingerprint_of, is_held_out, square

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class FolderSource(EncodedSource):
    """All images below a folder, in the order of their names; RGB, center crop, one size.

    A file is held out by a hash of its relative path, so that adding files moves none of the
    others to the other side of the split.
    """

    def __init__(self, root: Path, *, size: int, held_out: bool, workers: int) -> None:
        """List the images of ``root``; nothing is decoded yet.

        Raises:
            DdimxError: no such folder, or no image in it.
        """
        super().__init__(size, workers)
        names = image_names(root)
        self._root = root
        self._names = [n for n in names if is_held_out(n) == held_out]
        self.fingerprint = fingerprint_of(names)

    def __len__(self) -> int:
        return len(self._names)

    def place(self, index: int) -> str:
        """Return the file's path."""
        return str(self.stream(index))

    def stream(self, index: int) -> Path:
        """Return the file's path."""
        return self._root / self._names[index]

    def fitted(self, image: Image.Image) -> Bytes:
        """Crop the center square and resize it with a Lanczos filter."""
        return square(image, self.size)


def image_files(folder: Path, *, recursive: bool = True) -> list[Path]:
    """Return the files of a folder that are images by their suffix, sorted by path.

    Which files these are is said by :func:`ddimx.files.visible_files`.

    Raises:
        DdimxError: there is none.
    """
    files = visible_files(folder, SUFFIXES, recursive=recursive)
    if not files:
        raise DdimxError(f"{folder}: no images (looked for {', '.join(sorted(SUFFIXES))})")
    return files


def image_names(root: Path) -> list[str]:
    """Return the paths of all images below ``root``, relative to it and sorted.

    Raises:
        DdimxError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise DdimxError(f"no image folder {root}")
    # Sorted as texts, on which the order of training depends: paths sort "a/b" before "a-b".
    return sorted(path.relative_to(root).as_posix() for path in image_files(root))
