"""What lies at a path that somebody wants to train on, and what is said of it before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Config, DataConfig
from ..errors import DdimxError, UsageError
from ..files import visible_files
from ..octree.file import read_shape
from ..progress import Progress
from ..untrusted.tars import SUFFIX, refuse_compressed
from ..untrusted.text import first_of, shortened
from .examples import Examples
from .images.folder import FolderSource
from .images.listing import SUFFIXES, list_images, printable
from .images.named import ARRAYS
from .images.scan import Scan, scan_images
from .images.sources import open_part
from .images.tars import MOST_CLASSES, Tars
from .shapes.lists import PARTS, lists_of, read_list, read_tree
from .shapes.scan import scan_shapes

FEW = 100  # pictures of a folder up to which none is held out: it would be a handful
_SHOWN = 12  # names in one line
_STRETCHED = 1.1  # how much longer than wide a picture has to be, for its cut to be mentioned


@dataclass(frozen=True, eq=False)
class DataSet:
    """What a path holds.

    Attributes:
        root: the path, as the user wrote it.
        data: the keys of a configuration's ``data`` section that say so.
        count: how many examples there are in all.
        classes: names of their classes, empty if they have none.
        channels: of the images; 1 for octrees.
        sides: int32 [N, 2], heights and widths of the images as they are; empty for octrees.
        scan: of the pictures of a folder, a zip or tars, which may be trained on in any size; else
            None.
    """

    root: str
    data: dict[str, Any]
    count: int
    classes: tuple[str, ...]
    channels: int
    sides: npt.NDArray[np.int32]
    scan: Scan | None = None

    @property
    def octrees(self) -> bool:
        """Whether these are octrees and no images."""
        return bool(self.data["dataset"] == "OCTREE")


def recognize(
    where: str,
    workers: int = 4,
    white: float | None = None,
    progress: Progress | None = None,
) -> DataSet:
    """Return what a folder or file holds: pictures, tars, a packed set, an .npz or octrees.

    Of pictures only the headers are read, by ``workers`` threads; ``white`` is the configuration's
    ``data.white``; ``progress`` counts them, where there are many.

    Raises:
        UsageError: nothing there, or something that has to be prepared first; the message says how.
        DdimxError: a file that cannot be read.
    """
    path = Path(where).expanduser()
    if not path.exists():
        raise UsageError(f"--data {where}: no such file or folder")
    parts = (lists_of(path) or [part for part in PARTS if read_tree(path, part)]) * path.is_dir()
    if parts:
        return _octrees(where, path, parts)
    if path.suffix.lower() in ARRAYS:
        return _arrays(where, path)
    if not path.is_dir() and path.suffix.lower() not in (".zip", SUFFIX):
        if path.suffix.lower() in SUFFIXES:
            raise UsageError(f"--data {where}: a single picture; give the folder that it is in")
        try:
            refuse_compressed(path)
        except ValueError as error:
            raise UsageError(f"--data {where}: {error}") from None
        raise UsageError(
            f"--data {where}: nothing that can be trained on, which is a folder, a zip or tars of "
            "pictures, a packed .npy, an .npz, or a folder of octrees; unpack other archives"
        )
    try:
        listing = list_images(path)
    except DdimxError:
        if path.is_dir():
            _refuse_unprepared(where, path)
        raise
    scan = scan_images(path, workers=workers, white=white, listing=listing, progress=progress)
    kind = "TAR" if isinstance(listing.archive, Tars) else "FOLDER"
    classes = scan.classes
    if not classes and scan.labels is not None:
        classes = tuple(str(i) for i in range(int(scan.labels.max()) + 1))
    return DataSet(
        root=where,
        data={"dataset": kind, "root": where, "held_out": len(scan.names) > FEW},
        count=len(scan.names),
        classes=classes,
        # Transparent pictures are put on the background, so that all have 3.
        channels=1 if (scan.channels == 1).all() else 3,
        sides=scan.sizes,
        scan=scan,
    )


def _octrees(where: str, path: Path, parts: Sequence[str]) -> DataSet:
    """Return a prepared set, or the original project's tree, of which these parts are there."""
    prepared = path / "train.jsonl"
    if "train" not in parts:
        raise UsageError(f"--data {where}: octrees of {', '.join(parts)}, but none to train on")
    entries = read_list(prepared) if prepared.is_file() else read_tree(path, "train")
    if not entries:
        raise UsageError(f"--data {where}: train.jsonl names no shape")
    held_out = next((name for name in parts if name != "train"), None)
    return DataSet(
        root=where,
        data={
            "dataset": "OCTREE",
            "root": where,
            "image_size": 1,
            "channels": 1,
            "rescaled": False,
            "max_depth": read_shape(entries[0].file).tree.depth,
            "held_out": held_out is not None,
            **({} if held_out is None else {"test_split": held_out}),
            **({"balance": "family"} if any(entry.variants > 1 for entry in entries) else {}),
        },
        count=len(entries),
        classes=tuple(sorted({entry.category for entry in entries})),
        channels=1,
        sides=np.zeros((0, 2), dtype=np.int32),
    )


