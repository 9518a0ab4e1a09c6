"""Sets of images to measure: folders, archives, arrays, packed sets, runs, data sets by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ...config import DataConfig
from ...config_file import load_data
from ...data.arrays import Bytes, Integers
from ...data.images.download import obtain
from ...data.images.encoded import EncodedSource, centered
from ...data.images.listing import Listing, list_images, printable
from ...data.images.named import (
    ARRAYS,
    CONFIGS,
    array_of_run,
    data_sets,
    is_packed,
    named_data,
    place_of,
    stored_pixels,
)
from ...data.images.npz import NpzSource
from ...data.images.packed import PackedSource, read_index
from ...data.images.picture import picture_array
from ...data.images.scan import scan_images
from ...data.images.sources import ImageSource, JoinedSource, location, open_part
from ...errors import DdimxError, UsageError
from ...option_values import size_text
from ...progress import Progress
from ...runs.record import NAME as MANIFEST
from ...untrusted.arrays import npz_headers
from ...untrusted.tars import refuse_compressed
from ...untrusted.text import shown

Size = tuple[int, int]  # height and width

STORED = "as stored"
PACKAGES = (".7z", ".rar")
# How pictures become images of one size. CelebA and LSUN as the original does it (ermongroup/ddim,
# datasets/__init__.py): other crops give other figures.
WAYS = {
    "CELEBA": "128x128 round column 89 and row 121, bilinear",
    "LSUN": "shorter side bilinear, center crop",
    "FFHQ": "center crop, Lanczos",
    "FOLDER": "center crop, Lanczos",
    "TAR": "center crop, Lanczos",
    "HUB": "center crop, Lanczos",
}
# A sample of a run, in a file of its own or in a tar.
_SAMPLE = re.compile(r"(?:samples-[0-9]+\.tar/)?[0-9]+\.[^./]+")
SHOWN = 5  # names of files in a message
SPLITS = {"train": "training", "held-out": "held-out", "all": "training and held-out"}


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size.

    Attributes:
        label: what they are called.
        source: reads them.
        size: height and width.
        about: what a figure depends on, as JSON values: ``preprocessing``, ``size`` and, where they
            are known, ``files`` (how many there are of each format), ``decoding``, ``gray``.
        notes: what a user should know, in whole sentences.
    """

    label: str
    source: ImageSource
    size: Size
    about: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.source)

    def each(self, numbers: Sequence[int]) -> list[Bytes | DdimxError]:
        """Return images, uint8 [H, W, 3]; in place of one that cannot be decoded, the reason."""
        if isinstance(self.source, EncodedSource):
            return self.source.each(numbers)
        batch = self.source.images(np.array(numbers, dtype=np.int64))
        if batch.shape[3] == 4:
            return [picture_array(Image.fromarray(image), 3) for image in batch]
        return list(np.repeat(batch, 3, axis=3) if batch.shape[3] == 1 else batch)

    def read(self, numbers: Sequence[int]) -> Bytes:
        """Return images, uint8 [B, H, W, 3].

        Raises:
            DdimxError: one that cannot be decoded.
        """
        images = self.each(numbers)
        for image in images:
            if isinstance(image, DdimxError):
                raise image
        return np.stack([image for image in images if not isinstance(image, DdimxError)])


class Pictures(EncodedSource):
    """Pictures of a folder, a zip or tars, as they are stored or cut and scaled to one size."""

    def __init__(
        self, listing: Listing, names: Sequence[str], data: DataConfig, *, stored: bool
    ) -> None:
        """Take the pictures of these names; ``data`` says their size and how they are decoded."""
        super().__init__(data.sides, data.num_workers, background=data.background, white=data.white)
        self.names, self._listing, self._stored = tuple(names), listing, stored
        self.fingerprint = ""

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        """Return the file's path, or the archive and the name in it."""
        return self._listing.place(self.names[index])

    def stream(self, index: int) -> Path | BinaryIO:
        """Return the file's path, or its bytes out of the archive."""
        return self._listing.stream(self.names[index])

    def fitted(self, image: Image.Image) -> Bytes:
        """Return the picture's pixels, of the wanted size."""
        view = self.view(image)
        return view.array((0, 0, *view.size)) if self._stored else centered(view, self.size)


