"""FID of two sets of images: folders, arrays, data sets or statistics that were saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import __version__
from ...config_file import load_config
from ...data.arrays import Bytes
from ...data.images.download import obtain
from ...data.images.folder import image_files
from ...data.images.sources import ImageSource, open_source
from ...errors import DdimxError
from ...progress import Progress
from ...runs.batches import in_batches
from ...untrusted.pictures import open_picture
from ...untrusted.text import shown
from .features import Features
from .frechet import Accumulator, Statistics, frechet_distance, npz_arrays, read_statistics

CIFAR10 = "cifar10"
RELIABLE = 10_000  # below, FID's bias of finite samples is as large as what it should show


@dataclass(frozen=True)
class Images:
    """Images of one size: a description, their number, and a way to read them."""

    label: str
    files: tuple[Path, ...] = ()
    source: ImageSource | None = None
    array: Bytes | None = None

    def __len__(self) -> int:
        if self.source is not None:
            return len(self.source)
        return len(self.files) if self.array is None else len(self.array)

    def read(self, numbers: Sequence[int]) -> Bytes:
        """Return the images of these numbers, uint8 [B, H, W, 3].

        Raises:
            DdimxError: an image that is not readable, or images of more than one size.
        """
        if self.source is not None:
            batch = self.source.images(np.asarray(numbers, dtype=np.int64))
        elif self.array is not None:
            batch = self.array[list(numbers)]
        else:
            files = [self.files[i] for i in numbers]
            images = [_decoded(path) for path in files]
            for path, image in zip(files, images, strict=True):
                if image.shape != images[0].shape:
                    raise DdimxError(f"{path}: is {image.shape}, others are {images[0].shape}")
            batch = np.stack(images)
        if batch.shape[3] == 1:
            return np.repeat(batch, 3, axis=3)
        if batch.shape[3] != 3:
            raise DdimxError(f"FID needs 3 colors, the images have {batch.shape[3]}")
        return batch


def open_images(where: str, *, offline: bool = False, progress: Progress | None = None) -> Images:
    """Open a folder, an .npz of images, or ``cifar10`` (its training images, downloaded once).

    A folder of ``ddimx sample`` gives its samples, without ``grid.png``; of any other folder all
    images are taken, also those in folders below.

    Raises:
        DdimxError: nothing there, or no images.
    """
    path = Path(where).expanduser()
    if where == CIFAR10 and not path.exists():
        config = load_config(CIFAR10)
        obtain(config.data, offline=offline, progress=progress or Progress(quiet=True))
        return Images(CIFAR10, source=open_source(config))
    if path.is_dir():
        of_run = (path / "manifest.json").is_file()
        files = image_files(path, recursive=not of_run)
        samples = [file for file in files if not of_run or file.stem.isdigit()]
        if not samples:
            raise DdimxError(f"{path}: a run without samples that are images")
        return Images(str(path), files=tuple(samples))
    arrays = npz_arrays(path, ("arr_0", "images"))
    array = arrays.get("arr_0", arrays.get("images"))
    if array is None or array.ndim != 4 or array.dtype != np.uint8:
        raise DdimxError(f"{path}: needs an array 'arr_0' or 'images', uint8 [N, H, W, C]")
    return Images(str(path), array=array)


def statistics_of(
    where: str,
    features: Features,
    batch_size: int,
    progress: Progress,
    *,
    offline: bool = False,
) -> Statistics:
    """Return the statistics that a file holds, or those of images.

    Raises:
        DdimxError: no images, or statistics of another feature network.
    """
    path = Path(where).expanduser()
    if path.is_file() and path.suffix == ".npz" and npz_arrays(path, ("mu",)):
        statistics = read_statistics(path)
        check_network(statistics, features, where)
        return statistics
    images = open_images(where, offline=offline, progress=progress)
    return measure(images, features, batch_size, progress)


def measure(images: Images, features: Features, batch_size: int, progress: Progress) -> Statistics:
    """Return the statistics of images under a feature network.

    Raises:
        DdimxError: an image that is not readable, or images of more than one size.
    """
    progress.start(f"features of {images.label}", len(images))
    size: tuple[int, ...] | None = None

    def measured(numbers: Sequence[int]) -> Tensor:
        nonlocal size
        batch = images.read(numbers)
        size = size or batch.shape[1:3]
        if batch.shape[1:3] != size:
            raise DdimxError(f"{images.label}: images of {batch.shape[1:3]} and of {size}")
        return features(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())

    total = Accumulator()
    for numbers, values in in_batches(range(len(images)), batch_size, measured):
        total.add(values.numpy())
        progress.advance(len(numbers))
    progress.stop()
    assert size is not None  # there is at least one image
    about = {
        "images": images.label,
        "preprocessing": f"8-bit RGB, {size[0]}x{size[1]} as stored",
        **features.about,
    }
    return total.statistics(about)


def check_network(statistics: Statistics, features: Features, where: str) -> None:
    """Refuse statistics that say they were made with another feature network.

    Raises:
        DdimxError: they were.
    """
    theirs, ours = statistics.about.get("network"), features.about.get("network")
    if theirs is not None and theirs != ours:
        raise DdimxError(f"{where}: statistics of the network {shown(theirs)}, not of '{ours}'")


def compare(samples: Statistics, reference: Statistics) -> dict[str, Any]:
    """Return FID and all that it depends on, as JSON values."""
    return {
        "ddimx": __version__,
        "fid": frechet_distance(samples, reference),
        "samples": {"count": samples.count, **samples.about},
        "reference": {"count": reference.count, **reference.about},
    }


def remarks(samples: Statistics, reference: Statistics) -> list[str]:
    """Return what a reader of the figure should know."""
    notes = []
    if samples.count < RELIABLE:
        notes.append(
            f"note: FID of {samples.count} samples is biased upwards; papers take 50,000, and "
            "figures of different counts do not compare"
        )
    rank = min(n for n in (samples.count, reference.count or 10**9))
    if rank <= len(samples.mean):
        notes.append(f"note: fewer images than the {len(samples.mean)} features: of low rank")
    if "network" not in reference.about:
        notes.append("note: the reference's statistics do not say which network made them")
    return notes


def _decoded(path: Path) -> Bytes:
    try:
        with open_picture(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except ValueError as error:
        raise DdimxError(f"{path}: cannot be decoded ({error})") from None
