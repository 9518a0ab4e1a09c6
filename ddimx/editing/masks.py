"""Which pixels to paint anew: a name, a box, a file or an alpha channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.images.listing import SUFFIXES
from ..errors import UsageError
from ..files import visible_files
from .pictures import Picture, fitted, gray_levels

Mask = npt.NDArray[np.bool_]

NAMED = ("center", "left", "right", "top", "bottom")
_BOX = re.compile(r"^-?\d+(,-?\d+)*$")


def make_mask(spec: str, picture: Picture, *, resize: bool = False) -> tuple[Mask, int]:
    """Return what is to be painted, bool [H, W], and how many gray pixels of it were rounded.

    ``spec`` is a name of :data:`NAMED`, ``alpha`` for the picture's own transparency, a box
    ``x0,y0,x1,y1`` in pixels without its right and lower edge, or a file: white is painted, black
    is kept; with an alpha channel, what is transparent is painted.

    Raises:
        UsageError: no such mask, another size than the picture's, nothing to paint, or nothing
            to keep.
    """
    height, width = picture.pixels.shape[:2]
    gray = 0
    if spec in NAMED:
        mask = _named(spec, height, width)
    elif spec == "alpha":
        mask, gray = _from_alpha(picture)
    elif _BOX.match(spec):
        mask = _box(spec, height, width)
    else:
        mask, gray = _from_file(spec, picture, resize)
    _check_useful(mask, spec, picture.name)
    return mask, gray


def masks_for(
    spec: str, pictures: Sequence[Picture], *, resize: bool = False
) -> tuple[list[Mask], tuple[str, ...]]:
    """Return a mask for every picture, with remarks; a folder holds one file for each by name.

    Raises:
        UsageError: as :func:`make_mask`, or a folder without a picture's mask.
    """
    masks, notes = [], []
    for picture in pictures:
        mask_spec = _in_folder(Path(spec), picture) if Path(spec).is_dir() else spec
        mask, gray = make_mask(mask_spec, picture, resize=resize)
        masks.append(mask)
        if gray:
            notes.append(f"{picture.name}: {gray} gray pixels of the mask became black or white")
    return masks, tuple(notes)


def _in_folder(folder: Path, picture: Picture) -> str:
    images = visible_files(folder, SUFFIXES, recursive=False)
    matches = [path for path in images if path.stem == picture.name]
    if len(matches) != 1:
        raise UsageError(f"--mask {folder}: {len(matches)} masks named '{picture.name}', need one")
    return str(matches[0])


def _named(name: str, height: int, width: int) -> Mask:
    mask = np.zeros((height, width), dtype=bool)
    rows = {"top": slice(0, height // 2), "bottom": slice(height // 2, height)}
    columns = {"left": slice(0, width // 2), "right": slice(width // 2, width)}
    if name == "center":
        rows[name] = slice(height // 4, height - height // 4)
        columns[name] = slice(width // 4, width - width // 4)
    mask[rows.get(name, slice(None)), columns.get(name, slice(None))] = True
    return mask


def _box(spec: str, height: int, width: int) -> Mask:
    corners = [int(part) for part in spec.split(",")]
    if len(corners) != 4:
        raise UsageError(f"--mask {spec}: a box is four numbers, x0,y0,x1,y1")
    x0, y0, x1, y1 = corners
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UsageError(
            f"--mask {spec}: the box must lie in the image, 0 <= x0 < x1 <= {width} and "
            f"0 <= y0 < y1 <= {height}"
        )
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _from_alpha(picture: Picture) -> tuple[Mask, int]:
    if picture.alpha is None:
        raise UsageError(
            f"{picture.name} has no transparent pixel to paint; give --mask FILE, "
            f"{', '.join(NAMED)} or x0,y0,x1,y1"
        )
    return black_or_white(255 - picture.alpha)


def _from_file(spec: str, picture: Picture, resize: bool) -> tuple[Mask, int]:
    path = Path(spec)
    if not path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--mask {spec}: neither a file nor {', '.join(NAMED)}, alpha or x0,y0,x1,y1"
        )
    brightness, alpha = gray_levels(path)
    level = brightness if alpha is None else 255 - alpha
    height, width = picture.pixels.shape[:2]
    if (level.shape[1], level.shape[0]) not in {(width, height), picture.size if resize else ()}:
        raise UsageError(
            f"--mask {path} is {level.shape[1]}x{level.shape[0]}, "
            f"{picture.name} {picture.size[0]}x{picture.size[1]}; a mask has its picture's size"
        )
    levels = fitted(Image.fromarray(level), (width, height), Image.Resampling.NEAREST)
    return black_or_white(np.asarray(levels))


def black_or_white(level: npt.NDArray[np.uint8]) -> tuple[Mask, int]:
    """Return where levels uint8 [H, W] are white, 128 and more, and how many are neither."""
    return level >= 128, int(((level != 0) & (level != 255)).sum())


def _check_useful(mask: Mask, spec: str, name: str) -> None:
    if not mask.any():
        raise UsageError(
            f"--mask {spec} is black all over for {name}: nothing to paint (white is painted anew, "
            "black is kept)"
        )
    if mask.all():
        raise UsageError(
            f"--mask {spec} is white all over for {name}: nothing to keep (white is painted anew, "
            "black is kept); ddimx sample draws whole images"
        )
