"""FID, KID, precision and recall of two sets of images, or of statistics that were saved."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...data.images.named import place_of
from ...errors import DdimxError, UsageError
from ...option_values import size_text
from ...progress import Progress
from ...untrusted.arrays import npz_headers
from ...untrusted.text import shown
from .features import Features
from .frechet import Statistics, frechet_distance, read_statistics
from .images import STORED, Images, Size, open_images
from .kid import kid
from .parts import Parts
from .precision_recall import NEIGHBORS, precision_recall

RELIABLE = 10_000  # below, FID's bias of finite samples is as large as what it should show


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
    names = _saved_arrays(path)
    if path is None or not names:
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


def needs_features(where: str) -> bool:
    """Return whether features have to be computed of what :func:`open_set` opens there.

    Raises:
        DdimxError: nothing is there, or an ``.npz`` that cannot be read.
    """
    names = _saved_arrays(place_of(where))
    return not names or ("features" not in names and bool({"arr_0", "images"} & names))


def _saved_arrays(path: Path | None) -> set[str]:
    """Return the names of the arrays in a file of statistics; none of anything else."""
    if path is None or not path.is_file() or path.suffix.lower() != ".npz":
        return set()
    try:
        names = set(npz_headers(path))
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable .npz of plain arrays ({error})") from None
    return names if "mu" in names else set()


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

    Raises:
        DdimxError: as :func:`parts_of` and :meth:`.Parts.statistics`.
    """
    parts = parts_of(images, features, batch_size, progress, strict=strict)
    return statistics_from(images, parts)


def parts_of(
    images: Images | Saved,
    features: Features,
    batch_size: int,
    progress: Progress,
    *,
    strict: bool = False,
) -> Parts | None:
    """Return the images whose features have to be computed, part by part; None if there are none.

    Where a file of statistics holds images instead of their features, these are of them.

    Args:
        strict: refuse images that cannot be decoded, which otherwise are left out and counted.

    Raises:
        DdimxError: statistics of another feature network.
    """
    if isinstance(images, Saved):
        check_network(images.statistics, features, images.label)
        if images.images is None:
            return None
        images = images.images
    for note in images.notes:
        progress.say(note)
    return Parts(images, features, batch_size, progress, strict=strict)


def statistics_from(images: Images | Saved, parts: Parts | None) -> Statistics:
    """Return the statistics of a set; ``parts`` are those of :func:`parts_of`.

    Raises:
        DdimxError: as :meth:`.Parts.statistics`.
    """
    own = None if parts is None else parts.statistics()
    if isinstance(images, Images):
        assert own is not None
        return own
    return images.statistics if own is None else replace(images.statistics, features=own.features)


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
