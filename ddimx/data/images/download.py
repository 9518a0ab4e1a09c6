"""Getting a published data set that a program may download: CIFAR-10's archive."""

from __future__ import annotations

from pathlib import Path

from ...config import DataConfig
from ...progress import Progress
from ...weights.locate.cache import fetch
from ...weights.locate.registry import File
from . import cifar10
from .sources import location


def obtain(data: DataConfig, *, offline: bool, progress: Progress) -> None:
    """Download what a data set lacks in its usual place, and check its MD5.

    A ``data.root`` is the user's own place: nothing is put there. The other data sets are offered
    through pages that ask for consent, or are too large to be fetched unasked; their sources say
    where to get them.

    Raises:
        DdimxError: offline, or the download failed.
    """
    root = Path(location(data)) if data.dataset.upper() == "CIFAR10" else None
    if root is None or data.root is not None or cifar10.place_of(root) is not None:
        return
    file = File(cifar10.ARCHIVE, cifar10.ADDRESS, cifar10.MD5)
    fetch(root / cifar10.ARCHIVE, file.source, file.md5, offline=offline, progress=progress)
