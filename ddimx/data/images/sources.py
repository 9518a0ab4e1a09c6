"""Image data sets behind one small interface: numbers in, uint8 pixels out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...config import Config, DataConfig
from ...errors import UsageError, unknown
from ..arrays import Bytes, Integers

if TYPE_CHECKING:
    from .scan import Scan

KINDS = ("CIFAR10", "CELEBA", "LSUN", "FFHQ", "FOLDER", "TAR", "NPZ", "PACKED", "HUB")


class ImageSource(Protocol):
    """A data set of equally sized images.

    ``labels`` are int64 [N] (or None), ``families`` int64 [N] group variants of one motif (or
    None), ``classes`` the labels' names where the data set has them, ``image_shape`` is (H, W, C),
    ``fingerprint`` identifies the bytes, for the record in a checkpoint.
    """

    labels: Integers | None
    families: Integers | None
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels, empty if there are none."""
        ...

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of every image."""
        ...

    def __len__(self) -> int: ...

    def images(self, indices: Integers) -> Bytes:
        """Return uint8 [len(indices), H, W, C]."""
        ...


class JoinedSource:
    """The images of two parts of one data set, one part after the other."""

    def __init__(self, parts: tuple[ImageSource, ImageSource]) -> None:
        """Join parts whose images have one size and one number of channels."""
        self._parts = parts
        first, second = parts
        self.labels, self.families = (
            None if a is None or b is None else np.concatenate([a, b])
            for a, b in ((first.labels, second.labels), (first.families, second.families))
        )
        self.classes = first.classes
        self.image_shape = first.image_shape
        prints = "\n".join(part.fingerprint for part in parts)
        self.fingerprint = hashlib.sha256(prints.encode()).hexdigest()

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def images(self, indices: Integers) -> Bytes:
        """Return uint8 [len(indices), H, W, C]."""
        cut = len(self._parts[0])
        images = np.empty((len(indices), *self.image_shape), dtype=np.uint8)
        for part, mine, start in zip(
            self._parts, (indices < cut, indices >= cut), (0, cut), strict=True
        ):
            if mine.any():
                images[mine] = part.images(indices[mine] - start)
        return images


def open_source(
    config: Config, *, held_out: bool = False, strict: bool = False, scan: Scan | None = None
) -> ImageSource:
    """Open the data set that ``config.data`` names, its training or its held-out part.

    Args:
        strict: refuse a folder or an archive of images with one that cannot be read, and end a
            training run at an image that cannot be decoded, whatever the data set.
        scan: of the folder or the archive of images, if it is there already.

    Raises:
        UsageError: an unknown data set, or one whose images do not fit the configuration.
        DdimxError: a data set that cannot be read.
    """
    from .encoded import EncodedSource

    source = open_part(config.data, held_out=held_out, strict=strict, scan=scan)
    if isinstance(source, EncodedSource):
        source.strict = strict
    # Refuse a data set that the configuration cannot be trained on.
    root = location(config.data)
    shape, groups = source.image_shape, source.classes
    channels, height, width = config.sample_shape
    if shape != (height, width, channels):
        raise UsageError(
            f"{root}: images are {shape[0]}x{shape[1]}x{shape[2]} but the configuration says "
            f"{height}x{width}x{channels} (data.image_size, data.channels)"
        )
    if config.data.balance == "family" and source.families is None:
        raise UsageError(
            f"{root}: data.balance is 'family' but there are no families; --set data.balance=none"
        )
    classes = config.model.classes
    if classes and source.labels is None:
        raise UsageError(f"{root}: model.classes are set but there are no labels")
    if classes and groups and groups != classes:
        raise UsageError(f"{root}: its groups {groups} are not model.classes")
    if classes and source.labels is not None:
        strange = np.setdiff1d(source.labels, np.arange(len(classes)))
        if len(strange):
            raise UsageError(
                f"{root}: label {strange[0]} is not one of the {len(classes)} model.classes"
            )
    return source


def open_part(
    data: DataConfig, *, held_out: bool, strict: bool = False, scan: Scan | None = None
) -> ImageSource:
    """Open one part of a data set, whether or not a model fits it; raises as ``open_source``.

    A data set's module is imported when the data set is opened: some need packages of their own.
    """
    kind = data.dataset.upper()
    if kind not in KINDS:
        raise unknown("data.dataset", data.dataset, KINDS)
    if not data.held_out and kind not in ("FOLDER", "TAR"):
        raise UsageError(
            f"data.held_out is false, but of a {kind} data set the held-out part lies in its files"
        )
    if kind == "HUB":
        from .hub import HubSource

        return HubSource(location(data), data, held_out=held_out)
    path = Path(location(data)).expanduser()
    size, channels, workers = data.sides, data.channels, data.num_workers
    if kind == "CIFAR10":
        from .cifar10 import Cifar10Source

        return Cifar10Source(path, held_out=held_out)
    if kind == "CELEBA":
        from .celeba import CelebASource

        split = data.test_split if held_out else data.train_split
        return CelebASource(
            path, size=size, held_out=held_out, split=split, workers=workers, channels=channels
        )
    if kind == "LSUN":
        from .lsun import LsunSource

        if data.category is None:
            raise UsageError(
                "data.category must name LSUN's category: bedroom, church_outdoor, cat"
            )
        return LsunSource(
            path,
            data.category,
            size=size,
            held_out=held_out,
            workers=workers,
            channels=channels,
        )
    if kind == "FFHQ":
        from .ffhq import FfhqSource

        return FfhqSource(path, size=size, held_out=held_out, workers=workers, channels=channels)
    if kind == "NPZ":
        from .npz import NpzSource

        return NpzSource(path, held_out=held_out)
    if kind == "PACKED":
        from .packed import PackedSource

        return PackedSource(path, held_out=held_out)
    from .folder import FolderSource

    return FolderSource(
        path,
        size=size,
        held_out=held_out,
        workers=workers,
        channels=channels,
        background=data.background,
        white=data.white,
        strict=strict,
        split=data.held_out,
        tars=kind == "TAR",
        scan=scan,
    )


def location(data: DataConfig) -> str:
    """Return where a data set is: ``data.root``, or the place where it is looked for without.

    Raises:
        UsageError: a data set without such a place, and no ``data.root``.
    """
    if data.root is not None:
        return data.root
    kind = data.dataset.upper()
    if kind not in USUAL_PLACES:
        raise UsageError(f"data.root must name the {kind.lower()} to train on")
    return USUAL_PLACES[kind]


# Where the published sets are looked for, so that their configurations run as they stand.
USUAL_PLACES = {
    "CIFAR10": "data/cifar10",
    "CELEBA": "data/celeba",
    "LSUN": "data/lsun",
    "FFHQ": "data/ffhq",
}
