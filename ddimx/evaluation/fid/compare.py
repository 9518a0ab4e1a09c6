"""FID, KID, precision and recall of two sets of images, or of statistics that were saved."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import __version__
from ...data.arrays import Bytes
from ...data.images.named import place_of
from ...errors import DdimxError, UsageError
from ...option_values import size_text
from ...progress import Progress
from ...runs.batches import in_batches
from ...untrusted.arrays import npz_headers
from ...untrusted.text import shown
from ..likelihood.examples import spread
from .features import Features
from .frechet import Accumulator, Statistics, frechet_distance, read_statistics
from .images import SHOWN, STORED, Images, Size, open_images
from .kid import kid
from .precision_recall import NEIGHBORS, precision_recall

RELIABLE = 10_000  # below, FID's bias of finite samples is as large as what it should show
# Images of a set whose features are kept, as many as precision and recall were published with:
# 410 MB of Inception's. Of a larger set they are evenly spread.
KEPT = 50_000


@dataclass(frozen=True, eq=False)
class Saved:
    """Statistics from a file; ``images`` are those of the same file, where it holds some too."""

    label: str
    statistics: Statistics
    images: Images | None


def open_set(
    where: str,
    *,
    size: Size | None = None,
    samples: Images | Saved | None = None,
    settings: Sequence[str] = (),
    split: str | None = None,
    offline: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Images | Saved:
    """Open what can be compared: images, see :func:`.images.open_images`, or saved statistics.

    Args:
        where, size, settings, split, offline, strict, progress: as :func:`.images.open_images`
            has them.
        samples: what it will be compared with. A data set by name is made in their size, and
            statistics of images that were made in another size are refused.

    Raises:
        UsageError, DdimxError: as :func:`.images.open_images`; statistics that were made in
            another way than ``size`` or the samples ask for.
    """
    path = place_of(where)
    wanted = None if samples is None else _known_size(_about(samples))
    images = partial(
        open_images,
        where,
        size=size,
        samples_size=wanted,
        settings=settings,
        split=split,
        offline=offline,
        strict=strict,
        progress=progress,
    )
    if path is None or not path.is_file() or path.suffix.lower() != ".npz":
        return images()
    try:
        names = npz_headers(path).keys()
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable .npz of plain arrays ({error})") from None
    if "mu" not in names:
        return images()
    saved = Saved(where, read_statistics(path), None)
    about = saved.statistics.about
    made = _known_size(about)
    again = "make them again with --save-stats"
    if settings or split is not None:
        option = "--set" if settings else "--split"
        raise UsageError(f"{where}: {option} does not change saved statistics; {again}")
    if size is not None and made != size:
        what = "an unknown size" if made is None else size_text(made)
        raise UsageError(
            f"{where}: statistics of images of {what}, --size is {size_text(size)}; {again}, or "
            "leave --size away"
        )
    way = str(about.get("preprocessing", ""))
    if size is None and made and wanted and made != wanted and not way.endswith(STORED):
        raise UsageError(
            f"{where}: statistics of images that were made in another size ({shown(way)}) than the "
            f"samples have; {again} and --size {size_text(wanted)}, or compare the two sizes all "
            f"the same by --size {size_text(made)}"
        )
    decoding = [one.get("decoding") for one in (about, _about(samples))]
    if all(decoding) and decoding[0] != decoding[1]:
        raise UsageError(
            f"{where}: statistics of pictures that were decoded otherwise ({shown(decoding[0])}) "
            f"than the samples ({shown(decoding[1])}); {again}"
        )
    if saved.statistics.features is None and {"arr_0", "images"} & names:
        saved = replace(saved, images=open_images(where))  # as guided-diffusion's references
    return saved


def statistics_of(
    where: str,
    features: Features,
    batch_size: int,
    progress: Progress,
    *,
    offline: bool = False,
) -> Statistics:
    """Return the statistics that a file holds, or those of images.

    Raises:
        DdimxError: no images, or statistics of another feature network.
    """
    opened = open_set(where, offline=offline, progress=progress)
    return measured(opened, features, batch_size, progress)


def measured(
    images: Images | Saved,
    features: Features,
    batch_size: int,
    progress: Progress,
    *,
    strict: bool = False,
) -> Statistics:
    """Return the statistics of images under a feature network, or those that were saved.

    Where a file of statistics holds images instead of their features, these images give the
    features.

    Raises:
        DdimxError: statistics of another feature network, images of more than one size or none
            that can be decoded, or, if ``strict``, one that cannot be.
    """
    if isinstance(images, Images):
        return measure(images, features, batch_size, progress, strict=strict)
    check_network(images.statistics, features, images.label)
    if images.images is None:
        return images.statistics
    own = measure(images.images, features, batch_size, progress, strict=strict)
    return replace(images.statistics, features=own.features)


def measure(
    images: Images,
    features: Features,
    batch_size: int,
    progress: Progress,
    *,
    strict: bool = False,
) -> Statistics:
    """Return the statistics of images, and the features of at most ``KEPT`` of them.

    Images that cannot be decoded are left out and counted, unless ``strict``.

    Raises:
        DdimxError: images of more than one size, or fewer than two that can be decoded; if
            ``strict``, one that cannot be.
    """
    for note in images.notes:
        progress.say(note)
    progress.start(f"features of {images.label}", len(images))
    unreadable: dict[int, str] = {}

    def computed(numbers: Sequence[int]) -> tuple[list[int], Tensor | None]:
        """Return the numbers of the images that can be decoded, and their features."""
        good: dict[int, Bytes] = {}
        for number, image in zip(numbers, images.each(numbers), strict=True):
            if not isinstance(image, DdimxError):
                good[number] = image
            elif strict:
                raise image
            else:
                unreadable[number] = str(image)
        for image in good.values():
            if image.shape[:2] != images.size:
                sizes = size_text(image.shape), size_text(images.size)
                raise DdimxError(f"{images.label}: images of {sizes[0]} and of {sizes[1]}")
        if not good:
            return [], None
        pixels = torch.from_numpy(np.stack(list(good.values())))
        return list(good), features(pixels.permute(0, 3, 1, 2).contiguous())

    wanted = np.zeros(len(images), dtype=np.bool_)
    wanted[spread(len(images), KEPT)] = True
    total, kept = Accumulator(), []
    for numbers, (good, values) in in_batches(range(len(images)), batch_size, computed):
        if values is not None:
            total.add(values.numpy())
            kept.append(values.numpy()[wanted[good]].astype(np.float32))
        progress.advance(len(numbers), f"{len(unreadable)} unreadable" if unreadable else "")
    progress.stop()
    about = {"images": images.label, **images.about}
    if unreadable:
        some = "; ".join(list(unreadable.values())[:SHOWN])
        progress.say(f"{images.label}: {len(unreadable)} left out: {some}")
        about["unreadable"] = about.get("unreadable", 0) + len(unreadable)
    statistics = total.statistics(about | features.about)
    return replace(statistics, features=np.concatenate(kept))


def check_network(statistics: Statistics, features: Features, where: str) -> None:
    """Refuse statistics that say they were made with another feature network, or other weights.

    Raises:
        DdimxError: they were.
    """
    for key, what in (("network", "the network"), ("weights_sha256", "the network of weights")):
        theirs, ours = statistics.about.get(key), features.about.get(key)
        if theirs is not None and ours is not None and theirs != ours:
            raise DdimxError(f"{where}: statistics of {what} {shown(theirs)}, not of '{ours}'")


def compare(
    samples: Statistics, reference: Statistics, device: torch.device | None = None
) -> dict[str, Any]:
    """Return FID and all that it depends on, as JSON values.

    Where the features of both sets were kept, KID is beside it, and precision and recall if each
    set has more images than a ball has neighbors. Of features of another network than FID's the
    two are called ``frechet_distance`` and ``kernel_distance``, and ``figure`` names the first.

    Args:
        device: where to compute distances.
    """
    figure = samples.about.get("figure")
    is_fid = figure is None
    record: dict[str, Any] = {"ddimx": __version__, **({} if is_fid else {"figure": figure})}
    record["fid" if is_fid else "frechet_distance"] = frechet_distance(samples, reference)
    ours, theirs = samples.features, reference.features
    if ours is not None and theirs is not None:
        record["kid" if is_fid else "kernel_distance"] = asdict(kid(ours, theirs))
        if min(len(ours), len(theirs)) > NEIGHBORS:
            precision, recall = precision_recall(ours, theirs, device=device)
            record |= {"precision": precision, "recall": recall, "neighbors": NEIGHBORS}
        record["features_compared"] = [len(ours), len(theirs)]
    record["samples"] = {"count": samples.count, **samples.about}
    record["reference"] = {"count": reference.count, **reference.about}
    return record


def remarks(samples: Statistics, reference: Statistics) -> list[str]:
    """Return what a reader of the figure should know."""
    notes = []
    if samples.count < RELIABLE:
        what = "the distance" if "figure" in samples.about else "FID"
        notes.append(
            f"note: {what} of {samples.count} samples is biased upwards; papers take 50,000, and "
            "figures of different counts do not compare"
        )
    counts = [count for count in (samples.count, reference.count) if count]
    if counts and min(counts) <= len(samples.mean):
        notes.append(f"note: fewer images than the {len(samples.mean)} features: of low rank")
    if "network" not in reference.about:
        notes.append("note: the reference's statistics do not say which network made them")
    return notes + _differences(samples.about, reference.about)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return in which ways two sets of images differ that the network sees."""
    notes = []
    sizes = [_known_size(about) for about in (ours, theirs)]
    if sizes[0] and sizes[1] and sizes[0] != sizes[1]:
        notes.append(
            f"note: samples of {size_text(sizes[0])}, a reference of {size_text(sizes[1])}: the "
            "network scales both to its own size, so that the figure measures blur as well; "
            f"--size {size_text(sizes[0])} cuts and scales the reference as for training"
        )
    if bool(ours.get("gray")) != bool(theirs.get("gray")):
        gray, color = ("samples", "reference") if ours.get("gray") else ("reference", "samples")
        notes.append(f"note: all images of the {gray} are gray, and the {color} are in color")
    shares = [_share_of_jpegs(about) for about in (ours, theirs)]
    if (shares[0] > 0.5) != (shares[1] > 0.5):
        jpegs, others = ("samples", "reference")[:: 1 if shares[0] > 0.5 else -1]
        notes.append(
            f"note: images of the {jpegs} are JPEGs and those of the {others} are not: the network "
            "sees the compression, which alone can move FID by several points (arXiv 2104.11222)"
        )
    return notes


def _share_of_jpegs(about: Mapping[str, Any]) -> float:
    """Return which share of images are JPEGs that nothing has scaled since."""
    files = about.get("files")
    if not isinstance(files, dict) or not str(about.get("preprocessing")).endswith(STORED):
        return 0.0
    counts = {kind: n for kind, n in files.items() if isinstance(n, int)}
    jpegs = counts.get("JPEG", 0) + counts.get("MPO", 0)
    return jpegs / max(sum(counts.values()), 1)


def _about(images: Images | Saved | None) -> dict[str, Any]:
    if images is None:
        return {}
    return images.about if isinstance(images, Images) else images.statistics.about


def _known_size(about: Mapping[str, Any]) -> Size | None:
    """Return height and width of images that a record tells of, None where it does not say them.

    Up to version 0.2 they stand in the text of the preprocessing only.
    """
    size = about.get("size")
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size):
        return size[0], size[1]
    text = re.match(r"8-bit RGB, (\d{1,6})x(\d{1,6}) ", str(about.get("preprocessing", "")))
    return (int(text[1]), int(text[2])) if text else None
