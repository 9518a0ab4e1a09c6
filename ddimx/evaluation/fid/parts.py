"""Features of a set of images, part by part: computed in any order, counted in one.

A part is a fixed range of the images' numbers, which depends on how many images there are and on
nothing else. Whoever computes a part, its features are those of the same batches; and mean and
scatter are taken of the parts in the order of their numbers, each at once (:class:`.Accumulator`,
float64). So one process, and any number of them that share a folder of parts, sum the same numbers
in the same order, and give the same statistics to the last bit. This matters where there are fewer
images than features: FID takes roots of eigenvalues that are 0 but for roundings, so that another
order of summation, 1e-16 apart, is seen in FID's seventh digit.

A part's file holds the features themselves and not their outer product: for 1,000 images of 2,048
features that is 8 MB instead of 34 MB, it is exact, and KID, precision and recall need them anyway.
Only one part is held in memory at a time, beside the features that are kept for these figures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ... import __version__
from ...data.arrays import Bytes, Integers
from ...data.images.listing import SUFFIXES
from ...data.images.named import ARRAYS, place_of
from ...errors import DdimxError
from ...files import folder_contents, suffix_of, whole_file
from ...option_values import size_text
from ...progress import Progress
from ...runs.batches import in_batches
from ...untrusted.arrays import read_npz
from ...untrusted.text import parse_json, shortened
from ..likelihood.examples import spread
from .features import Features
from .frechet import Accumulator, Statistics
from .images import SHOWN, Images

# Images of a set whose features are kept, as many as precision and recall were published with:
# 410 MB of Inception's. Of a larger set they are evenly spread.
KEPT = 50_000
# Images of a part at most, which is what a killed process computes again; the number of parts that
# smaller sets have, so that some processes can share them, as long as that leaves them few batches.
MOST, LEAST, PARTS = 1_000, 100, 16
SCHEMA = 1  # of a part's file; raise it where the division or the meaning of an array changes
ARCHIVES = (*ARRAYS, ".zip", ".tar")  # files in a folder that may hold images


@dataclass(frozen=True, eq=False)
class Part:
    """The features of one part's images.

    Attributes:
        features: float32 or float64 [n, D], as the network gave them; [0, 0] of no image.
        numbers: int64 [n], which images they are of.
        unreadable: why an image could not be decoded, by its number.
    """

    features: npt.NDArray[Any]
    numbers: Integers
    unreadable: dict[int, str]


class Parts:
    """The parts of one set of images under one feature network.

    Args:
        strict: whether an image that cannot be decoded is an error; otherwise it is left out and
            counted.
    """

    def __init__(
        self,
        images: Images,
        features: Features,
        batch_size: int,
        progress: Progress,
        *,
        strict: bool = False,
    ) -> None:
        self.images, self._features, self._progress = images, features, progress
        self._batch_size, self._strict = batch_size, strict
        self._folder: Path | None = None
        self._said: set[str] = set()
        self._name, self._optional, self._identity = "", True, dict[str, Any]()
        total = len(images)
        number = -(-total // min(MOST, max(LEAST, -(-total // PARTS))))
        bounds = [total * part // number for part in range(number + 1)]
        self.ranges = [range(first, stop) for first, stop in pairwise(bounds)]

    def __len__(self) -> int:
        return len(self.ranges)

    def keep(self, folder: Path, name: str, where: str, *, optional: bool) -> None:
        """Keep parts as files ``NAME-00001-of-00050.npz`` in a folder, and take those there.

        Args:
            where: what the images were opened by; the names, sizes and times of its files belong
                to what a part is of.
            optional: whether to go on without files, with a note, where none can be written.
        """
        self._folder, self._name, self._optional = folder, name, optional
        self._identity = {
            "schema": SCHEMA,
            "ddimx": __version__,
            "count": len(self.images),
            "parts": len(self),
            "files": fingerprint(where, self.images),
            "images": self.images.about,
            "network": self._features.about,
        }

    @property
    def identity(self) -> Mapping[str, Any]:
        """What these are parts of, as JSON values; empty where none are kept."""
        return self._identity

    def path(self, number: int) -> Path | None:
        """Return where part ``number``, from 0, is kept."""
        if self._folder is None:
            return None
        return self._folder / f"{self._name}-{number + 1:05d}-of-{len(self):05d}.npz"

    def is_there(self, number: int) -> bool:
        """Return whether a part's file says that it is a part of these images.

        What is none, or damaged at first sight, is said; its features are not read.
        """
        return self._opened(number, ("about",)) is not None

    def fill(
        self, numbers: Sequence[int], what: str = "", is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """Compute those of these parts that are not there, and write each as soon as it is.

        Args:
            what: stands beside the set's name in the progress.
            is_over: whether nobody needs them any more, asked before each.

        Raises:
            DdimxError: see :meth:`make`; a part cannot be written.
        """
        absent = [number for number in numbers if not self.is_there(number)]
        if not absent:
            return
        total = sum(len(self.ranges[number]) for number in absent)
        self._progress.start(f"features of {self.images.label}{what}", total)
        for number in absent:
            if is_over():
                break
            if self.is_there(number):  # another process, of a launch of another size, was faster
                self._progress.advance(len(self.ranges[number]))
            else:
                self.make(number)
        self._progress.stop()

    def make(self, number: int) -> Part:
        """Compute a part, and write it where parts are kept.

        Raises:
            DdimxError: images of another size than the set's; one that cannot be decoded, if
                ``strict``; no memory for a single image; the file cannot be written.
        """
        images, unreadable = self.images, dict[int, str]()

        def computed(numbers: Sequence[int]) -> tuple[list[int], Tensor | None]:
            """Return the numbers of the images that can be decoded, and their features."""
            good: dict[int, Bytes] = {}
            for one, image in zip(numbers, images.each(numbers), strict=True):
                if not isinstance(image, DdimxError):
                    good[one] = image
                elif self._strict:
                    raise image
                else:
                    unreadable[one] = str(image)
            for image in good.values():
                if image.shape[:2] != images.size:
                    sizes = size_text(image.shape), size_text(images.size)
                    raise DdimxError(f"{images.label}: images of {sizes[0]} and of {sizes[1]}")
            if not good:
                return [], None
            pixels = torch.from_numpy(np.stack(list(good.values())))
            return list(good), self._features(pixels.permute(0, 3, 1, 2).contiguous())

        def halved(size: int) -> None:
            self._batch_size = size  # of the parts that follow as well

        # Batches of one size: a network computes few images by other kernels, with other roundings,
        # and what are few to it depends on the number of threads.
        own = self.ranges[number]
        size = -(-len(own) // -(-len(own) // self._batch_size))
        numbers, batches = list[int](), list[npt.NDArray[Any]]()
        for asked, (good, values) in in_batches(own, size, computed, halved=halved):
            if values is not None:
                numbers += good
                batches.append(values.numpy())
            note = f"{len(unreadable)} unreadable" if unreadable else ""
            self._progress.advance(len(asked), note)
        features = np.concatenate(batches) if batches else np.zeros((0, 0), np.float32)
        part = Part(features, np.array(numbers, dtype=np.int64), unreadable)
        self._write(number, part)
        return part

    def read(self, number: int) -> Part | None:
        """Return a part from its file; None, and said why, where it is not usable."""
        arrays = self._opened(number, ("about", "features", "numbers"))
        if arrays is None:
            return None
        features, numbers = arrays["features"], arrays["numbers"]
        unreadable = {int(key): str(why) for key, why in arrays["about"]["unreadable"].items()}
        expected = [i for i in self.ranges[number] if i not in unreadable]
        if features.ndim != 2 or features.dtype.kind != "f" or numbers.dtype != np.int64:
            self._refused(number, f"features {features.dtype} {list(features.shape)}")
        elif numbers.shape != (len(features),) or numbers.tolist() != expected:
            self._refused(number, "features of other images than its own")
        else:
            return Part(features, numbers, unreadable)
        return None

    def statistics(self) -> Statistics:
        """Return the statistics of all parts, and the features of at most ``KEPT`` images.

        A part that is not there is computed.

        Raises:
            DdimxError: see :meth:`make`; fewer than two images that can be decoded; files of parts
                that do not fit together.
        """
        images, progress = self.images, self._progress
        progress.start(f"features of {images.label}", len(images))
        wanted = np.zeros(len(images), dtype=np.bool_)
        wanted[spread(len(images), KEPT)] = True
        total, kept, unreadable = Accumulator(), list[npt.NDArray[np.float32]](), dict[int, str]()
        for number, numbers in enumerate(self.ranges):
            part = self.read(number)
            if part is None:
                part = self.make(number)
            else:
                progress.advance(len(numbers))
            if len(part.features):
                if kept and part.features.shape[1] != kept[0].shape[1]:
                    raise DdimxError(
                        f"{self.path(number)}: features of {part.features.shape[1]} numbers, those "
                        f"of other parts have {kept[0].shape[1]}; remove its folder"
                    )
                total.add(part.features)
                kept.append(part.features[wanted[part.numbers]].astype(np.float32))
            unreadable |= part.unreadable
        progress.stop()
        about = {"images": images.label, **images.about}
        if unreadable:
            some = "; ".join(list(unreadable.values())[:SHOWN])
            progress.say(f"{images.label}: {len(unreadable)} left out: {some}")
            about["unreadable"] = about.get("unreadable", 0) + len(unreadable)
        about |= {**self._features.about, "parts": len(self), "ddimx": __version__}
        return replace(total.statistics(about), features=np.concatenate(kept))

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove the files of these parts."""
        for number in numbers:
            if (path := self.path(number)) is not None:
                path.unlink(missing_ok=True)

    def _opened(self, number: int, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Return arrays of a part's file, ``about`` as a mapping; None where it is not usable."""
        path = self.path(number)
        if path is None:
            return None
        try:
            arrays: dict[str, Any] = read_npz(path, names)
            about = parse_json(str(arrays["about"].item()))
            identity, unreadable = about["identity"], about["unreadable"]
            if not isinstance(identity, dict) or not isinstance(unreadable, dict):
                raise ValueError("'about' is not as expected")
            if len(arrays) < len(names):
                raise ValueError("an array is missing")
            if any(int(key) not in self.ranges[number] for key in unreadable):
                raise ValueError("'unreadable' names other images")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            self._refused(number, f"damaged ({shortened(str(error))})")
            return None
        ours = json.loads(json.dumps(self._identity))
        other = [key for key in {**ours, **identity} if ours.get(key) != identity.get(key)]
        if other:
            self._refused(number, f"of another measurement ({', '.join(sorted(other))} differ)")
            return None
        if self._strict and unreadable:
            return None  # computing it again finds the image, and says which it is
        return arrays | {"about": about}

    def _refused(self, number: int, why: str) -> None:
        message = f"{self.path(number)}: {why}; this part is made again"
        if message not in self._said:
            self._progress.say(message)
        self._said.add(message)

    def _write(self, number: int, part: Part) -> None:
        path = self.path(number)
        if path is None:
            return
        about = {"identity": self._identity, "unreadable": part.unreadable}
        arrays = {"features": part.features, "numbers": part.numbers}
        try:
            with whole_file(path) as unfinished, unfinished.open("wb") as stream:
                np.savez(stream, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            reason = f"cannot write {path}: {error.strerror or error}"
            if not self._optional:
                raise DdimxError(
                    f"{reason}; DDIMX_CACHE names another folder, the same for all processes"
                ) from None
            self._folder = None
            self._progress.say(f"{reason}; going on without, all is computed again after an end")


def fingerprint(where: str, images: Images | None = None) -> str:
    """Return a hash over the images' files: names, sizes, times of change, and what is known else.

    Without ``images`` it is over the files alone, such as one of saved statistics.

    The pixels are not hashed: that would cost every one of many processes a reading of all files.
    """
    digest = hashlib.sha256(b"" if images is None else images.source.fingerprint.encode())
    path = place_of(where)
    if path is not None:
        names = [""]
        if path.is_dir():
            names = [n for n in folder_contents(path)[0] if suffix_of(n) in {*SUFFIXES, *ARCHIVES}]
        for name in sorted(names):
            status = os.stat(path / name)
            digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))
    return digest.hexdigest()
