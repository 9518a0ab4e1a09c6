"""Images by what a person calls them: a folder, an archive, a file of arrays, or a name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import DataConfig
from ...config_file import load_data, shipped_configs
from ...errors import DdimxError, UsageError, nearest
from ...runs.record import NAME as MANIFEST
from ...untrusted.arrays import map_npy, read_header, read_npz
from ...untrusted.tars import SUFFIX
from ..arrays import Bytes
from . import celeba, cifar10
from .packed import index_path

ARRAYS, CONFIGS = (".npz", ".npy"), (".yml", ".yaml")
# Data sets that no shipped configuration has; the others go by their configuration's name.
_KINDS = ("ffhq", "lsun")
# Files and folders by which the folder of a published data set is known, as globs.
_MARKS = {
    "CELEBA": (celeba.FOLDER, celeba.ARCHIVE, "Img", "img"),
    "CIFAR10": (cifar10.FOLDER, cifar10.ARCHIVE, cifar10.TEST[0]),
    "LSUN": ("data.mdb", "*/data.mdb"),
    "FFHQ": ("data.mdb",),
}


def data_sets() -> list[str]:
    """Return the data sets of images that can be named."""
    shipped = [name for name in shipped_configs() if not load_data(name).octrees]
    return sorted({*shipped, *_KINDS})


def place_of(where: str) -> Path | None:
    """Return the path of images, None for the name of a data set.

    Raises:
        DdimxError: neither is there.
    """
    path = Path(where).expanduser()
    if path.exists():
        return path
    names = data_sets()
    if where.lower() not in names:
        raise DdimxError(
            f"no such file: {where}{nearest(where, names)} Data sets by name: {', '.join(names)}."
        )
    return None


def named_data(where: str, overrides: Sequence[str] = ()) -> DataConfig:
    """Return the data section of a data set by its name, or of a configuration's file.

    Args:
        where: one of :func:`data_sets`, or a path to a ``.yml``.
        overrides: ``data.key=value``.

    Raises:
        UsageError: a configuration that cannot be read, or one of octrees.
    """
    is_file = Path(where).suffix.lower() in CONFIGS
    name = where if is_file else where.lower()
    keys = {"dataset": name, "image_size": 256, "channels": 3}
    data = load_data(keys if name in _KINDS else name, overrides)
    if data.octrees:
        raise UsageError(f"{where}: a data set of octrees, not of images")
    return data


def data_at(where: str, own: DataConfig) -> DataConfig:
    """Return a model's data section with other images in the place of its own.

    Size, channels and range stay the model's. A folder that looks like the published data set that
    the model was trained on is taken for it; any other is a folder of pictures.

    Args:
        where: a folder, a zip or tars of pictures, an ``.npz``, a packed ``.npy``, or the name of a
            data set.
        own: the model's section.

    Raises:
        DdimxError: nothing there.
        UsageError: a data set of octrees.
    """
    path = place_of(where)
    # Families are the own data's, and so is that nothing of it was held out.
    same = own.root is not None and where == own.root
    new = {"root": where, "balance": "none", "held_out": own.held_out or not same}
    suffix = "" if path is None or path.is_dir() else path.suffix.lower()
    if path is None or suffix in CONFIGS:
        chosen = named_data(where)
        keys = ("dataset", "root", "category", "column", "train_split", "test_split")
        return own.model_copy(update=new | {key: getattr(chosen, key) for key in keys})
    if suffix in ARRAYS:
        return own.model_copy(update=new | {"dataset": "NPZ" if suffix == ".npz" else "PACKED"})
    kind = own.dataset.upper()
    marks = _MARKS.get(kind, ()) if path.is_dir() else ()
    is_own = any(next(path.glob(mark), None) is not None for mark in marks) or (
        kind == "CELEBA" and path.name == celeba.ARCHIVE
    )
    if (path.is_dir() or suffix in (".zip", SUFFIX)) and not is_own:
        new["dataset"] = "FOLDER"
    return own.model_copy(update=new)


def array_of_run(folder: Path) -> Path | None:
    """Return the array of a run of ours that wrote its samples as one, None for any other path."""
    arrays = [folder / f"samples{suffix}" for suffix in ARRAYS]
    is_run = (folder / MANIFEST).is_file()
    return next((array for array in arrays if array.is_file()), None) if is_run else None


def is_packed(path: Path) -> bool:
    """Return whether an array file is a packed set: with its JSON beside it, or behind its pixels.

    Version 0.1 wrote the latter.

    Raises:
        DdimxError: an ``.npy`` that cannot be read.
    """
    if path.suffix.lower() != ".npy":
        return False
    try:
        with path.open("rb") as stream:
            header, end = read_header(stream), stream.seek(0, os.SEEK_END)
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable array file ({error})") from None
    return index_path(path).is_file() or end > header.length + header.size


def stored_pixels(path: Path) -> Bytes:
    """Return the images of an ``.npz`` (``arr_0`` or ``images``) or ``.npy``, uint8 [N, H, W, C].

    An ``.npy`` is mapped into memory.

    Raises:
        DdimxError: it cannot be read, or holds something else.
    """
    if path.suffix.lower() == ".npz":
        try:
            arrays = read_npz(path, ("arr_0", "images"))
        except (OSError, ValueError) as error:
            raise DdimxError(f"{path}: not a readable .npz of plain arrays ({error})") from None
        array = arrays.get("arr_0", arrays.get("images"))
        if array is None or array.ndim != 4 or array.dtype != np.uint8:
            raise DdimxError(f"{path}: needs an array 'arr_0' or 'images', uint8 [N, H, W, C]")
        return array
    try:
        array = map_npy(path)
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable array file ({error})") from None
    if array.ndim != 4 or array.dtype != np.uint8:
        raise DdimxError(
            f"{path}: {array.dtype} {list(array.shape)}, but pixels are uint8 [N, H, W, C] "
            "('ddimx sample --format npz' writes them)"
        )
    return array