class Pixels:
    """An array of images, uint8 [N, H, W, C]."""

    labels: Integers | None = None
    families: Integers | None = None
    classes: tuple[str, ...] = ()
    fingerprint = ""

    def __init__(self, array: Bytes) -> None:
        self._array = array
        self.image_shape = tuple(array.shape[1:])

    def __len__(self) -> int:
        return len(self._array)

    def images(self, indices: Integers) -> Bytes:
        """Return uint8 [len(indices), H, W, C]."""
        return np.asarray(self._array[indices])


def open_images(
    where: str,
    *,
    size: Size | None = None,
    samples_size: Size | None = None,
    settings: Sequence[str] = (),
    split: str | None = None,
    offline: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Images:
    """Open images: a folder, a zip, tars, an ``.npz``, an ``.npy``, a run, or a data set's name.

    Pictures are taken as they are stored, and then have one size, unless ``size`` is given. Of a
    run its samples are taken; of any other folder all pictures, also those in folders below. Of a
    data set by name, and of a packed set, the training images are taken unless ``split`` says
    otherwise; of an ``.npz`` all images.

    Args:
        where: a path, or the name of a data set; what is there is preferred to a name.
        size: (height, width) to which pictures are cut and scaled.
        samples_size: the size of a data set by name where neither ``size`` nor ``settings`` say it.
        settings: ``data.key=value``, for pictures and data sets by name.
        split: one of ``SPLITS``, of a set that has these parts: one by name, a packed set, or an
            ``.npz`` with an array ``held_out`` as 'ddimx prepare emoji' writes it.
        strict: refuse pictures that cannot be read, which otherwise are left out.

    Raises:
        UsageError: a size or settings for what has a size already; a split of what has no parts.
        DdimxError: nothing there, no images, or images of several sizes.
    """
    path = place_of(where)
    is_name = where.lower() in data_sets()
    keys = [text.partition("=")[0].strip() for text in settings]
    places = [key for key in keys if key in ("data.root", "data.dataset")]
    if path is not None and is_name and places:
        path = None  # a folder of this name is no place for another one
    if path is None or path.suffix.lower() in CONFIGS:
        name = where if path is not None else where.lower()
        return _data_set(name, size, samples_size, settings, split, offline, progress)
    path = array_of_run(path) or path
    if places:
        raise UsageError(
            f"{path}: is there, and {places[0]} is for data sets by name: {', '.join(data_sets())}"
        )
    if path.suffix.lower() not in ARRAYS or path.is_dir():
        if split is not None:
            raise UsageError(f"{path}: --split is for prepared sets; of pictures all are taken")
        images = _pictures(path, size, settings, progress, strict=strict)
        if not is_name:
            return images
        note = (
            f"note: '{where}' is a folder here, whose pictures are taken as they are; --set "
            f"data.root={where} takes it for the data set of this name, with its crop and split"
        )
        return replace(images, notes=(note, *images.notes))
    if size is not None or settings:
        raise UsageError(f"{path}: an array has its size; --size and --set are for pictures")
    if not is_packed(path):
        if split is None:
            return _described(str(path), Pixels(stored_pixels(path)), STORED)
        needed = f"{path}: --split needs an .npz with an array 'held_out'"
        if path.suffix.lower() != ".npz":
            raise UsageError(needed)
        source = _part(lambda held_out: NpzSource(path, held_out=held_out), split)
        if "held_out" not in npz_headers(path):
            raise UsageError(needed)
        return _described(f"{path} ({len(source)} {SPLITS[split]} images)", source, STORED)
    part = split or "train"
    source = _part(lambda held_out: PackedSource(path, held_out=held_out), part)
    images = _described(f"{path} ({len(source)} {SPLITS[part]} images)", source, STORED)
    origin = read_index(path)["origin"]
    kind = origin.get("dataset") if isinstance(origin, dict) else None
    images.about["packed"] = f"{shown(kind)}: {WAYS.get(str(kind).upper(), 'unknown')}"
    return images


def _data_set(
    name: str,
    size: Size | None,
    samples_size: Size | None,
    settings: Sequence[str],
    split: str | None,
    offline: bool,
    progress: Progress | None,
) -> Images:
    """Open a part of a data set, by its configuration or by its own name."""
    sizes = [[] if s is None else [f"data.image_size={s[1]}x{s[0]}"] for s in (samples_size, size)]
    data = named_data(name, [*sizes[0], *settings, *sizes[1]])
    data = data.model_copy(update={"num_workers": _workers()})
    obtain(data, offline=offline, progress=progress or Progress(quiet=True))
    part = split or "train"
    source = _part(lambda held_out: open_part(data, held_out=held_out), part)
    height, width, _ = source.image_shape
    if size is not None and (height, width) != size:
        raise UsageError(
            f"{name}: its images are {width}x{height} as stored, which --size does not change"
        )
    label = f"{name} ({len(source)} {SPLITS[part]} images of {location(data)})"
    return _described(label, source, WAYS.get(data.dataset.upper(), STORED))


def _pictures(
    path: Path,
    size: Size | None,
    settings: Sequence[str],
    progress: Progress | None,
    *,
    strict: bool,
) -> Images:
    """Open the pictures of a folder, a zip or tars."""
    if (path / "data.mdb").is_file():
        raise DdimxError(
            f"{path}: an LMDB; name the data set that it is of and its place, as in: "
            f"--reference bedroom --set data.root={path}"
        )
    if path.is_file():
        try:
            refuse_compressed(path)
        except ValueError as error:
            raise DdimxError(f"{path}: {error}") from None
        if path.suffix.lower() in PACKAGES:
            raise DdimxError(
                f"{path}: of archives zips and plain tars are read; unpack it and give the folder"
            )
    listing = list_images(path)
    chosen = load_data({"dataset": "FOLDER", "image_size": 1, "channels": 3}, settings)
    scan = scan_images(
        path, workers=_workers(), white=chosen.white, listing=listing, progress=progress
    )
    if strict:
        scan.refuse_unreadable()
    names, sizes, gray = scan.names, scan.sizes, scan.channels == 1
    if (path / MANIFEST).is_file():
        own = [i for i, name in enumerate(names) if _SAMPLE.fullmatch(name)]
        names, sizes, gray = tuple(names[i] for i in own), sizes[own], gray[own]
        if not own:
            raise DdimxError(f"{path}: a run without samples that are images")
    kinds, counts = np.unique(sizes, axis=0, return_counts=True)
    usual = tuple(kinds[counts.argmax()].tolist())
    wanted = size or (None if chosen.image_size == 1 else chosen.sides)
    if len(kinds) > 1 and wanted is None:
        odd = int((sizes != usual).any(axis=1).argmax())
        raise DdimxError(
            f"{path / printable(names[odd])}: is {size_text(sizes[odd])}, most images of {path} "
            f"are {size_text(usual)}; --size {size_text(usual)} cuts and scales a reference to one "
            "size, and 'ddimx prepare images' any set"
        )
    stored = len(kinds) == 1 and wanted in (None, usual)
    height, width = wanted or usual
    data = chosen.model_copy(update={"image_size": (height, width), "num_workers": _workers()})
    source = Pictures(listing, names, data, stored=stored)
    images = _described(str(path), source, STORED if stored else WAYS["FOLDER"])
    images.about["files"] = scan.formats
    images.about["decoding"] = f"upright by EXIF, transparency on {data.background}"
    if gray.all():
        images.about["gray"] = True
    notes = [note for note in scan.notes if note not in listing.notes]
    if scan.errors:
        images.about["unreadable"] = len(scan.errors)
        some = [f"{printable(name)} ({why})" for name, why in list(scan.errors.items())[:SHOWN]]
        notes.append(f"{path}: {len(scan.errors)} left out, unreadable: {'; '.join(some)}")
    return replace(images, notes=tuple(notes))


def _described(label: str, source: ImageSource, way: str) -> Images:
    """Return images with what the record says of them.

    Raises:
        DdimxError: there are none, or they are neither gray nor RGB nor RGBA.
    """
    height, width, channels = source.image_shape
    if not len(source):
        raise DdimxError(f"{label}: holds no images")
    if channels not in (1, 3, 4):
        raise DdimxError(f"{label}: FID needs 3 colors, the images have {channels}")
    joint = " " if way == STORED else ": "
    about: dict[str, Any] = {
        "preprocessing": f"8-bit RGB, {height}x{width}{joint}{way}",
        "size": [height, width],
    }
    if channels == 1:
        about["gray"] = True
    return Images(label, source, (height, width), about)


def _part(opened: Callable[[bool], ImageSource], split: str) -> ImageSource:
    """Return a part of a set, or both: ``opened(True)`` is the held-out part."""
    if split == "all":
        return JoinedSource((opened(False), opened(True)))
    return opened(split == "held-out")


def _workers() -> int:
    return os.cpu_count() or 1
