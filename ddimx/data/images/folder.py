"""Folders, zips and tars of images as a data set: any format Pillow reads, cropped and resized."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..arrays import Bytes
from .encoded import EncodedSource, centered, fingerprint_of, is_held_out
from .listing import list_images
from .scan import Scan, scan_images


class FolderSource(EncodedSource):
    """All images below a folder, in a zip or in tars, in the order of their names, of one size.

    A file is held out by a hash of its relative path, so that adding files moves none of the
    others to the other side of the split. Folders are classes, and tars state them, as
    :func:`.listing.list_images` says.
    """

    def __init__(
        self,
        root: Path,
        *,
        size: int | tuple[int, int],
        held_out: bool,
        workers: int,
        channels: int = 3,
        background: str = "white",
        white: float | None = None,
        strict: bool = False,
        classes: bool = True,
        split: bool = True,
        tars: bool = False,
        scan: Scan | None = None,
    ) -> None:
        """List the images of ``root``; unless ``strict``, no file is opened yet.

        Args:
            size: (height, width), or the side of squares.
            channels, background, white: as :class:`EncodedSource` has them.
            strict: refuse a set with an image that cannot be read. Otherwise :meth:`drawn` takes
                the next of its class.
            classes: whether folders may be classes.
            split: whether there is a held-out part; without, it is empty.
            tars: whether of a folder the tars are read, also where pictures lie beside them.
            scan: of ``root`` with the same ``white``, if it is there already.

        Raises:
            DdimxError: no such folder or archive, no image in it, or, if ``strict``, one that
                cannot be read.
            UsageError: a number of channels that images do not have.
        """
        super().__init__(
            size, workers, channels=channels, background=background, white=white, strict=strict
        )
        self.listing = list_images(root, tars=tars) if scan is None else scan.listing
        self._workers = workers
        names, labels = self.listing.names, self.listing.labels
        part = [i for i, name in enumerate(names) if (split and is_held_out(name)) == held_out]
        self._names = [names[i] for i in part]
        if classes and labels is not None:
            self.labels, self.classes = labels[part], self.listing.classes
        self.fingerprint = fingerprint_of(names)
        if scan is not None:
            self.scan = scan
            self._pass_over(scan)
        if strict:
            self.scan.refuse_unreadable()

    @cached_property
    def scan(self) -> Scan:
        """What the headers of all images say, those of the other part too; read once.

        Raises:
            DdimxError: none of them can be read.
        """
        scan = scan_images(
            self.listing.root, workers=self._workers, white=self._white, listing=self.listing
        )
        self._pass_over(scan)
        return scan

    def _pass_over(self, scan: Scan) -> None:
        """Note which images a scan could not read, so that nothing is said when one is drawn."""
        self.unreadable |= {
            index: f"{self.place(index)}: cannot be read ({scan.errors[name]})"
            for index, name in enumerate(self._names)
            if name in scan.errors
        }

    def __len__(self) -> int:
        return len(self._names)

    def place(self, index: int) -> str:
        """Return the file's path, or the archive and the name in it."""
        return self.listing.place(self._names[index])

    def stream(self, index: int) -> Path | BinaryIO:
        """Return the file's path, or its bytes out of the archive."""
        return self.listing.stream(self._names[index])

    def fitted(self, image: Image.Image) -> Bytes:
        """Crop the center and resize it with a Lanczos filter."""
        return centered(self.view(image), self.size)
