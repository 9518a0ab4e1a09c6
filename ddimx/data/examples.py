"""The data set and the batches that a configuration names, images or octrees alike."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..config import Config, DataConfig
from ..noise import Noise
from .batches import Batches, BatchStream
from .images.scan import Scan
from .images.sources import ImageSource, open_source
from .shapes.batches import ShapeBatches
from .shapes.octrees import ShapeSource, open_shapes

Examples: TypeAlias = ImageSource | ShapeSource


def open_examples(
    config: Config, *, held_out: bool = False, strict: bool = False, scan: Scan | None = None
) -> Examples:
    """Open the training or the held-out part of ``config.data``.

    Args:
        strict: refuse a folder of images with one that cannot be read.
        scan: of that folder, if it is there already.

    Raises:
        UsageError: an unknown data set, or one that does not fit the configuration.
        DdimxError: a data set that cannot be read.
    """
    if config.data.octrees:
        return open_shapes(config, held_out=held_out)
    return open_source(config, held_out=held_out, strict=strict, scan=scan)


def open_batches(
    source: Examples,
    data: DataConfig,
    noise: Noise,
    batch_size: int,
    part: tuple[int, int] = (0, 1),
) -> BatchStream[Any]:
    """Return the training batches of a data set, or of each the ``part`` of a rank among ranks."""
    if isinstance(source, ShapeSource):
        return ShapeBatches(source, data, noise, batch_size, part)
    return Batches(source, data, noise, batch_size, part)
