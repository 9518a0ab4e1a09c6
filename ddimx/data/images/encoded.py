"""Data sets of encoded images (JPEG, PNG, WebP): decoded when they are asked for, in threads."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ...errors import DdimxError
from ...untrusted.pictures import MOST_PIXELS, open_picture
from ..arrays import Bytes, Integers

HELD_OUT_EVERY = 20  # one image in twenty is held out, chosen by its name's hash
BAND = 1 << 20  # pixels that are converted and resized together


class EncodedSource(ABC):
    """Images that are decoded one by one; what differs between data sets are three methods.

    Threads suffice: Pillow decodes and resizes without holding Python's lock.
    """

    labels: Integers | None = None
    families: Integers | None = None
    classes: tuple[str, ...] = ()
    fingerprint: str

    def __init__(self, size: int, workers: int) -> None:
        """Decode to ``size`` pixels in ``workers`` threads (at least one)."""
        self.size = size
        self._pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="decode")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of every image."""
        return (self.size, self.size, 3)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images of this part."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Return where image ``index`` is kept, for messages."""

    @abstractmethod
    def stream(self, index: int) -> Path | BinaryIO:
        """Return what Pillow opens for image ``index``; called from several threads."""

    @abstractmethod
    def fitted(self, image: Image.Image) -> Bytes:
        """Crop and resize one image of any mode, uint8 [size, size, 3]; ValueError if it cannot be.

        The image is not decoded yet, so that one of a wrong size need not be.
        """

    def images(self, indices: Integers) -> Bytes:
        """Decode images, uint8 [len(indices), size, size, 3].

        Raises:
            DdimxError: an image that cannot be decoded, by name.
        """
        return np.stack(list(self._pool.map(self.decoded, indices.tolist())))

    def each(self, indices: Iterable[int]) -> list[Bytes | DdimxError]:
        """Decode images like ``images``; what cannot be decoded is returned, not raised."""
        return list(self._pool.map(self._decoded_or_error, indices))

    def decoded(self, index: int) -> Bytes:
        """Decode one image, uint8 [size, size, 3].

        Raises:
            DdimxError: it cannot be decoded; the message names it.
        """
        try:
            with open_picture(self.stream(index)) as image:
                return self.fitted(image)
        except (OSError, ValueError) as error:
            raise DdimxError(f"{self.place(index)}: cannot be decoded ({error})") from None

    def _decoded_or_error(self, index: int) -> Bytes | DdimxError:
        try:
            return self.decoded(index)
        except DdimxError as error:
            return error


def is_held_out(name: str) -> bool:
    """Return whether an image of this name belongs to the held-out split."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_EVERY == 0


def fingerprint_of(names: Iterable[str]) -> str:
    """Return the SHA-256 of a list of names, one a line."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB; of 16-bit gray the high byte."""
    return eight_bits(image).convert("RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits with its upper 8; any other as it is."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow would clip them at 255
        high = np.asarray(image) >> 8
        return Image.fromarray(np.clip(high, 0, 255, out=high).astype(np.uint8))
    return image


def square(image: Image.Image, size: int) -> Bytes:
    """Crop the center square and resize it with a Lanczos filter: uint8 [size, size, 3]."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(_resized(image, box, (size, size), Image.Resampling.LANCZOS), dtype=np.uint8)


def scaled_center(image: Image.Image, size: int) -> Bytes:
    """Resize the shorter side to ``size``, then crop the center: uint8 [size, size, 3].

    What the original does by torchvision's ``Resize(size)`` and ``CenterCrop(size)`` on Pillow
    images (ermongroup/ddim, datasets/__init__.py): a bilinear filter whose support grows with the
    reduction, the longer side cut down to an integer, the margin rounded half to even.

    Raises:
        ValueError: so long and narrow that it would become too large.
    """
    width, height = image.size
    short = min(width, height)
    width, height = size * width // short, size * height // short
    if width * height > max(MOST_PIXELS, size**2):
        raise ValueError(f"{image.width}x{image.height} is too narrow for {size} pixels")
    whole = (0, 0, image.width, image.height)
    image = _resized(image, whole, (width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


def _resized(
    image: Image.Image,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    resample: Image.Resampling,
) -> Image.Image:
    """Return ``rgb(image).crop(box).resize(size, resample)``, without large copies on the way.

    Pillow resizes the width before the height and rounds to whole numbers in between, so that the
    first half can be done in bands of rows, with the same result to the bit.
    """
    left, top, right, bottom = box
    rows = max(1, BAND // (right - left))
    halfway = Image.new("RGB", (size[0], bottom - top))
    for start in range(top, bottom, rows):
        end = min(start + rows, bottom)
        band = rgb(image.crop((left, start, right, end)))
        halfway.paste(band.resize((size[0], end - start), resample), (0, start - top))
    return halfway.resize(size, resample)


def split_number(split: str, names: Sequence[str]) -> int:
    """Return the position of a split's name among the known ones.

    Raises:
        UsageError: with the nearest known name.
    """
    from ...errors import unknown

    if split not in names:
        raise unknown("split", split, names)
    return list(names).index(split)
