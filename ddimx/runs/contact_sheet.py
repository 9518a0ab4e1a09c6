"""Contact sheets: samples side by side, with their classes under them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

from ..files import whole_file
from .pictures import MOST_CHANNELS, as_image

MOST = 64  # samples on one grid
LEGIBLE = 128  # smaller images are enlarged by a whole factor up to about this size
GAP = 4


def grid(
    pixels: npt.NDArray[np.uint8], columns: int | None = None, labels: Sequence[str] = ()
) -> npt.NDArray[np.uint8]:
    """Lay images out in rows on white, small ones enlarged.

    Args:
        pixels: uint8 [N, H, W, C]; of more than 4 channels the first three are shown.
        columns: how many stand in a row; by default about as many as there are rows.
        labels: N texts, one for below each image; a text that is too long is cut. () for none.

    Returns:
        uint8 [H', W', C].
    """
    if pixels.shape[-1] > MOST_CHANNELS:
        pixels = pixels[..., :3]
    count, height, width, channels = pixels.shape
    scale = enlargement(height, width)
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    height, width = height * scale, width * scale
    font = _font(width)
    ascent, descent = font.getmetrics()
    cell_h, cell_w = height + GAP + (ascent + descent if labels else 0), width + GAP
    sheet = np.full((rows * cell_h + GAP, columns * cell_w + GAP, channels), 255, dtype=np.uint8)
    corners = [(i // columns * cell_h + GAP, i % columns * cell_w + GAP) for i in range(count)]
    enlarged = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    for (top, left), picture in zip(corners, enlarged, strict=True):
        sheet[top : top + height, left : left + width] = picture
    if not labels:
        return sheet
    image = as_image(sheet)
    draw = ImageDraw.Draw(image)
    black = (0,) * channels if channels % 2 else (*(0,) * (channels - 1), 255)  # opaque
    for (top, left), label in zip(corners, labels, strict=True):
        text = label
        while text and font.getlength(text) > width:
            text = text.removesuffix("..")[:-1] + ".." if len(text) > 3 else text[:-1]
        baseline = (left + width / 2, top + height + ascent)
        draw.text(baseline, text, fill=black, font=font, anchor="ms")
    labeled: npt.NDArray[np.uint8] = np.array(image).reshape(sheet.shape)
    return labeled


def enlargement(height: int, width: int) -> int:
    """Return the whole factor by which images of this size are enlarged."""
    return max(1, LEGIBLE // max(height, width))


def fitting(labels: Sequence[str], height: int, width: int) -> Sequence[str]:
    """Return the labels that can stand below images of this size, which may be enlarged.

    They must be as narrow as the images and in ASCII: the font has no other letters. Where names
    as "animals/bird" are too wide, their last parts may fit; () where those do not either.
    """
    width *= enlargement(height, width)
    font = _font(width)
    for texts in (labels, [label.rpartition("/")[2] for label in labels]):
        if all(text.isascii() and font.getlength(text) <= width for text in set(texts)):
            return texts
    return ()


def write_grid(
    path: Path,
    pixels: npt.NDArray[np.uint8],
    columns: int | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write a :func:`grid` of images [N, H, W, C] as PNG."""
    with whole_file(path) as part:
        as_image(grid(pixels, columns, labels)).save(part, format="PNG")


def _font(width: int) -> ImageFont.FreeTypeFont:
    """Return the font of labels under images of this width: some 16 characters are as wide."""
    font = ImageFont.load_default(max(12, width // 9))
    assert isinstance(font, ImageFont.FreeTypeFont)  # whose size can be chosen
    return font
