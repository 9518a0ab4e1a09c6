"""Where samples go: an image file each, tars of some thousand, or one array for all.

Every file is whole or absent.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import DataConfig
from ..errors import DdimxError, UsageError, unknown
from ..files import remove_if_empty, sweep, whole_file
from ..pixels import to_bytes
from ..untrusted.arrays import map_npy, read_first, read_npz
from ..untrusted.names import inside
from .formats import ARRAY_FORMATS, FORMATS, IMAGE_FORMATS, PARTS, PIECE, TAR_FORMAT
from .image_sink import ImageSink
from .indices import Indices
from .pictures import MOST_CHANNELS
from .tar_sink import TarSink

JOINED = "joined.npy"
CHUNK = 1 << 20  # bytes that are copied at a time
_PART = re.compile(rf"^\d{{8,}}-\d+(?:\.npz|{re.escape(PIECE)})$")


class Sink(Protocol):
    """Takes samples by index, and knows which it has.

    A sink that joins samples, a certain number at a time, has three attributes more: ``unit``, that
    number, counted from the run's first index (see :func:`unit_of`); ``begin(indices)``, which is
    called with the indices of the whole run before anything else; and ``files(indices)``, the names
    of the run's files, so that they are known before they exist.
    """

    @property
    def one_file(self) -> bool:
        """Whether all samples end in one file, so that a finished run cannot grow."""
        ...

    def done(self) -> Set[int]:
        """Return the indices that are on disk."""
        ...

    def write(self, indices: Sequence[int], samples: Sequence[Any], labels: Tensor | None) -> None:
        """Store the samples of a process, and their classes int64 [B] if they have any."""
        ...

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Bring the run's files into their final form, if they are not, and return their names."""
        ...

    def tidy(self) -> None:
        """Remove what is needed no longer, once the record says that the run is complete."""
        ...

    def pixels(self, indices: range) -> npt.NDArray[np.uint8]:
        """Return pictures of samples of a finished run, uint8 [B, H, W, C]."""
        ...


def unit_of(sink: object) -> int:
    """Return how many samples, counted from the run's first, one process has to make together.

    Processes that share a run each make whole units; 1 where every sample is a file of its own.
    """
    return int(getattr(sink, "unit", 1))


def open_sink(
    kind: str,
    folder: Path,
    data: DataConfig,
    classes: Sequence[str],
    about: Mapping[str, str] | None = None,
) -> Sink:
    """Return the sink for a ``--format`` of images.

    Args:
        about: what pictures say of themselves besides their index and class.

    Raises:
        UsageError: an unknown format, or pictures of more channels than picture files have.
    """
    if kind in (*IMAGE_FORMATS, TAR_FORMAT):
        if data.channels > MOST_CHANNELS:
            picture = "png" if kind == TAR_FORMAT else kind
            raise UsageError(
                f"a {picture} file has at most {MOST_CHANNELS} channels and these images have "
                f"{data.channels}: choose --format {' or '.join(ARRAY_FORMATS)}"
            )
        if kind == TAR_FORMAT:
            return TarSink(folder, data, classes, about)
        return ImageSink(folder, data, kind, classes, about)
    if kind in ARRAY_FORMATS:
        return ArraySink(folder, data, kind, classes)
    raise unknown("format", kind, FORMATS)


