"""What measuring a likelihood has in common, whether of images or of octrees."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ... import __version__
from ...data.arrays import Integers
from ...data.examples import Examples
from ...weights.model import Model


def spread(total: int, count: int) -> Integers:
    """Return up to ``count`` numbers of examples, evenly spread over 0..total-1, int64."""
    places = np.linspace(0, total - 1, min(count, total))
    return np.unique(places.round().astype(np.int64))


def facts(model: Model, source: Examples, settings: Any, count: int) -> dict[str, Any]:
    """Return what was measured: the model, the data, the settings (a dataclass) and the number."""
    return {
        "ddimx": __version__,
        "model": model.name,
        "model_sha256": model.sha256,
        "weights": model.weights,
        "dtype": model.precision.name,
        "data_fingerprint": source.fingerprint,
        "conditional": bool(model.process.num_classes),
        **asdict(settings),
        "count": count,
    }
