"""Data sets of encoded images (JPEG, PNG, WebP): decoded when they are asked for, in threads."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ...errors import DdimxError, UsageError, unknown
from ...untrusted.pictures import MOST_PIXELS, open_picture
from ..arrays import Bytes, Integers
from .picture import BAND, MODES, Box, View, pixels_of

HELD_OUT_EVERY = 20  # one image in twenty is held out, chosen by its name's hash
KEPT = 256 << 20  # bytes up to which all images of a set stay in memory: 21,000 of 64x64
MOST_UNREADABLE = 1000  # that are passed over in search of one that can be read


class EncodedSource(ABC):
    """Images that are decoded one by one; what differs between data sets are three methods.

    Threads suffice: Pillow decodes and resizes without holding Python's lock.

    Attributes:
        size: (height, width) of what :meth:`images` returns.
        strict: whether :meth:`drawn` raises for an image that cannot be decoded.
        unreadable: why an image could not be decoded, by its number, as far as it is known.
        say: called with a sentence when :meth:`drawn` meets one that was not known.
    """

    labels: Integers | None = None
    families: Integers | None = None
    classes: tuple[str, ...] = ()
    fingerprint: str

    def __init__(
        self,
        size: int | tuple[int, int],
        workers: int,
        *,
        channels: int = 3,
        background: str = "white",
        white: float | None = None,
        strict: bool = False,
    ) -> None:
        """Decode to (height, width) pixels, or to squares, in ``workers`` threads (at least one).

        Args:
            channels: 1 (gray), 3 (RGB) or 4 (RGB and alpha).
            background: behind transparent pixels, see :func:`.picture.picture_array`.
            white: the value of white in images of more than 8 bits, see the same.
            strict: whether an image that cannot be decoded ends a training run.

        Raises:
            UsageError: another number of channels.
        """
        if channels not in MODES:
            raise UsageError(
                f"data.channels is {channels}; images have 1 (gray), 3 (color) or 4 (with alpha)"
            )
        self.size = (size, size) if isinstance(size, int) else size
        self.strict = strict
        self.unreadable: dict[int, str] = {}
        self.say: Callable[[str], object] | None = None
        self._kept: dict[int, Bytes] = {}
        self._channels, self._background, self._white = channels, background, white
        self._pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="decode")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return (*self.size, self._channels)

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
        """Crop and resize one image of any mode, uint8 [H, W, C]; ValueError if it cannot be.

        The image is not decoded yet, so that one of a wrong size need not be.
        """

    def view(self, image: Image.Image) -> View:
        """Return an image as this data set shows it; ValueError if it cannot be decoded."""
        return View(image, self._channels, self._background, self._white)

    def images(self, indices: Integers) -> Bytes:
        """Decode images, uint8 [len(indices), H, W, C].

        Raises:
            DdimxError: an image that cannot be decoded, by name.
        """
        return np.stack(list(self._pool.map(self.decoded, indices.tolist())))

    def drawn(self, indices: Integers) -> Bytes:
        """Decode images for training, as :meth:`images`, but none that cannot be ends the run.

        The next image, of its class if it can be, stands for one that cannot be decoded. It is the
        same one whichever images were drawn before, so that a run that goes on draws what it would
        have drawn. The images of a small set stay in memory.

        Raises:
            DdimxError: too many cannot be decoded, or one if the source is strict.
        """
        numbers = indices.tolist()
        is_small = len(self) * math.prod(self.image_shape) <= KEPT
        images, others = (self._kept if is_small else {}), dict[int, Bytes]()
        absent = [number for number in dict.fromkeys(numbers) if number not in images]
        for number, result in zip(absent, self.each(absent), strict=True):
            if not isinstance(result, DdimxError):
                images[number] = result
            elif self.strict:
                raise result
            else:
                others[number] = self._next_readable(number)
        return np.stack([images[n] if n in images else others[n] for n in numbers])

    def each(self, indices: Iterable[int]) -> list[Bytes | DdimxError]:
        """Decode images like ``images``; what cannot be decoded is returned, not raised."""
        return list(self._pool.map(self._decoded_or_error, indices))

    def decoded(self, index: int) -> Bytes:
        """Decode one image, uint8 [H, W, C].

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

    def _next_readable(self, index: int) -> Bytes:
        """Decode the first image from ``index`` on, cyclically, that can be.

        One of the same label, if there is one: of a class of few, all may be damaged in one part.
        """
        numbers = np.roll(np.arange(len(self)), -index)
        if self.labels is not None:
            is_other = self.labels[numbers] != self.labels[index]
            numbers = numbers[np.argsort(is_other, kind="stable")]
        for number in numbers[: MOST_UNREADABLE + 1].tolist():
            if number in self.unreadable:
                continue
            result = self._decoded_or_error(number)
            if not isinstance(result, DdimxError):
                return result
            self.unreadable[number] = str(result)
            if self.say is not None:
                self.say(f"{result}; the next one is drawn in its place")
        raise DdimxError(
            f"{self.unreadable[index]}; and none of the {min(len(numbers), MOST_UNREADABLE + 1)} "
            "images that were tried in its place can be"
        )


