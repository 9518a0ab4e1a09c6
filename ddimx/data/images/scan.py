"""What the pictures of a folder, a zip or tars are: sizes, channels, and which cannot be read.

:func:`scan_images` opens every picture of a :class:`.listing.Listing` as far as its header, and
decodes the few of which a header does not tell enough.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DdimxError
from ...progress import Progress
from ...untrusted.archives import Archive
from ...untrusted.pictures import open_picture
from ..arrays import Bytes, Integers
from .listing import Listing, list_images, printable
from .picture import View, displayed_size, is_deep

UNREADABLE = "pictures that cannot be read"
# How many pictures of more than 8 bits, and how many with an alpha channel, are decoded.
MOST_DEEP, MOST_ALPHA = 1000, 64
_END = 4096  # bytes at a file's end in which the mark of its end is looked for
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}


@dataclass(frozen=True, eq=False)
class Scan:
    """The pictures of a folder, a zip or tars that can be read, as their headers say.

    Attributes:
        listing: what was scanned.
        names: relative paths, as in :class:`Listing`, without those that cannot be read.
        sizes: int32 [N, 2], height and width as displayed.
        channels: uint8 [N]: 1 gray, 3 color, 4 with transparency.
        classes, labels: as in :class:`Listing`.
        skipped: what is passed over or cannot be read, relative paths by reason.
        errors: why a picture cannot be read, by its name.
        formats: how many pictures there are of each of Pillow's formats.
        notes: what a user should know, in whole sentences.
    """

    listing: Listing
    names: tuple[str, ...]
    sizes: npt.NDArray[np.int32]
    channels: Bytes
    classes: tuple[str, ...]
    labels: Integers | None
    skipped: dict[str, list[str]]
    errors: dict[str, str]
    formats: dict[str, int]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def refuse_unreadable(self) -> None:
        """Raise DdimxError if a picture cannot be read, as ``--strict`` has it."""
        if self.errors:
            name, error = next(iter(self.errors.items()))
            raise DdimxError(
                f"{len(self.errors)} pictures cannot be read, the first: {printable(name)} "
                f"({error}); mend or remove them, or leave --strict away"
            )


@dataclass
class _Header:
    """What was seen of one picture; ``look`` names why it must be decoded."""

    size: tuple[int, int] = (0, 0)
    is_gray: bool = False
    has_alpha: bool = False
    kind: str = ""
    look: str = ""
    error: str = ""
    white: float | None = None


def scan_images(
    root: Path,
    *,
    workers: int,
    white: float | None = None,
    listing: Listing | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Open every picture below a folder, in a zip or in tars as far as its header.

    Decoded are, beside that: pictures whose file ends before its format's mark of the end; those
    of more than 8 bits, to see what is white in them, and those with an alpha channel, to see
    whether it says anything (of these two kinds at most ``MOST_DEEP`` and ``MOST_ALPHA``, evenly
    spread over the set).

    Args:
        workers: threads.
        white: the configuration's ``data.white``.
        listing: of :func:`list_images`, if it is there already.
        progress: counts the headers, where there are many.

    Raises:
        DdimxError: as :func:`list_images`, or none of the pictures of a class can be read.
    """
    listing = listing or list_images(root)
    names = listing.names
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="scan") as pool:
        coming = pool.map(lambda name: _header(listing, name), names)
        bar = progress or Progress(quiet=True)
        headers = list(bar.counted(coming, f"reading headers in {root}", len(names)))
        chosen = [i for i, header in enumerate(headers) if header.look == "end"]
        for reason, most in (("deep", MOST_DEEP), ("alpha", MOST_ALPHA)):
            numbers = [i for i, header in enumerate(headers) if header.look == reason]
            chosen += numbers[:: -(-len(numbers) // most) or 1]
        list(pool.map(lambda i: _look(listing, names[i], headers[i], white), chosen))
    looked_at = [headers[i] for i in chosen if headers[i].look == "alpha"]
    is_opaque = bool(looked_at) and not any(header.has_alpha for header in looked_at)
    errors = {n: h.error for n, h in zip(names, headers, strict=True) if h.error}
    if len(errors) == len(names):
        raise DdimxError(
            f"{root}: none of {len(names)} images can be read: {printable(names[0])} "
            f"({errors[names[0]]})"
        )
    good = [i for i, header in enumerate(headers) if not header.error]
    if listing.labels is not None:
        empty = np.setdiff1d(listing.labels, listing.labels[good])
        if len(empty):
            name = listing.classes[empty[0]] if listing.classes else empty[0]
            raise DdimxError(
                f"{root}: no picture of the class {name} can be read; mend one, or move the folder "
                "away"
            )
    kept = [headers[i] for i in good]
    skipped = listing.skipped | ({UNREADABLE: list(errors)} if errors else {})
    return Scan(
        listing=listing,
        names=tuple(names[i] for i in good),
        sizes=np.array([header.size for header in kept], dtype=np.int32),
        channels=np.array(
            [
                4 if header.has_alpha and not is_opaque else 1 if header.is_gray else 3
                for header in kept
            ],
            dtype=np.uint8,
        ),
        classes=listing.classes,
        labels=None if listing.labels is None else listing.labels[good],
        skipped=skipped,
        errors=errors,
        formats=dict(Counter(header.kind for header in kept).most_common()),
        notes=(*listing.notes, *_whites(kept)),
    )


def _header(listing: Listing, name: str) -> _Header:
    """Open one picture without decoding it."""

    def seen(source: Path | io.BytesIO) -> _Header:
        with open_picture(source) as image:
            gray = image.mode in ("1", "L", "LA", "La") or is_deep(image)
            alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
            look = "deep" if is_deep(image) else "alpha" if alpha else ""
            return _Header(displayed_size(image), gray, alpha, image.format or "", look)

    archive = listing.archive
    try:
        if archive is None:
            path = listing.root / name
            header = seen(path)
        else:
            try:
                header = seen(archive.begin(name))
            except ValueError:  # its header lies further on
                header = seen(listing.stream(name))
        mark = _ENDS.get(header.kind)
        if mark is None or isinstance(archive, Archive):  # a zip has checksums
            return header
        if archive is None:
            with path.open("rb") as stream:
                stream.seek(max(0, path.stat().st_size - _END))
                end = stream.read(_END)
        else:
            end = archive.end(name, _END)
        if mark not in end:
            header.look = "end"
        return header
    except (OSError, ValueError) as error:
        return _Header(error=str(error))


def _look(listing: Listing, name: str, header: _Header, white: float | None) -> None:
    """Decode one picture and note what its header does not say."""
    try:
        with open_picture(listing.stream(name)) as image:
            view = View(image, 4, white=white)
            header.white = view.white
            header.has_alpha = view.alpha() is not None
    except (OSError, ValueError) as error:
        header.error = str(error)


def _whites(headers: Iterable[_Header]) -> list[str]:
    """Return which value was taken for white in pictures of more than 8 bits."""
    counts = Counter(header.white for header in headers if header.white is not None)
    return [
        f"white is {white:g} in {count} pictures of more than 8 bits; data.white=N sets another"
        for white, count in sorted(counts.items())
    ]
