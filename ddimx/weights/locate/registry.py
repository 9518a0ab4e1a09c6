"""The published weights that the DDIM paper's code samples from, by name.

Addresses and MD5 sums are those of pesser/pytorch_diffusion, as ermongroup/ddim's code repeats
them: DDPM's TensorFlow weights, converted to PyTorch. None of the files is part of this package.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...config import Config
from ...config_file import load_config
from ...errors import UsageError
from ...progress import Progress
from ..weight_set import Which
from .cache import cache_folder, fetch

_HOST = "https://heibox.uni-heidelberg.de/f/"


@dataclass(frozen=True)
class File:
    """One published file: its path (below a mirror and the cache), address and MD5."""

    path: str
    address: str
    md5: str

    @property
    def target(self) -> Path:
        """Where the cache keeps it."""
        return cache_folder() / self.path

    @property
    def source(self) -> str:
        """Where it is downloaded from: ``DDIMX_MIRROR`` if set, else its publisher."""
        mirror = os.environ.get("DDIMX_MIRROR", "").rstrip("/")
        if mirror and not mirror.startswith(("http://", "https://")):
            raise UsageError(f"DDIMX_MIRROR={mirror}: write http://... or https://...")
        return f"{mirror}/{self.path}" if mirror else self.address


@dataclass(frozen=True)
class Published:
    """A model's two files, and the configuration they were trained with."""

    config: str
    settings: tuple[str, ...]
    files: dict[Which, File]

    def load_config(self) -> Config:
        """Return the configuration, with what differs from the shipped one."""
        return load_config(self.config, self.settings)


def _file(path: str, key: str, md5: str) -> File:
    return File(path, f"{_HOST}{key}/?dl=1", md5)


def _published(
    name: str, step: int, ema: tuple[str, str], raw: tuple[str, str], config: str, *settings: str
) -> Published:
    """Build an entry; ``ema`` and ``raw`` are (key in the address, MD5)."""
    folder = f"diffusion_{name}_model"
    return Published(
        config,
        settings,
        {
            "ema": _file(f"ema_{folder}/model-{step}.ckpt", *ema),
            "raw": _file(f"{folder}/model-{step}.ckpt", *raw),
        },
    )


PUBLISHED: dict[str, Published] = {
    "cifar10": _published(
        "cifar10",
        790000,
        ("2e4f01e2d9ee49bab1d5", "1fa350b952534ae442b1d5235cce5cd3"),
        ("869980b53bf5416c8a28", "82ed3067fd1002f5cf4c339fb80c4669"),
        "cifar10",
    ),
    "bedroom": _published(
        "lsun_bedroom",
        2388000,
        ("b95206528f384185889b", "1921fa46b66a3665e450e42f36c2720f"),
        ("f179d4f21ebc4d43bbfe", "f70280ac0e08b8e696f42cb8e948ff1c"),
        "bedroom",
    ),
    "cat": _published(
        "lsun_cat",
        1761000,
        ("0701aac3aa69457bbe34", "646f23f4821f2459b8bafc57fd824558"),
        ("fac870bd988348eab88e", "bbee0e7c3d7abfb6e2539eaf2fb9987b"),
        "bedroom",
        "data.category=cat",
    ),
    "church": _published(
        "lsun_church",
        4432000,
        ("44ccb50ef3c6436db52e", "fdc68a23938c2397caba4a260bc2445f"),
        ("2711a6f712e34b06b9d8", "eb619b8a5ab95ef80f94ce8a5488dae3"),
        "church",
    ),
}
# ermongroup/ddim's own training. It is offered through a web page that a program cannot download
# from, and no checksum of it is published.
CELEBA = "celeba"
CELEBA_PAGE = "https://drive.google.com/file/d/1R_H-fJYXSH79wfSKs9D-fuKQVan5L-GR"
NAMES = (*PUBLISHED, CELEBA)


def celeba_place() -> Path:
    """Where the CelebA checkpoint is looked for."""
    return cache_folder() / "celeba" / "ckpt.pth"


def published_file(name: str, which: Which | None, *, offline: bool, progress: Progress) -> Path:
    """Return the verified local file of a published name, downloading it if needed.

    Raises:
        DdimxError: it cannot be downloaded, or is damaged.
        UsageError: CelebA, of which there is no copy in the cache; a set that was not published.
    """
    if name == CELEBA:
        place = celeba_place()
        if place.is_file():
            return place
        raise UsageError(
            "the CelebA checkpoint cannot be downloaded by a program, and no checksum of it is "
            f"published. Get it with a browser from\n  {CELEBA_PAGE}\n"
            f"  and give its path with --model, or put it at\n  {place}"
        )
    file = PUBLISHED[name].files.get(which or "ema")
    if file is None:
        raise UsageError(f"--weights {which}: of {name} only ema and raw are published")
    return fetch(file.target, file.source, file.md5, offline=offline, progress=progress)


def about_published() -> dict[str, dict[str, str]]:
    """Return every published file with its address, MD5 and whether it is in the cache."""
    facts = {}
    for name, entry in PUBLISHED.items():
        for which, file in entry.files.items():
            state = "in the cache" if file.target.is_file() else "not downloaded"
            facts[f"{name}, {which}"] = {"address": file.source, "md5": file.md5, "state": state}
    state = "in the cache" if celeba_place().is_file() else "to be fetched by hand"
    facts[CELEBA] = {"address": CELEBA_PAGE, "md5": "not published", "state": state}
    return facts
