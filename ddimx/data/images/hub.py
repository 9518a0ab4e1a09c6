"""Image data sets of the Hugging Face hub by id, or in a local folder of such a form.

Needs the package ``datasets``, the extra ``[hub]``. Images are decoded here and not by it, so that
a data set is read the same way from wherever it comes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...config import DataConfig
from ...errors import DdimxError, UsageError, unknown
from ..arrays import Bytes
from .encoded import EncodedSource, centered, fingerprint_of, is_held_out


class HubSource(EncodedSource):
    """One split: the first (or the configured) column of images, with its labels if it has any.

    The parts are ``data.train_split`` and ``data.test_split``. Where the data set has no such test
    split, one image in twenty of the training split is held out, by a hash of its position.
    """

    def __init__(self, name: str, data: DataConfig, *, held_out: bool) -> None:
        """Load the tables, not yet the images; ``data.category`` is the hub's configuration name.

        Raises:
            UsageError: the package is missing, or there is no such split or column.
            DdimxError: no such data set, or no way to it.
        """
        super().__init__(
            data.sides,
            data.num_workers,
            channels=data.channels,
            background=data.background,
            white=data.white,
        )
        self._where = name
        splits = _splits(name, data.category)
        own_test = data.test_split in splits
        split = data.test_split if held_out and own_test else data.train_split
        if split not in splits:
            raise unknown(f"split of {name}", split, splits)
        table = splits[split]
        columns = [
            key for key, feature in table.features.items() if type(feature).__name__ == "Image"
        ]
        if data.column is not None and data.column not in columns:
            raise unknown(f"data.column of {name}", data.column, columns)
        if not columns:
            raise UsageError(
                f"data set {name}: no column of images among {', '.join(table.features)}"
            )
        self._column = data.column or columns[0]
        self._rows = np.arange(len(table))
        if not own_test:
            part = [is_held_out(str(row)) == held_out for row in self._rows]
            self._rows = np.flatnonzero(part)
        self._read_labels(table)
        self._table = table.select_columns([self._column])
        import datasets

        self._table = self._table.cast_column(self._column, datasets.Image(decode=False))
        self.fingerprint = fingerprint_of([name, str(data.category), split, str(len(table))])

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> str:
        """Return the data set's name and the image's row."""
        return f"{self._where}: row {self._rows[index]}"

    def stream(self, index: int) -> Path | io.BytesIO:
        """Return the image's bytes, or the path where they are."""
        cell = self._table[int(self._rows[index])][self._column]
        if cell is None:
            raise ValueError("no image")
        return Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"])

    def fitted(self, image: Image.Image) -> Bytes:
        """Crop the center and resize it with a Lanczos filter."""
        return centered(self.view(image), self.size)

    def _read_labels(self, table: Any) -> None:
        """Take the first column that the data set declares to be class labels."""
        for name, feature in table.features.items():
            if type(feature).__name__ == "ClassLabel":
                self.labels = np.array(table[name], dtype=np.int64)[self._rows]
                self.classes = tuple(feature.names)
                return


def _splits(name: str, category: str | None) -> Mapping[str, Any]:
    """Return the tables of a data set by split: from the hub, or a folder of its form."""
    try:
        import datasets
    except ImportError:
        raise UsageError(
            f"data.root {name} is a data set of the hub, which needs the package datasets: "
            "pip install 'ddimx[hub]'"
        ) from None
    folder = Path(name).expanduser()
    unreadable = (OSError, ValueError, datasets.exceptions.DatasetsError)
    try:
        if (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if folder.is_dir() else name, category)
    except unreadable as error:
        raise DdimxError(f"data set {name}: cannot be loaded ({error})") from None
    splits: Mapping[str, Any] = loaded
    return splits
