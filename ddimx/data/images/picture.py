"""What a picture is, decided once: which side is up, what lies behind it, and which value is white.

Training, editing, encoding, masks and FID read pictures through :func:`picture_array` or, where a
part of a large one is enough, through :class:`View`:

* The orientation that a camera notes (EXIF, or TIFF's tag) is applied.
* What is transparent is composed on a background, unless four channels are wanted. Transparency
  is the alpha channel, or the color that a palette or a PNG names.
* Pictures of 8 bits are converted by Pillow: gray, palettes, CMYK, YCbCr, black and white. Of an
  animation the first frame is taken.
* Pictures of more bits become 8 bits by the value that is white in them, see :func:`white_of`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from ...untrusted.foreign import FAULTS
from ..arrays import Bytes

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels
BAND = 1 << 20  # pixels that are worked on together
_WAY_OUT = "set data.white (prepare images: --white) to the value of white, or convert it to 8 bits"
Box = tuple[int, int, int, int]

_ORIENTATION = 0x112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER = (5, 6, 7, 8)  # those that exchange width and height
# Below this value of white, 16 bits a pixel hold 12 bits, or a picture that is nearly black.
_TWELVE_BITS = 4096
_DARK_FLOAT = 16.0  # the same share of 255


def picture_array(
    image: Image.Image, channels: int, background: str = "white", white: float | None = None
) -> Bytes:
    """Return a picture's pixels as it is displayed, uint8 [H, W, channels].

    Args:
        image: opened by Pillow; it need not be decoded yet.
        channels: 1 (gray), 3 (RGB) or 4 (RGB and alpha).
        background: what is behind transparent pixels, as Pillow writes colors; unused for 4.
        white: the value of white in pictures of more than 8 bits; None: see :func:`white_of`.

    Raises:
        ValueError: another number of channels, damaged pixels, or values that :func:`white_of`
            refuses.
    """
    view = View(image, channels, background, white)
    return view.array((0, 0, *view.size))


class View:
    """A picture as it is displayed, of which parts are converted when they are wanted.

    ``size`` is (width, height) after turning.
    """

    def __init__(
        self,
        image: Image.Image,
        channels: int,
        background: str = "white",
        white: float | None = None,
    ) -> None:
        """Decode a picture; raises as :func:`picture_array`."""
        if channels not in MODES:
            raise ValueError(f"pictures have 1, 3 or 4 channels, not {channels}")
        self.mode = MODES[channels]
        self._image, self._background = image, ImageColor.getrgb(background)
        self.white = white_of(image, white)  # decodes it
        # TIFFs may have white at 0 (as X-rays), which Pillow turns round for 8 bits only.
        self._is_negative = getattr(image, "tag_v2", {}).get(262) == 0
        self._turn = orientation(image)
        width, height = image.size
        self.size = (height, width) if self._turn in _QUARTER else (width, height)

    def array(self, box: Box) -> Bytes:
        """Return the pixels of a part, uint8 [H, W, channels]; ``box`` as Pillow's."""
        return pixels_of(self.crop(box))

    def crop(self, box: Box) -> Image.Image:
        """Return a part as an image of the mode L, RGB or RGBA."""
        image = self._image.crop(_stored(box, self._turn, self._image.size))
        if self.white is not None:
            gray = _eight_bits(image, self.white)
            image = Image.fromarray(255 - gray if self._is_negative else gray)
        elif image.mode == "LAB":  # which Pillow turns into RGB and nothing else
            image = image.convert("RGB")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if self.mode != "RGBA":
                behind = Image.new("RGBA", image.size, self._background)
                image = Image.alpha_composite(behind, image)
        image = image.convert(self.mode)
        return image.transpose(_TURNS[self._turn]) if self._turn in _TURNS else image

    def alpha(self) -> Bytes | None:
        """Return the alpha channel, uint8 [H, W], None where all is opaque."""
        if self.white is not None or not self._image.has_transparency_data:
            return None
        has_band = self._image.mode in ("RGBA", "LA")
        alpha = (self._image if has_band else self._image.convert("RGBA")).getchannel("A")
        if alpha.getextrema() == (255, 255):
            return None
        return np.asarray(alpha.transpose(_TURNS[self._turn]) if self._turn in _TURNS else alpha)


