"""CelebA's aligned images, cropped as the original crops them.

``img_align_celeba.zip`` as published (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or the
folder it unpacks to: 202,599 JPEGs of 178x218. The crop has its center at column 89 and row 121
and reaches 64 pixels to each side: rows 57 to 184, columns 25 to 152, inclusive. It is resized by
a bilinear filter (torchvision's ``Resize`` on Pillow images, whose support grows with the
reduction). Both from ermongroup/ddim, datasets/__init__.py; figures of FID depend on them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ...errors import DdimxError
from ...untrusted.names import relative
from ...untrusted.text import read_bytes, shown
from ..arrays import Bytes
from .encoded import EncodedSource, fingerprint_of, side_of, split_number
from .listing import list_images
from .picture import pixels_of

ARCHIVE, FOLDER = "img_align_celeba.zip", "img_align_celeba"
# As the authors publish the list, and as Kaggle's copy (jessicali9530/celeba-dataset) has it.
PARTITION, PARTITION_CSV = "list_eval_partition.txt", "list_eval_partition.csv"
SPLITS = ("train", "valid", "test")  # in the order of their numbers in the list
WIDTH, HEIGHT = 178, 218
CENTER_X, CENTER_Y, REACH = 89, 121, 64


class CelebASource(EncodedSource):
    """One split of the aligned images, in the order of their names, by the authors' list."""

    def __init__(
        self,
        root: Path,
        *,
        size: int | tuple[int, int],
        held_out: bool,
        split: str,
        workers: int,
        channels: int = 3,
    ) -> None:
        """List the images of ``root``: the archive, the folder, or what holds one of them.

        That may be the authors' tree (images in ``Img``, the list in ``Eval``) or Kaggle's (a
        folder in a folder of the same name, the list as CSV).

        Raises:
            UsageError: no such split, or a size that is not square.
            DdimxError: images or list are missing, or are damaged, or hold names that lead out of
                their folder.
        """
        super().__init__(size, workers, channels=channels)
        self._side = side_of(self.size, "CelebA")
        number = split_number(split, SPLITS)
        place = _place_of(root)
        self._listing = list_images(place)
        splits = _partition(root, place)
        names = [name for name in self._listing.names if name.lower().endswith(".jpg")]
        self._names = [n for n in names if splits.get(n.rpartition("/")[2]) == number]
        if not any(name.rpartition("/")[2] in splits for name in names):
            raise DdimxError(f"{place}: its list of splits names none of the {len(names)} images")
        self.fingerprint = fingerprint_of(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def place(self, index: int) -> str:
        """Return archive or folder, and the image's name in it."""
        return f"{self._listing.root}: {self._names[index]}"

    def stream(self, index: int) -> Path | BinaryIO:
        """Return the image's path, or its bytes out of the archive."""
        return self._listing.stream(self._names[index])

    def fitted(self, image: Image.Image) -> Bytes:
        """Take the original's crop and resize it; another size than 178x218 is a ValueError."""
        if image.size != (WIDTH, HEIGHT):
            raise ValueError(f"{image.width}x{image.height}, aligned images are {WIDTH}x{HEIGHT}")
        left, top = CENTER_X - REACH, CENTER_Y - REACH
        cropped = self.view(image).crop((left, top, left + 2 * REACH, top + 2 * REACH))
        return pixels_of(cropped.resize((self._side, self._side), Image.Resampling.BILINEAR))


def _place_of(root: Path) -> Path:
    """Return the archive or the folder that holds the images."""
    for above in (root, root / "Img", root / "img"):
        for place in (above / FOLDER / FOLDER, above / FOLDER, above / ARCHIVE, above):
            if place.is_file() or (place.is_dir() and any(place.glob("*.jpg"))):
                return place
    raise DdimxError(
        f"no CelebA in {root}: put {ARCHIVE} there, unpacked or not, and {PARTITION} beside it "
        "(both from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or name the place with "
        "--set data.root=PATH"
    )


def _partition(root: Path, place: Path) -> dict[str, int]:
    """Return the number of the split by the image's name.

    The list is looked for beside the images and above them, and in the folder Eval there.

    Raises:
        DdimxError: there is no list, or it is damaged.
    """
    folders = [root, place.parent, place.parent.parent]
    if root.name.lower() == "img":
        folders.append(root.parent)
    for folder in folders:
        for path in (
            above / name
            for above in (folder, folder / "Eval", folder / "eval")
            for name in (PARTITION, PARTITION_CSV)
        ):
            if path.is_file():
                return _parsed(path)
    raise DdimxError(
        f"{place}: CelebA's images without its list of splits: put {PARTITION} (or Kaggle's "
        f"{PARTITION_CSV}) into {root}, or train on the images with a split of your own as "
        f"data.dataset=FOLDER"
    )


def _parsed(path: Path) -> dict[str, int]:
    """Read lines such as ``000001.jpg 0``, or ``000001.jpg,0`` below a header."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: cannot be read ({error})") from None
    splits = {}
    for number, line in enumerate(lines, 1):
        words = re.split(r"[,\s]+", line.strip())
        if words == [""] or (number == 1 and words == ["image_id", "partition"]):
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise DdimxError(f"{path}, line {number}: expected 'NAME 0|1|2', found {shown(line)}")
        splits[relative(words[0], path)] = int(words[1])
    return splits
