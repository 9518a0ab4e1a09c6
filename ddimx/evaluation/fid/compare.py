"""FID of two sets of images: folders, arrays, data sets or statistics that were saved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import __version__
from ...config_file import load_config
from ...data.arrays import Bytes
from ...data.images.download import obtain
from ...data.images.folder import SUFFIXES
from ...data.images.sources import ImageSource, open_source
from ...errors import DdimxError
from ...progress import Progress
from ...untrusted.pictures import open_picture
from ...untrusted.text import shown
from .features import Features
from .frechet import Accumulator, Statistics, frechet_distance, npz_arrays, read_statistics

CIFAR10 = "cifar10"
RELIABLE = 10_000  # below, FID's bias of finite samples is as large as what it should show


@dataclass(frozen=True)
class Images:
    """Images of one size: a description, their number, and a way to go through them."""

    label: str
    files: tuple[Path, ...] = ()
    source: ImageSource | None = None
    array: Bytes | None = None

    def __len__(self) -> int:
        if self.source is not None:
            return len(self.source)
        return len(self.files) if self.array is None else len(self.array)

    def batches(self, size: int) -> Iterator[Bytes]:
        """Yield uint8 [B, H, W, 3].

        Raises:
            DdimxError: an unreadable image, or one whose size is another.
        """
        first: tuple[int, ...] | None = None
        for start in range(0, len(self), size):
            numbers = np.arange(start, min(start + size, len(self)), dtype=np.int64)
            if self.source is not None:
                batch = self.source.images(numbers)
            elif self.array is not None:
                batch = self.array[numbers]
            else:
                batch = _stacked([self.files[i] for i in numbers])
            first = first or batch.shape[1:]
            if batch.shape[1:] != first:
                raise DdimxError(f"{self.label}: images of {batch.shape[1:]} and of {first}")
            yield _three_channels(batch)


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
        files = _files(path)
        if not files:
            raise DdimxError(f"{path}: no images (looked for {', '.join(sorted(SUFFIXES))})")
        return Images(str(path), files=files)
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
        found = read_statistics(path)
        check_network(found, features, where)
        return found
    images = open_images(where, offline=offline, progress=progress)
    return measure(images, features, batch_size, progress)


def measure(images: Images, features: Features, batch_size: int, progress: Progress) -> Statistics:
    """Return the statistics of images under a feature network."""
    progress.start(f"features of {images.label}", len(images))
    total, shape = Accumulator(), (0, 0)
    for batch in images.batches(batch_size):
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).contiguous()
        total.add(features(pixels).numpy())
        shape = batch.shape[1:3]
        progress.advance(len(batch))
    progress.stop()
    about = {
        "images": images.label,
        "preprocessing": f"8-bit RGB, {shape[0]}x{shape[1]} as stored",
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


def _files(folder: Path) -> tuple[Path, ...]:
    of_run = (folder / "manifest.json").is_file()
    found = folder.iterdir() if of_run else folder.rglob("*")
    images = (p for p in found if p.suffix.lower() in SUFFIXES and p.is_file())
    return tuple(sorted(p for p in images if not of_run or p.stem.isdigit()))


def _stacked(files: list[Path]) -> Bytes:
    images = [_decoded(path) for path in files]
    for path, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DdimxError(f"{path}: is {image.shape}, others are {images[0].shape}")
    return np.stack(images)


def _decoded(path: Path) -> Bytes:
    try:
        with open_picture(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except ValueError as error:
        raise DdimxError(f"{path}: cannot be decoded ({error})") from None


def _three_channels(batch: Bytes) -> Bytes:
    if batch.shape[3] == 1:
        return np.repeat(batch, 3, axis=3)
    if batch.shape[3] != 3:
        raise DdimxError(f"FID needs 3 colours, the images have {batch.shape[3]}")
    return batch
