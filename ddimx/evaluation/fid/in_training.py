"""The Fréchet distance of a run's samples to its training images, while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...config import Config
from ...data.arrays import Bytes
from ...data.examples import Examples
from ...data.shapes.octrees import ShapeSource
from ...errors import DdimxError, UsageError
from ...option_values import size_text
from ...progress import Progress
from . import features as networks
from .compare import check_network, measured
from .frechet import Accumulator, Statistics, frechet_distance, read_statistics, write_statistics
from .images import Images, Pixels

STATISTICS = "fid-reference.npz"  # in a run's folder: of its training images
BATCH = 50  # images whose features are computed together


def open_distance(
    config: Config,
    source: Examples,
    device: torch.device,
    offline: bool,
    progress: Progress,
) -> TrainingDistance:
    """Return what measures a run, as :class:`ddimx.training.measure.OpenDistance` says."""
    if isinstance(source, ShapeSource):
        raise UsageError("training.fid_every is for images")
    channels = source.image_shape[2]
    if channels not in (1, 3, 4):
        raise UsageError(f"training.fid_every: FID needs 3 colors, the images have {channels}")
    name = config.training.fid_features
    features: networks.Features
    if name == networks.LITE:
        features = networks.EfficientNetLite(device)
    else:
        weights = None if name == "inception" else Path(name)
        features = networks.inception(weights, device, offline=offline, progress=progress)
    height, width, _ = source.image_shape
    about = {"preprocessing": f"as for training, {size_text((height, width))}"}
    images = Images("the training images", source, (height, width), about)
    return TrainingDistance(images, source.fingerprint, features, progress)


class TrainingDistance:
    """The squared Fréchet distance on features of one network.

    The training images are measured before the first samples, and their statistics kept in the
    run's folder, so that a run that goes on takes them from there.
    """

    def __init__(
        self, images: Images, fingerprint: str, features: networks.Features, progress: Progress
    ) -> None:
        """Measure ``images``, whose bytes ``fingerprint`` tells, when they are needed."""
        self._images, self._fingerprint = images, fingerprint
        self._features, self._progress = features, progress
        self._reference: Statistics | None = None
        figure = features.about.get("figure")
        self.key = "fid" if figure is None else "frechet_distance"
        self.name = "FID" if figure is None else str(figure)

    def __call__(self, pictures: Iterator[Bytes], folder: Path) -> float:
        """Return the distance of pictures, uint8 [B, H, W, C], to the training images.

        ``folder`` is the run's.

        Raises:
            DdimxError: fewer than two images on one side, or features that are not finite.
        """
        file = folder / STATISTICS
        if self._reference is None:
            self._reference = self._known(file) or self._measured(file)
        total = Accumulator()
        for batch in pictures:
            rgb = replace(self._images, source=Pixels(batch)).read(range(len(batch)))
            pixels = torch.from_numpy(rgb).permute(0, 3, 1, 2).contiguous()
            for start in range(0, len(pixels), BATCH):
                total.add(self._features(pixels[start : start + BATCH]).numpy())
        samples = total.statistics({"images": "samples", **self._features.about})
        return frechet_distance(samples, self._reference)

    def _known(self, file: Path) -> Statistics | None:
        """Return the statistics of the run's folder, if they are of these images and features."""
        if not file.is_file():
            return None
        try:
            statistics = read_statistics(file)
            check_network(statistics, self._features, str(file))
        except DdimxError:
            return None  # they are made again
        same = statistics.about.get("data_sha256") == self._fingerprint
        size = statistics.about.get("preprocessing") == self._images.about["preprocessing"]
        return statistics if same and size else None

    def _measured(self, file: Path) -> Statistics:
        """Measure the training images and keep what that gives, where it can be written."""
        count = len(self._images)
        self._progress.say(f"{self.name}: measuring {count:,} training images, once")
        quiet = Progress(quiet=True)  # the bar is training's
        statistics = measured(self._images, self._features, BATCH, quiet)
        about: dict[str, Any] = {**statistics.about, "data_sha256": self._fingerprint}
        statistics = replace(statistics, about=about, features=None)
        try:
            write_statistics(file, statistics)
        except OSError as error:
            reason = error.strerror or error
            self._progress.say(f"cannot write {file}: {reason}; training goes on")
        return statistics
