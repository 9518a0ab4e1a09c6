"""Data sets that are one .npz file, held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DdimxError
from ...files import sha256_file
from ...untrusted.arrays import read_npz
from ..arrays import Bytes, Integers

ARRAYS = ("images", "arr_0", "labels", "families", "held_out", "groups")


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
        arrays = _read_npz(path)
        images = arrays.get("images", arrays.get("arr_0"))
        if images is None or images.ndim != 4 or images.dtype != np.uint8:
            raise DdimxError(f"{path}: needs an array 'images', uint8 [N, H, W, C]")
        indices = _split(arrays, len(images), held_out, path)
        self._images: Bytes = images[indices]
        self.labels = _companion(arrays, "labels", len(images), indices, path)
        self.families = _companion(arrays, "families", len(images), indices, path)
        self.classes = tuple(str(g) for g in arrays["groups"]) if "groups" in arrays else ()
        self.fingerprint = sha256_file(path)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of every image."""
        return self._images.shape[1:]

    def images(self, indices: Integers) -> Bytes:
        """Return uint8 [len(indices), H, W, C]."""
        return self._images[indices]


def _read_npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DdimxError(
            f"no data file {path}. For the emoji run 'ddimx prepare emoji'; "
            "for your own images give --data, or set data.root."
        )
    try:
        return read_npz(path, ARRAYS, copies=2)  # one more of the chosen images
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable .npz of plain arrays ({error})") from None


def _split(arrays: dict[str, Any], count: int, held_out: bool, path: Path) -> Integers:
    if "held_out" not in arrays:
        return np.arange(0 if held_out else count, dtype=np.int64)
    mark = _checked(arrays, "held_out", count, "b", path)
    return np.flatnonzero(mark == held_out).astype(np.int64)


def _companion(
    arrays: dict[str, Any], key: str, count: int, indices: Integers, path: Path
) -> Integers | None:
    if key not in arrays:
        return None
    picked: Integers = _checked(arrays, key, count, "iu", path)[indices].astype(np.int64)
    return picked


def _checked(arrays: dict[str, Any], key: str, count: int, kinds: str, path: Path) -> Any:
    """Return the array, which must be [count] and of one of these kinds ("b" bool, "iu" int)."""
    array = arrays[key]
    if array.shape != (count,) or array.dtype.kind not in kinds:
        what = "bool" if kinds == "b" else "integers"
        raise DdimxError(
            f"{path}: '{key}' is {array.dtype} {list(array.shape)}, expected {what} [{count}]"
        )
    return array
