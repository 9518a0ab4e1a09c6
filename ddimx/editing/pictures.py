"""Pictures that a user brings: read, checked against the model, and handed to the network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ..data.images.encoded import eight_bits
from ..data.images.folder import SUFFIXES
from ..errors import UsageError
from ..files import visible_files
from ..pixels import to_network
from ..untrusted.pictures import open_picture
from ..weights.model import Model, process_is_image

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image at the model's resolution.

    Attributes:
        name: its file's name without the suffix.
        pixels: uint8 [H, W, C].
        alpha: uint8 [H, W] where the file has an alpha channel that says something.
        size: width and height before resizing.
    """

    name: str
    pixels: Bytes
    alpha: Bytes | None
    size: tuple[int, int]


def find_pictures(path: Path) -> list[Path]:
    """Return the image file, or the image files of a folder in the order of their names.

    The contact sheet of a run's folder is not among them.

    Raises:
        UsageError: nothing there, no image in the folder, or two of one name.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    sheet = {"grid.png"} if (path / "manifest.json").is_file() else set()
    paths = [p for p in visible_files(path, SUFFIXES, recursive=False) if p.name not in sheet]
    if not paths:
        raise UsageError(f"{path}: no images (looked for {', '.join(sorted(SUFFIXES))})")
    stems = [p.stem for p in paths]
    duplicates = sorted({s for s in stems if stems.count(s) > 1})
    if duplicates:
        raise UsageError(
            f"{path}: two images are called '{duplicates[0]}'; results would share a name"
        )
    return paths


def read_picture(path: Path, model: Model, *, resize: bool = False) -> Picture:
    """Read an image for a model.

    With ``resize`` the center square is cut out and scaled, as for training; without it the image
    must have the model's size already. What is transparent is put on white.

    Raises:
        UsageError: not a model of images, not an image file, or another size.
    """
    return picture_of(_opened(path), model, name=path.stem, what=str(path), resize=resize)


def picture_of(
    image: Image.Image, model: Model, *, name: str, what: str, resize: bool = False
) -> Picture:
    """Return an image for a model, as :func:`read_picture` does.

    ``what`` is what the message calls the image.

    Raises:
        UsageError: the model makes something else than images, or the size differs.
    """
    channels, height, width = image_shape(model)
    if image.size != (width, height) and not resize:
        raise UsageError(
            f"{what} is {_size(image.size)}, model '{model.name}' makes {_size((width, height))}; "
            "bring it to that size or give --resize (in Python: resize=True)"
        )
    alpha = _alpha(image)
    color = image
    if alpha is not None:
        white = Image.new("RGBA", image.size, "white")
        color = Image.alpha_composite(white, image.convert("RGBA"))
    color = color.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(fitted(color, (width, height), Image.Resampling.LANCZOS), dtype=np.uint8)
    return Picture(
        name=name,
        pixels=pixels if pixels.ndim == 3 else pixels[..., None],
        alpha=None if alpha is None else np.asarray(fitted(alpha, (width, height), _NEAREST)),
        size=image.size,
    )


_NEAREST = Image.Resampling.NEAREST


def fitted(image: Image.Image, size: tuple[int, int], filter_: Image.Resampling) -> Image.Image:
    """Cut the largest centered part of the size's proportions out and scale it to ``size``."""
    if image.size == size:
        return image
    scale = min(image.size[0] / size[0], image.size[1] / size[1])
    width, height = (max(1, round(n * scale)) for n in size)
    left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
    return image.crop((left, top, left + width, top + height)).resize(size, filter_)


def gray_levels(path: Path) -> tuple[Bytes, Bytes | None]:
    """Read a mask file as brightness and, where it has one, alpha: uint8 [H, W] each.

    Raises:
        UsageError: the file is missing or not an image.
    """
    image = _opened(path)
    alpha = _alpha(image)
    return np.asarray(image.convert("L")), None if alpha is None else np.asarray(alpha)


def as_states(pictures: Sequence[Picture], model: Model) -> Tensor:
    """Return pictures in the network's range, float32 [B, C, H, W]."""
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    return to_network(pixels, model.config.data).contiguous()


def fingerprint(*arrays: npt.NDArray[np.generic]) -> str:
    """Return the SHA-256 of arrays' bytes, for the identity of a run."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def image_shape(model: Model) -> tuple[int, int, int]:
    """Return channels, height and width of a model of images.

    Raises:
        UsageError: the model makes something else.
    """
    if not process_is_image(model.process):
        raise UsageError(f"model '{model.name}' makes no images")
    channels, height, width = model.process.shape
    return channels, height, width


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with open_picture(path) as image:
            image.load()
            return eight_bits(image)
    except ValueError as error:
        raise UsageError(f"{path}: not a readable image ({error})") from None


def _alpha(image: Image.Image) -> Image.Image | None:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
