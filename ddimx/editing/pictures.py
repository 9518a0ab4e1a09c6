"""Pictures that a user brings: read, checked against the model, and handed to the network."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ..data.images.encoded import centered, centered_box
from ..data.images.listing import SUFFIXES, list_images, printable
from ..data.images.named import ARRAYS, array_of_run, stored_pixels
from ..data.images.picture import View
from ..errors import UsageError
from ..files import visible_files
from ..pixels import to_network
from ..runs.record import NAME as MANIFEST
from ..untrusted.pictures import open_picture
from ..untrusted.tars import SUFFIX
from ..weights.model import Model, process_is_image

Bytes = npt.NDArray[np.uint8]
Content = TypeVar("Content")


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
    sheet = {"grid.png"} if (path / MANIFEST).is_file() else set()
    paths = [p for p in visible_files(path, SUFFIXES, recursive=False) if p.name not in sheet]
    if not paths:
        raise UsageError(f"{path}: no images (looked for {', '.join(sorted(SUFFIXES))})")
    _refuse_equal(path, [p.stem for p in paths])
    return paths


def read_pictures(path: Path, model: Model, *, resize: bool = False) -> list[Picture]:
    """Read the images of a file, a folder, a zip, a tar or an array for a model.

    Each as :func:`read_picture` does. Those of a zip or a tar are in the order of their names, also
    in folders below. The images of an array
    (see :func:`.named.stored_pixels`) are called by their numbers: "000000". Of a run of ours that
    wrote one array, its images are read.

    Raises:
        UsageError: as :func:`find_pictures` and :func:`read_picture`.
        DdimxError: a zip, a tar or an array that cannot be read.
    """
    path = array_of_run(path) or path
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix in ARRAYS:
        pixels = stored_pixels(path)
        return [picture_in(pixels, i, path, model, resize=resize) for i in range(len(pixels))]
    if suffix not in (".zip", SUFFIX):
        return [read_picture(file, model, resize=resize) for file in find_pictures(path)]
    listing = list_images(path)
    # Both slashes divide a name, as in zips that were made on Windows: results are called by it.
    stems = [printable(PurePosixPath(name.replace("\\", "/")).stem) for name in listing.names]
    _refuse_equal(path, stems)
    pictures = []
    for name, stem in zip(listing.names, stems, strict=True):
        what = listing.place(name)
        read = partial(picture_of, model=model, name=stem, what=what, resize=resize)
        try:
            source = listing.stream(name)
        except (OSError, ValueError) as error:
            raise UsageError(f"{what}: cannot be read ({error})") from None
        pictures.append(_decoded(source, what, read))
    return pictures


def picture_in(
    pixels: Bytes, number: int, path: Path, model: Model, *, resize: bool = False
) -> Picture:
    """Return one image of an array, uint8 [N, H, W, C], for a model; ``path`` names the array.

    Raises:
        UsageError: as :func:`picture_of`, or another number of channels than 1, 3 or 4.
    """
    image = np.asarray(pixels[number])
    if image.shape[2] not in (1, 3, 4):
        raise UsageError(f"{path}: images of {image.shape[2]} channels; 1, 3 or 4 are read")
    return picture_of(
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image),
        model,
        name=f"{number:06d}",
        what=f"{path}, image {number},",
        resize=resize,
    )


def read_picture(path: Path, model: Model, *, resize: bool = False) -> Picture:
    """Read an image for a model.

    With ``resize`` the center is cut out and scaled, as for training; without it the image must
    have the model's size already. What is transparent is put on the model's ``data.background``.

    Raises:
        UsageError: not a model of images, not an image file, or another size.
    """
    where = printable(str(path))
    return _opened(
        path, lambda image: picture_of(image, model, name=path.stem, what=where, resize=resize)
    )


def picture_of(
    image: Image.Image, model: Model, *, name: str, what: str, resize: bool = False
) -> Picture:
    """Return an image for a model, as :func:`read_picture` does.

    ``what`` is what the message calls the image.

    Raises:
        UsageError: the model makes something else than images, or the size differs.
        ValueError: it cannot be decoded.
    """
    channels, height, width = image_shape(model)
    data = model.config.data
    view = View(image, channels, data.background, data.white)
    if view.size != (width, height) and not resize:
        raise UsageError(
            f"{what} is {_size(view.size)}, model '{model.name}' makes {_size((width, height))}; "
            "bring it to that size or give --resize (in Python: resize=True)"
        )
    alpha = view.alpha()
    if alpha is not None:
        alpha = np.asarray(fitted(Image.fromarray(alpha), (width, height), _NEAREST))
    return Picture(
        name=name,
        pixels=centered(view, (height, width)),
        alpha=alpha,
        size=view.size,
    )


_NEAREST = Image.Resampling.NEAREST


def fitted(image: Image.Image, size: tuple[int, int], filter_: Image.Resampling) -> Image.Image:
    """Cut the largest centered part of the size's proportions out and scale it to ``size``."""
    if image.size == size:
        return image
    return image.crop(centered_box(image.size, size)).resize(size, filter_)


def gray_levels(path: Path) -> tuple[Bytes, Bytes | None]:
    """Read a mask file as brightness and, where it has one, alpha: uint8 [H, W] each.

    Raises:
        UsageError: the file is missing or not an image.
    """
    return _opened(path, levels_of)


def levels_of(image: Image.Image) -> tuple[Bytes, Bytes | None]:
    """Return brightness and, where something is transparent, alpha: uint8 [H, W] each.

    Raises:
        ValueError: it cannot be decoded.
    """
    view = View(image, 1)
    return view.array((0, 0, *view.size))[..., 0], view.alpha()


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


def _opened(path: Path, read: Callable[[Image.Image], Content]) -> Content:
    """Return what ``read`` makes of an image file; what it cannot read is a UsageError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return _decoded(path, printable(str(path)), read)


def _decoded(source: Path | BinaryIO, what: str, read: Callable[[Image.Image], Content]) -> Content:
    """Return what ``read`` makes of an encoded image, which messages call ``what``."""
    try:
        with open_picture(source) as image:
            return read(image)
    except ValueError as error:
        raise UsageError(f"{what}: not a readable image ({error})") from None


def _refuse_equal(path: Path, stems: Sequence[str]) -> None:
    """Raise UsageError if two images have one name, by which results are called."""
    name, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{path}: two images are called '{name}'; results would share a name")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