def _arrays(where: str, path: Path) -> DataSet:
    """Return a packed set or an .npz, whose images have one size that stays."""
    data = {"dataset": "PACKED" if path.suffix.lower() == ".npy" else "NPZ", "root": where}
    own = DataConfig(**data, image_size=1, channels=1)  # which the images say themselves
    parts = [open_part(own, held_out=held_out) for held_out in (False, True)]
    height, width, channels = parts[0].image_shape
    size = height if height == width else [height, width]
    if channels not in (1, 3, 4):
        raise UsageError(f"--data {where}: images have 1, 3 or 4 channels, and these {channels}")
    labels = [part.labels for part in parts if part.labels is not None]
    classes = parts[0].classes if labels else ()
    if labels and not classes:
        numbers = np.concatenate(labels)
        least, most = int(numbers.min(initial=0)), int(numbers.max(initial=0))
        if least < 0 or most >= MOST_CLASSES:
            raise UsageError(
                f"--data {where}: labels from {least} to {most}; those of classes lie between 0 "
                f"and {MOST_CLASSES - 1}"
            )
        classes = tuple(str(i) for i in range(most + 1))
    return DataSet(
        root=where,
        data=data | {"image_size": size, "channels": channels},
        count=sum(map(len, parts)),
        classes=classes,
        channels=channels,
        sides=np.array([[height, width]], dtype=np.int32),
    )


def _refuse_unprepared(where: str, path: Path) -> None:
    """Say of a folder without pictures what has to be done with the shapes that it holds."""
    try:
        scan = scan_shapes(path)
    except DdimxError:
        return  # then it is said that there are no pictures
    made = f"{path.resolve().name}-octrees"
    arrays = f"; an array of images is named itself, as --data {where}/NAME.npy"
    raise UsageError(
        f"--data {where} holds no pictures, but {scan}. Shapes are trained on as octrees: ddimx "
        f"prepare octrees {where} {made} --depth 5, then ddimx train --data {made}"
        + (arrays if visible_files(path, ARRAYS) else "")
    )


def told(config: Config, source: Examples, held_out: Examples) -> list[str]:
    """Return what a person is told of the data: how many, which classes, what was passed over.

    Args:
        config: the configuration to train with.
        source: the training part.
        held_out: the held-out part, which may be empty.
    """
    what = "octrees" if config.data.octrees else "images"
    scan = source.scan if isinstance(source, FolderSource) else None
    count = len(source) + len(held_out) if scan is None else len(scan)
    rest = f"{len(held_out)} of them held out" if len(held_out) else "none is held out"
    lines = [f"{shortened(config.data.root or config.data.dataset)}: {count} {what}, {rest}"]
    labels = [part.labels for part in (source, held_out) if part.labels is not None]
    if scan is not None:
        labels = [] if scan.labels is None else [scan.labels]
    classes = config.model.classes
    if classes and labels:
        counts = np.bincount(np.concatenate(labels), minlength=len(classes))
        pairs = [f"{shortened(n, 40)} {c}" for n, c in zip(classes, counts, strict=False)]
        lines.append(f"{len(classes)} classes: {_some(pairs)}")
    elif len(source.classes) > 1 and labels:
        lines.append(f"its {len(source.classes)} classes are not used")
    if scan is not None:
        for why, names in scan.skipped.items():
            lines.append(f"{len(names)} skipped, {why}: {_some(list(map(printable, names)))}")
        lines += [*scan.notes, *_resizing(scan.sizes, config.data)]
    return lines


def _resizing(sides: npt.NDArray[np.int32], data: DataConfig) -> list[str]:
    """Return what becomes of pictures of these heights and widths, where that is worth a word."""
    (height, width), count = data.sides, len(sides)
    if not count:
        return []
    # The part of the size's own shape that is cut out, then scaled: above 1 it is enlarged.
    scale = np.maximum(height / sides[:, 0], width / sides[:, 1])
    are, them = ("it is", "it") if count == 1 else ("they are", "them")
    target, lines = f"{width}x{height}", []
    smaller, larger = sides[scale < 0.99], sides[scale > 1.01]
    if len(smaller):
        lines.append(
            f"{_share(len(smaller), count)} shrunk to {target} ({are} {_range(smaller)}); "
            f"a larger --size keeps more of {them}"
        )
    if len(larger):
        lines.append(
            f"{_share(len(larger), count)} enlarged to {target} ({are} {_range(larger)}), "
            "which adds no detail; a smaller --size needs less time"
        )
    shape = (sides[:, 1] / sides[:, 0]) / (width / height)
    cut = sides[(shape > _STRETCHED) | (shape < 1 / _STRETCHED)]
    if len(cut):
        way = "; a --size of their shape, as 64x48, keeps the edges" if len(cut) == count else ""
        lines.append(f"{_share(len(cut), count)} cut at the edges to fit {target}{way}")
    return lines


def _share(count: int, total: int) -> str:
    if total == 1:
        return "the picture is"
    return f"all {total} pictures are" if count == total else f"{count} of {total} pictures are"


def _range(sides: npt.NDArray[np.int32]) -> str:
    """Return the smallest and the largest size, as width x height."""
    areas = sides[:, 0].astype(np.int64) * sides[:, 1]
    texts = [f"{w}x{h}" for h, w in (sides[areas.argmin()], sides[areas.argmax()])]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def _some(names: Sequence[str]) -> str:
    return first_of(names, _SHOWN, 80)