class ArraySink:
    """One array file for all samples, collected batch by batch in a folder of parts.

    ``npy``: float32 [N, C, H, W] in the network's range, not clamped. ``npz``: ``images`` uint8
    [N, H, W, C] with ``labels`` and ``groups``, which ``ddimx train`` reads. ``adm``: ``arr_0``
    (and ``arr_1``, the labels) as guided-diffusion's evaluator reads them.
    """

    one_file = True

    def __init__(self, folder: Path, data: DataConfig, kind: str, classes: Sequence[str]) -> None:
        self._folder, self._data, self._kind = folder, data, kind
        self._classes = tuple(classes)
        self._first = 0
        self._final = folder / f"samples.{'npy' if kind == 'npy' else 'npz'}"

    def done(self) -> Set[int]:
        """Return the indices in the parts; a finished file is known to the manifest.

        Pixels are not read for that: if they are damaged, :meth:`finish` says so.
        """
        return Indices(i for part in _parts(self._folder) for i in self._indices(part))

    def write(
        self, indices: Sequence[int], samples: Sequence[Tensor], labels: Tensor | None
    ) -> None:
        """Write one part: samples float32 [C, H, W]."""
        inside(self._folder, PARTS, self._folder)
        values = torch.stack(list(samples))
        if self._kind != "npy":
            values = to_bytes(values, self._data)
        path = self._folder / PARTS / f"{indices[0]:08d}-{len(indices)}.npz"
        with whole_file(path) as part, part.open("wb") as stream:
            np.savez(
                stream,
                indices=np.array(list(indices), dtype=np.int64),
                values=values.numpy(),
                labels=np.empty(0, np.int64) if labels is None else labels.cpu().numpy(),
            )

    def finish(self, indices: range, *, whole: bool = False) -> list[str]:
        """Join the parts in the order of the indices, unless the file is whole already.

        The parts stay until :meth:`tidy`: if this process ends before the record says that the run
        is complete, nothing has to be drawn again.
        """
        self._first = indices.start
        if not whole:
            with whole_file(self._final) as target:
                self._join(indices, _parts(self._folder), target)
        return [self._final.name]

    def tidy(self) -> None:
        """Remove the parts."""
        remove_parts(self._folder)

    def pixels(self, indices: range) -> npt.NDArray[np.uint8]:
        """Return samples of the finished file as uint8 [B, H, W, C]."""
        where = [i - self._first for i in indices]
        try:
            if self._kind == "npy":
                values = map_npy(self._final)
            else:
                values = read_first(self._final, self._images, max(where, default=-1) + 1)
        except (OSError, ValueError, KeyError) as error:
            raise DdimxError(f"{self._final}: not readable ({error})") from None
        if not self._is_ours(values) or max(where, default=-1) >= len(values):
            raise DdimxError(
                f"{self._final}: {values.dtype} {list(values.shape)}, not this run's samples"
            )
        chosen = np.array(values[where])
        if self._kind != "npy":
            return chosen
        return to_bytes(torch.from_numpy(chosen), self._data).numpy()

    def _join(self, indices: range, parts: Sequence[Path], path: Path) -> None:
        """Write the array of all parts; of these one at a time is in memory.

        Raises:
            DdimxError: a part is damaged or of another run, or samples are in none.
        """
        first = self._loaded(parts[0])
        values = first["values"]
        shape, row = (len(indices), *values.shape[1:]), values[:1].nbytes
        labels = np.zeros(len(indices) if len(first["labels"]) else 0, dtype=np.int64)
        there = np.zeros(len(indices), dtype=np.bool_)
        scratch = self._folder / PARTS / JOINED
        with scratch.open("wb") as stream:
            header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
            start = stream.tell()
            for part in parts:
                arrays = self._loaded(part)
                if arrays["values"].shape[1:] != shape[1:]:
                    raise DdimxError(f"{part}: not a part of this run; remove it")
                for place, index in enumerate(arrays["indices"].tolist()):
                    if index in indices:
                        where = index - indices.start
                        stream.seek(start + where * row)
                        stream.write(arrays["values"][place].tobytes())
                        there[where] = True
                        if len(labels):
                            labels[where] = arrays["labels"][place]
        if not there.all():
            missing = indices[int(there.argmin())]
            raise DdimxError(f"{self._folder / PARTS}: no part holds sample {missing}")
        if self._kind == "npy":
            shutil.move(scratch, path)
            return
        with zipfile.ZipFile(path, "w") as archive:
            # As np.savez does it, for which the images would have to be one array.
            with (
                archive.open(f"{self._images}.npy", "w", force_zip64=True) as member,
                scratch.open("rb") as whole,
            ):
                shutil.copyfileobj(whole, member, CHUNK)
            for name, array in self._beside(labels).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def _is_ours(self, values: npt.NDArray[Any]) -> bool:
        """Return whether an array may be of samples of this run."""
        return values.ndim == 4 and values.dtype == (
            np.float32 if self._kind == "npy" else np.uint8
        )

    def _indices(self, path: Path) -> list[int]:
        """Read the indices of a part of the array, and nothing else of it.

        Raises:
            DdimxError: damaged, or of another run.
        """
        (indices,) = _arrays(path, "indices")
        if indices.dtype != np.int64 or indices.ndim != 1:
            raise DdimxError(f"{path}: not a part of this run; remove it")
        numbers: list[int] = indices.tolist()
        return numbers

    def _loaded(self, path: Path) -> dict[str, npt.NDArray[Any]]:
        """Read a part of the array: ``indices`` int64 [B], ``values``, ``labels`` int64 [B or 0].

        Raises:
            DdimxError: damaged, or of another run.
        """
        indices, values, labels = _arrays(path, "indices", "values", "labels")
        whole = indices.dtype == labels.dtype == np.int64 and indices.ndim == labels.ndim == 1
        if not (whole and self._is_ours(values) and len(values) == len(indices)) or (
            len(labels) not in (0, len(indices))
        ):
            raise DdimxError(f"{path}: not a part of this run; remove it")
        return {"indices": indices, "values": values, "labels": labels}

    @property
    def _images(self) -> str:
        """The array of images in a zip."""
        return "images" if self._kind == "npz" else "arr_0"

    def _beside(self, labels: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that stand beside the images in a zip."""
        if self._kind == "adm":
            return {"arr_1": labels} if len(labels) else {}
        if len(labels) and labels.max() < len(self._classes):
            return {"labels": labels, "groups": np.array(self._classes)}
        return {}


def _arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Read arrays of a part.

    Raises:
        DdimxError: damaged, or of another run.
    """
    try:
        arrays = read_npz(path, names)
        return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise DdimxError(
            f"{path}: a part of this run that cannot be read ({error}); remove it, and the same "
            "command draws it again"
        ) from None


def remove_parts(folder: Path) -> None:
    """Remove the parts of an array or of tars, and their folder unless it holds something else.

    Raises:
        DdimxError: their folder is a symbolic link to another place; nothing is removed there.
    """
    for path in (*_parts(folder), *_parts(folder, PIECE), folder / PARTS / JOINED):
        path.unlink(missing_ok=True)
    sweep(folder / PARTS)
    remove_if_empty(folder / PARTS)


def _parts(folder: Path, suffix: str = ".npz") -> list[Path]:
    """Return the parts of what was begun, in the order of their first index.

    Raises:
        DdimxError: their folder is a symbolic link to another place.
    """
    parts = inside(folder, PARTS, folder).glob(f"*{suffix}")
    return sorted(path for path in parts if _PART.match(path.name))
