"""Contact sheets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..files import whole_file
from .pictures import as_image

MOST = 64  # samples on one grid
LEGIBLE = 128  # smaller images are enlarged by a whole factor up to about this size
GAP = 4


def grid(pixels: npt.NDArray[np.uint8], columns: int | None = None) -> npt.NDArray[np.uint8]:
    """Lay images [N, H, W, C] out in rows on white: uint8 [H', W', C], small ones enlarged."""
    count, height, width, channels = pixels.shape
    scale = max(1, LEGIBLE // max(height, width))
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell_h, cell_w = height * scale + GAP, width * scale + GAP
    sheet = np.full((rows * cell_h + GAP, columns * cell_w + GAP, channels), 255, dtype=np.uint8)
    enlarged = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    for i, picture in enumerate(enlarged):
        top, left = i // columns * cell_h + GAP, i % columns * cell_w + GAP
        sheet[top : top + height * scale, left : left + width * scale] = picture
    return sheet


def write_grid(path: Path, pixels: npt.NDArray[np.uint8], columns: int | None = None) -> None:
    """Write a grid of images [N, H, W, C] as PNG."""
    with whole_file(path) as part:
        as_image(grid(pixels, columns)).save(part, format="PNG")
