"""Image data sets behind one small interface: numbers in, uint8 pixels out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..errors import DdimxError, UsageError

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


class ImageSource(Protocol):
    """A data set of equally sized images.

    ``labels`` are int64 [N] (or None), ``families`` int64 [N] group variants of one motif (or
    None), ``fingerprint`` identifies the bytes, for the record in a checkpoint.
    """

    labels: Integers | None
    families: Integers | None
    fingerprint: str

    def __len__(self) -> int: ...

    def images(self, indices: Integers) -> Bytes:
        """Return uint8 [len(indices), H, W, C]."""
        ...


class NpzSource:
    """The images of one .npz: ``images`` uint8 [N, H, W, C] and optional companions.

    ``labels`` with ``groups`` (class names), ``families``, and ``held_out`` (bool [N]) are used
    where present. An ``arr_0`` as guided-diffusion writes it is read as ``images``.
    """

    def __init__(self, path: Path, *, held_out: bool) -> None:
        """Read the training part of ``path``, or its held-out part.

        Raises:
            DdimxError: no such file, not an npz, or arrays that do not fit together.
        """
        from ..files import sha256_file

        arrays = _read_npz(path)
        images = arrays.get("images", arrays.get("arr_0"))
        if images is None or images.ndim != 4 or images.dtype != np.uint8:
            raise DdimxError(f"{path}: needs an array 'images', uint8 [N, H, W, C]")
        chosen = _split(arrays.get("held_out"), len(images), held_out)
        self._images: Bytes = images[chosen]
        self.labels = _companion(arrays, "labels", len(images), chosen, path)
        self.families = _companion(arrays, "families", len(images), chosen, path)
        self.names = arrays["names"][chosen] if "names" in arrays else None
        self.classes = tuple(str(g) for g in arrays["groups"]) if "groups" in arrays else ()
        self.fingerprint = sha256_file(path)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Integers) -> Bytes:
        """Return uint8 [len(indices), H, W, C]."""
        return self._images[indices]


def open_source(config: Config, *, held_out: bool = False) -> ImageSource:
    """Open the data set that ``config.data`` names, its training or its held-out part.

    Raises:
        UsageError: an unknown data set, or one whose images do not fit the configuration.
        DdimxError: a data set that cannot be read.
    """
    data = config.data
    kind = data.dataset.upper()
    if kind not in {"NPZ", "FOLDER"}:
        raise UsageError(
            f"data.dataset '{data.dataset}' cannot be read yet. Allowed: NPZ, FOLDER "
            "(with data.root naming the file or folder)."
        )
    if data.root is None:
        raise UsageError(f"data.root must name the {kind.lower()} to train on")
    root = Path(data.root).expanduser()
    if kind == "FOLDER":
        from .folder import FolderSource

        return FolderSource(root, size=data.image_size, held_out=held_out, workers=data.num_workers)
    source = NpzSource(root, held_out=held_out)
    _check_shape(config, source, root)
    return source


def _check_shape(config: Config, source: NpzSource, root: Path) -> None:
    if not len(source):
        return
    shape = source.images(np.zeros(1, dtype=np.int64)).shape[1:]
    channels, height, width = config.sample_shape
    if shape != (height, width, channels):
        raise UsageError(
            f"{root}: images are {shape[0]}x{shape[1]}x{shape[2]} but the configuration says "
            f"{height}x{width}x{channels} (data.image_size, data.channels)"
        )
    if config.model.classes and source.labels is None:
        raise UsageError(f"{root}: model.classes are set but the file has no labels")
    if config.model.classes and source.classes and source.classes != config.model.classes:
        raise UsageError(f"{root}: its groups {source.classes} are not model.classes")


def _read_npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DdimxError(
            f"no data file {path}. For the emoji run 'ddimx prepare emoji'; "
            "for your own images set data.root."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise DdimxError(f"{path}: not a readable .npz of plain arrays ({error})") from None


def _split(mark: Any, count: int, held_out: bool) -> Integers:
    if mark is None:
        return np.arange(0 if held_out else count, dtype=np.int64)
    wanted = np.asarray(mark, dtype=bool) == held_out
    return np.flatnonzero(wanted).astype(np.int64)


def _companion(
    arrays: dict[str, Any], key: str, count: int, chosen: Integers, path: Path
) -> Integers | None:
    if key not in arrays:
        return None
    if arrays[key].shape != (count,):
        raise DdimxError(f"{path}: '{key}' has shape {arrays[key].shape}, expected ({count},)")
    picked: Integers = arrays[key][chosen].astype(np.int64)
    return picked
