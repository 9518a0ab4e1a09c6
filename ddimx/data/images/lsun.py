"""LSUN's scenes and objects: LMDB folders whose values are encoded images.

Folders as published (https://www.yf.io/p/lsun): ``bedroom_train_lmdb`` and ``bedroom_val_lmdb``,
``church_outdoor_...`` likewise, and for objects such as ``cat`` one folder of that name. Images
are in the order of their keys, as torchvision's LSUN and so the original have them.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image

from ...errors import DdimxError
from ...untrusted.names import relative
from ..arrays import Bytes
from .encoded import EncodedSource, is_held_out, scaled_center, side_of
from .lmdb_file import open_lmdb


class LsunSource(EncodedSource):
    """One category: the shorter side resized, the center cropped, as the original does it.

    ``<category>_train_lmdb`` and ``<category>_val_lmdb`` are the two parts. Where the second is
    missing, or there is only a folder ``<category>``, one image in twenty is held out, by a hash
    of its key.
    """

    def __init__(
        self,
        root: Path,
        category: str,
        *,
        size: int | tuple[int, int],
        held_out: bool,
        workers: int,
        channels: int = 3,
    ) -> None:
        """List the keys of a category below ``root``, or of the LMDB that ``root`` is.

        Raises:
            UsageError: the package lmdb is missing, or a size that is not square.
            DdimxError: no such LMDB, a damaged one, or a category that is not the name of a folder.
        """
        super().__init__(size, workers, channels=channels)
        self._side = side_of(self.size, "LSUN")
        train, validation = _found(root, category)
        own = validation if held_out and validation is not None else train
        self._lmdb = open_lmdb(own)
        self._keys = self._lmdb.keys()
        if validation is None:
            self._keys = [k for k in self._keys if is_held_out(k.decode("latin-1")) == held_out]
        self.fingerprint = hashlib.sha256(b"\n".join(self._keys)).hexdigest()

    def __len__(self) -> int:
        return len(self._keys)

    def place(self, index: int) -> str:
        """Return the LMDB's path and the image's key."""
        return f"{self._lmdb.path}: {self._keys[index].decode('latin-1')}"

    def stream(self, index: int) -> io.BytesIO:
        """Return the image's bytes."""
        return io.BytesIO(self._lmdb.get(self._keys[index]) or b"")

    def fitted(self, image: Image.Image) -> Bytes:
        """Resize the shorter side by a bilinear filter and crop the center."""
        return scaled_center(self.view(image), self._side)


def _found(root: Path, category: str) -> tuple[Path, Path | None]:
    """Return the folders of training and of validation, which may be missing."""
    relative(category, "data.category")
    validation = root / f"{category}_val_lmdb"
    for train in (root / f"{category}_train_lmdb", root / category, root / f"{category}_lmdb"):
        if (train / "data.mdb").is_file():
            exists = (validation / "data.mdb").is_file()
            return train, validation if exists else None
    if (root / "data.mdb").is_file():
        return root, None
    raise DdimxError(
        f"no LSUN {category} in {root}: unpack {category}_train_lmdb.zip there (and "
        f"{category}_val_lmdb.zip; from https://www.yf.io/p/lsun), or name the place with "
        "--set data.root=PATH"
    )
