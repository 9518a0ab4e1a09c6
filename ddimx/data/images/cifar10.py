"""CIFAR-10 as its authors publish it, without unpickling what a file could hide.

The "python version" (https://www.cs.toronto.edu/~kriz/cifar.html) is six pickles by Python 2 with
the keys ``data`` (uint8 [10000, 3072], row by row, red before green before blue), ``labels``,
``filenames`` and ``batch_label``. They hold the ndarray of numpy's old pickle form.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from ...errors import DdimxError
from ...untrusted import limits
from ...untrusted.archives import unzipped
from ...untrusted.foreign import FAULTS, reason
from ...untrusted.names import relative
from ..arrays import Bytes, Integers

ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
MD5 = "c58f30108f718f92721af3b95e74349a"  # of the archive, as torchvision states it
TRAIN, TEST = tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_SIZE, _CHANNELS = 32, 3
_NUMBERS = _SIZE * _SIZE * _CHANNELS
BATCH_BYTES = 64 << 20  # twice of what those published have
OPERATIONS = 1_000_000  # of a batch's pickle; those published have four for each of 10,000 images
_UNPACK: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZ": bz2.BZ2File,
    b"\xfd7": lzma.LZMAFile,
}
_ARCHIVE_FAULTS: tuple[type[Exception], ...] = (*FAULTS, tarfile.TarError, lzma.LZMAError)
_PICKLE_FAULTS: tuple[type[Exception], ...] = (*FAULTS, pickle.UnpicklingError, MemoryError)


class Cifar10Source:
    """The 50,000 training images, or the 10,000 test images, held in memory with their labels."""

    families: Integers | None = None
    classes = CLASSES
    image_shape = (_SIZE, _SIZE, _CHANNELS)

    def __init__(self, root: Path, *, held_out: bool) -> None:
        """Read the batches from the archive or the folder that it was unpacked to.

        ``root`` is one of the two, or a folder that holds one of them.

        Raises:
            DdimxError: neither is there, or a file is damaged or holds what it should not.
        """
        import hashlib

        place = _found(root)
        names = TEST if held_out else TRAIN
        try:
            contents = (
                _from_archive(place, names) if place.is_file() else _from_folder(place, names)
            )
        except _ARCHIVE_FAULTS as error:
            # tarfile tells of every method it tried
            why = str(error).partition("\n")[0].rstrip(":") or reason(error)
            raise DdimxError(f"{place}: cannot be read ({why})") from None
        absent_names = [name for name in names if name not in contents]
        if absent_names:
            raise DdimxError(
                f"{place}: lacks {', '.join(absent_names)}; is it the python version, whole?"
            )
        batches = {name: contents[name] for name in names}
        parts = [_parsed(data, f"{place}: {name}") for name, data in batches.items()]
        self._images: Bytes = np.concatenate([images for images, _ in parts])
        self.labels: Integers | None = np.concatenate([labels for _, labels in parts])
        self.fingerprint = hashlib.sha256(self._images.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Integers) -> Bytes:
        """Return uint8 [len(indices), 32, 32, 3]."""
        return self._images[indices]


def place_of(root: Path) -> Path | None:
    """Return the archive or the folder of batches that ``root`` is or holds, None without."""
    for place in (root, root / FOLDER, root / ARCHIVE):
        if place.is_file() or (place / TEST[0]).is_file():
            return place
    return None


def _found(root: Path) -> Path:
    place = place_of(root)
    if place is not None:
        return place
    raise DdimxError(
        f"no CIFAR-10 in {root}: put {ARCHIVE} there (from {ADDRESS}, MD5 {MD5}), unpacked or "
        "not, or name its place with --set data.root=PATH"
    )


def _from_folder(place: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    contents = {}
    for name in names:
        if (place / name).is_file():
            with (place / name).open("rb") as stream:
                contents[name] = _batch(stream, name)
    return contents


def _from_archive(place: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    contents = {}
    # In memory, so that no path or link is followed; and from front to back, so that what is
    # unpacked can be counted.
    with _unpacked(place) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            name = Path(relative(member.name, place)).name
            opened = archive.extractfile(member) if name in names else None
            if opened is not None:
                contents[name] = _batch(opened, name)
    return contents


def _batch(stream: IO[bytes], name: str) -> bytes:
    data = stream.read(BATCH_BYTES + 1)
    if len(data) > BATCH_BYTES:
        raise ValueError(f"{name} is longer than {limits.readable(BATCH_BYTES)}")
    return data


@contextmanager
def _unpacked(place: Path) -> Iterator[BinaryIO]:
    """Open an archive, compressed or not, of which no more than ``limits.memory()`` can be read.

    The published one has 186 MB unpacked.
    """
    with place.open("rb") as stream:
        unpack = _UNPACK.get(stream.read(2))
    with place.open("rb") if unpack is None else unpack(place) as stream:
        yield unzipped(stream, 0)


def _parsed(data: bytes, label: str) -> tuple[Bytes, Integers]:
    """Return the images, uint8 [N, 32, 32, 3], and labels, int64 [N], of one batch.

    Raises:
        DdimxError: not such a batch; ``label`` names it.
    """
    try:
        _check_pickle(data)
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        flat, labels = batch[b"data"].numbers(), batch[b"labels"]
        # Of lists within lists, each many times the same, NumPy would make an array.
        if type(labels) is not list or not all(type(label) is int for label in labels):
            raise ValueError("its labels are not a list of whole numbers")
        numbers = np.array(labels, dtype=np.int64)
    except _PICKLE_FAULTS as error:
        raise DdimxError(f"{label}: not a CIFAR-10 batch ({reason(error)})") from None
    if flat.shape != (len(numbers), _NUMBERS) or not np.isin(numbers, range(len(CLASSES))).all():
        raise DdimxError(f"{label}: data {list(flat.shape)} and labels {numbers.shape} do not fit")
    planes = flat.reshape(-1, _CHANNELS, _SIZE, _SIZE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), numbers


def _check_pickle(data: bytes) -> None:
    """Raise ValueError for what would fill the memory before a batch is there.

    Python's unpickler makes a memo as large as the largest number in it, and allocates what a
    string declares.
    """
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if "PUT" in operation.name and (argument or 0) > count:
            raise ValueError(f"its memo has a gap before {argument}")
        if count > OPERATIONS:
            raise ValueError(f"more than {OPERATIONS} operations")


class _Array:
    """What the pickle says about an ndarray: nothing of numpy is called while reading it."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def numbers(self) -> Bytes:
        """Build the array, uint8; ValueError if the state describes anything else."""
        _, shape, dtype, fortran, content = self.state
        if not isinstance(dtype, _Type) or dtype.name not in (b"u1", "u1") or fortran:
            raise ValueError("its array is not plain uint8")
        numbers: Bytes = np.frombuffer(content, dtype=np.uint8).reshape(shape)
        return numbers


class _Type:
    """What the pickle says about a dtype."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Accept byte order and the like, which bytes do not have."""


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _BatchUnpickler(pickle.Unpickler):
    """An unpickler that can make containers, text, numbers and the two stand-ins above."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in; refuse everything else by name."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return _ALLOWED[module, name]