def pixels_of(image: Image.Image) -> Bytes:
    """Return the pixels of an image of the mode L, RGB or RGBA, uint8 [H, W, channels]."""
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def orientation(image: Image.Image) -> int:
    """Return how a picture is stored, 1 (upright) to 8, as EXIF counts it.

    Of an image that is not decoded yet only the header is looked at; a TIFF's size may then be
    that of the upright picture already, see :func:`displayed_size`. A damaged EXIF block says
    nothing.
    """
    try:
        # Not PNG's own method, which decodes the picture to see what follows its pixels.
        value: Any = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except FAULTS:
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width as displayed of a picture that is opened and not decoded yet."""
    width, height = image.size
    # Newer versions of Pillow turn TIFFs by themselves, and say so in the size beforehand.
    turned = getattr(image, "_tile_size", image.size) != image.size
    is_quarter = orientation(image) in _QUARTER and not turned
    return (width, height) if is_quarter else (height, width)


def is_deep(image: Image.Image) -> bool:
    """Return whether a picture is gray of more than 8 bits: integers of 16 or 32, or floats."""
    return image.mode == "F" or image.mode.startswith("I")


def white_of(image: Image.Image, white: float | None = None) -> float | None:
    """Return which value is white in a picture of more than 8 bits; None for any other.

    Decodes the picture. A file rarely says what its values mean, so it goes by their range:

    * Floats up to 1 have white at 1, those from 16 to 255 at 255. In between, values may lie
      beyond a white of 1, or be nearly black, which is refused.
    * Integers of 16 bits have white at 65535, or where their file says it (a TIFF of 12 bits). Up
      to 4095 they may be 12 bits in 16 or a picture that is nearly black, which is refused.
    * Integers of 32 bits up to 255 have white at 255; others are taken for 16 bits.

    Args:
        white: what the user says instead, ``data.white``.

    Raises:
        ValueError: damaged pixels, or values of which it cannot be told what they mean.
    """
    rawmode = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    decoders = {tile[0] for tile in getattr(image, "tile", ())}
    sixteen = image.mode.startswith("I;16") or ";16" in rawmode or image.format == "PNG"
    scaled = image.format == "JPEG2000" or decoders & {"ppm", "ppm_plain"}  # to 16 bits by Pillow
    bits = getattr(image, "tag_v2", {}).get(258, (16,))
    image.load()
    if not is_deep(image):
        if ";16" in rawmode:
            _check_upper_bits(image, white)
        return None
    low, high = _range(image)
    values = f"values from {low:g} to {high:g}"
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("has values that are no numbers")
    if low < 0:
        raise ValueError(f"has {values}, black is 0; convert it to 8 bits")
    if white is not None:
        top = white
    elif image.mode == "F":
        if 1 < high < _DARK_FLOAT:
            raise ValueError(
                f"has floats and {values}: some beyond a white of 1, or a dark picture (255)? "
                f"{_WAY_OUT}"
            )
        top = 1.0 if high <= 1 else 255.0
    elif scaled:
        top = 65535.0
    elif isinstance(bits, tuple) and isinstance(bits[0], int) and 8 < bits[0] < 16:
        top = 2.0 ** bits[0] - 1
    elif not sixteen and high <= 255:
        top = 255.0
    else:
        if 0 < high < _TWELVE_BITS:
            raise ValueError(
                f"has 16 bits and {values}: 12 bits (white is 4095), or a dark picture (65535)? "
                f"{_WAY_OUT}"
            )
        top = 65535.0
    if high > top:
        raise ValueError(f"has {values}, which are above {top:g}, its white: {_WAY_OUT}")
    return top


def _check_upper_bits(image: Image.Image, white: float | None) -> None:
    """Raise ValueError for colors of 16 bits whose upper 8, which Pillow reads, are nearly black.

    The user may say that they are dark, by ``white``.
    """
    bands: Any = image.getextrema()  # a pair for every band of these modes, which have several
    high = max(pair[1] for pair, name in zip(bands, image.getbands(), strict=True) if name != "A")
    if 0 < high < _TWELVE_BITS >> 8 and white != 65535:
        raise ValueError(
            "has colors of 16 bits that are nearly black, perhaps 12 bits in 16: convert it to 8 "
            "bits, or if it is dark set data.white (prepare images: --white) to 65535"
        )


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the least and the largest value of an image, NaN if one is none."""
    parts = [(float(band.min()), float(band.max())) for band in _bands(image)]
    lows, highs = zip(*parts, strict=True)
    return float(np.min(lows)), float(np.max(highs))


def _bands(image: Image.Image) -> Iterator[npt.NDArray[Any]]:
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        yield np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def _eight_bits(image: Image.Image, white: float) -> Bytes:
    """Return 8 bits of a pixel: the upper ones where white is 2^n - 1, else the nearest value."""
    values = np.asarray(image)
    bits = round(white).bit_length()
    if values.dtype.kind in "iu" and white == 2**bits - 1 and bits >= 8:
        eight = values >> (bits - 8)
    else:
        eight = np.floor(values.astype(np.float32) * np.float32(255 / white) + np.float32(0.5))
    result: Bytes = eight.astype(np.uint8)
    return result


def _stored(box: Box, turn: int, size: tuple[int, int]) -> Box:
    """Return where a part of the displayed picture is in the stored one of this size."""
    left, top, right, bottom = box
    width, height = size
    if turn in _QUARTER:
        left, top, right, bottom = top, left, bottom, right
    if turn in (2, 3, 7, 8):  # stored from right to left
        left, right = width - right, width - left
    if turn in (3, 4, 6, 7):  # stored from the bottom up
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom)