def is_held_out(name: str) -> bool:
    """Return whether an image of this name belongs to the held-out split."""
    return hashlib.sha256(_bytes(name)).digest()[0] % HELD_OUT_EVERY == 0


def fingerprint_of(names: Iterable[str]) -> str:
    """Return the SHA-256 of a list of names, one a line."""
    return hashlib.sha256(_bytes("\n".join(names))).hexdigest()


def _bytes(name: str) -> bytes:
    """Return a name's bytes, also where they are no UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def centered_box(whole: tuple[int, int], size: tuple[int, int]) -> Box:
    """Return the largest centered part of a picture that has the proportions of ``size``.

    Both are (width, height).
    """
    scale = min(whole[0] / size[0], whole[1] / size[1])
    width, height = (max(1, round(side * scale)) for side in size)
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    return (left, top, left + width, top + height)


def centered(view: View, size: tuple[int, int]) -> Bytes:
    """Crop the center and resize it with a Lanczos filter: uint8 [H, W, C] for size (H, W)."""
    height, width = size
    box = centered_box(view.size, (width, height))
    return pixels_of(_resized(view, box, (width, height), Image.Resampling.LANCZOS))


def scaled_center(view: View, size: int) -> Bytes:
    """Resize the shorter side to ``size``, then crop the center: uint8 [size, size, C].

    What the original does by torchvision's ``Resize(size)`` and ``CenterCrop(size)`` on Pillow
    images (ermongroup/ddim, datasets/__init__.py): a bilinear filter whose support grows with the
    reduction, the longer side cut down to an integer, the margin rounded half to even.

    Raises:
        ValueError: so long and narrow that it would become too large.
    """
    short = min(view.size)
    width, height = (size * side // short for side in view.size)
    if width * height > max(MOST_PIXELS, size**2):
        raise ValueError(f"{view.size[0]}x{view.size[1]} is too narrow for {size} pixels")
    image = _resized(view, (0, 0, *view.size), (width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return pixels_of(image.crop((left, top, left + size, top + size)))


def _resized(
    view: View, box: Box, size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Return ``view.crop(box).resize(size, resample)``, without large copies on the way.

    Pillow resizes the width before the height and rounds to whole numbers in between, so that the
    first half can be done in bands of rows, with the same result to the bit. Colors with alpha are
    multiplied by it meanwhile, as Pillow does it too.
    """
    left, top, right, bottom = box
    if (right - left, bottom - top) == size:
        return view.crop(box)
    mode = "RGBa" if view.mode == "RGBA" else view.mode
    rows = max(1, BAND // (right - left))
    halfway = Image.new(mode, (size[0], bottom - top))
    for start in range(top, bottom, rows):
        end = min(start + rows, bottom)
        band = view.crop((left, start, right, end)).convert(mode)
        halfway.paste(band.resize((size[0], end - start), resample), (0, start - top))
    return halfway.resize(size, resample).convert(view.mode)


def side_of(size: tuple[int, int], what: str) -> int:
    """Return the side of a square.

    Raises:
        UsageError: the sides differ, and ``what`` (a data set) has square images only.
    """
    if size[0] != size[1]:
        raise UsageError(
            f"data.image_size is {size[1]}x{size[0]}, and {what}'s images are squares; give one "
            "number, or take the images as data.dataset=FOLDER"
        )
    return size[0]


def split_number(split: str, names: Sequence[str]) -> int:
    """Return the position of a split's name among the known ones.

    Raises:
        UsageError: with the nearest known name.
    """
    if split not in names:
        raise unknown("split", split, names)
    return list(names).index(split)
