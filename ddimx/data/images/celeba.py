"""CelebA's aligned images, cropped as the original crops them.

``img_align_celeba.zip`` as published (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or the
folder it unpacks to: 202,599 JPEGs of 178x218. The crop has its center at column 89 and row 121
and reaches 64 pixels to each side: rows 57 to 184, columns 25 to 152, inclusive. It is resized by
a bilinear filter (torchvision's ``Resize`` on Pillow images, whose support grows with the
reduction). Both from ermongroup/ddim, datasets/__init__.py; figures of FID depend on them.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ...errors import DdimxError
from ...untrusted import limits
from ...untrusted.archives import check_zip, readable
from ...untrusted.names import relative
from ...untrusted.text import read_bytes, shown
from ..arrays import Bytes
from .encoded import EncodedSource, fingerprint_of, is_held_out, rgb, split_number
from .folder import image_names

ARCHIVE, FOLDER = "img_align_celeba.zip", "img_align_celeba"
PARTITION = "list_eval_partition.txt"
SPLITS = ("train", "valid", "test")  # in the order of their numbers in the list
WIDTH, HEIGHT = 178, 218
CENTER_X, CENTER_Y, REACH = 89, 121, 64


class CelebASource(EncodedSource):
    """One split of the aligned images, in the order of their names.

    The split is that of ``list_eval_partition.txt`` where this file is beside the images;
    otherwise one image in twenty is held out, by a hash of its name.
    """

    def __init__(self, root: Path, *, size: int, held_out: bool, split: str, workers: int) -> None:
        """List the images of ``root``: the archive, the folder, or what holds one of them.

        Raises:
            UsageError: no such split.
            DdimxError: neither is there, or archive or list are damaged or hold names that lead
                out of their folder.
        """
        super().__init__(size, workers)
        number = split_number(split, SPLITS)
        place = _found(root)
        self._place = place
        self._archive = _opened(place) if place.is_file() else None
        paths = _jpegs(self._archive) if self._archive is not None else image_names(place)
        splits = _partition(root, place)
        if splits is None:
            self._paths = [p for p in paths if is_held_out(Path(p).name) == held_out]
        else:
            self._paths = [p for p in paths if splits.get(Path(p).name) == number]
        self.fingerprint = fingerprint_of([*map(str, self._paths)])

    def __len__(self) -> int:
        return len(self._paths)

    def place(self, index: int) -> str:
        """Return archive or folder, and the image's name in it."""
        return f"{self._place}: {self._paths[index]}"

    def stream(self, index: int) -> Path | BinaryIO:
        """Return the image's path, or its bytes out of the archive."""
        if self._archive is None:
            return self._place / self._paths[index]
        info = self._archive.getinfo(self._paths[index])
        limits.refused("it", info.file_size, info.compress_size)
        with readable("zip archive"):
            return io.BytesIO(self._archive.read(info))

    def fitted(self, image: Image.Image) -> Bytes:
        """Take the original's crop and resize it; another size than 178x218 is a ValueError."""
        if image.size != (WIDTH, HEIGHT):
            raise ValueError(f"{image.width}x{image.height}, aligned images are {WIDTH}x{HEIGHT}")
        left, top = CENTER_X - REACH, CENTER_Y - REACH
        cropped = rgb(image.crop((left, top, left + 2 * REACH, top + 2 * REACH)))
        resized = cropped.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.uint8)


def _found(root: Path) -> Path:
    """Return the archive or the folder that holds the images."""
    for place in (root / FOLDER / FOLDER, root / FOLDER, root / ARCHIVE, root):
        if place.is_file() or (place.is_dir() and any(place.glob("*.jpg"))):
            return place
    raise DdimxError(
        f"no CelebA in {root}: put {ARCHIVE} there, unpacked or not, and {PARTITION} beside it "
        "(both from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or name the place with "
        "--set data.root=PATH"
    )


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        check_zip(path)
        with readable("zip archive"):
            return zipfile.ZipFile(path)
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable zip archive ({error})") from None


def _jpegs(archive: zipfile.ZipFile) -> list[str]:
    members = [n for n in archive.namelist() if not n.endswith("/")]
    names = sorted(
        n for n in members if relative(n, str(archive.filename)).lower().endswith(".jpg")
    )
    if not names:
        raise DdimxError(f"{archive.filename}: no .jpg in it")
    return names


def _partition(root: Path, place: Path) -> dict[str, int] | None:
    """Return the number of the split by the image's name, None if there is no list."""
    for folder in (root, place.parent, place.parent.parent):
        path = folder / PARTITION
        if path.is_file():
            return _parsed(path)
    return None


def _parsed(path: Path) -> dict[str, int]:
    """Read lines such as ``000001.jpg 0``."""
    try:
        lines = read_bytes(path).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: cannot be read ({error})") from None
    splits = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise DdimxError(f"{path}, line {number}: expected 'NAME 0|1|2', found {shown(line)}")
        splits[relative(words[0], path)] = int(words[1])
    return splits
