"""``splat``: antimatter15's 32 bytes a splat, with neither header nor harmonics.

Three float32 of position and three of *linear* scale, then RGBA and the quaternion (w, x, y, z) as
bytes, 128 + 128 q. The most important come first, as viewers show what has arrived: sorted by
volume times opacity. Bytes are rounded, where the original cuts off, so that #rrggbb survives.
"""

from __future__ import annotations

import numpy as np

from ..cloud import GaussianCloud
from .options import EncodeOptions
from .values import byte

RECORD = [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)]


def encode(cloud: GaussianCloud, _options: EncodeOptions) -> bytes:
    """Return the file's bytes."""
    importance = np.prod(cloud.sigmas.astype(np.float64), axis=1) * cloud.alphas
    order = np.argsort(-importance, kind="stable")
    records = np.empty(len(cloud), dtype=RECORD)
    records["position"] = cloud.positions[order]
    records["scale"] = cloud.sigmas[order]
    rgba = np.column_stack([cloud.colors, cloud.alphas])[order]
    records["rgba"] = byte(rgba * 255.0)
    records["rotation"] = byte(cloud.quaternions[order] * 128.0 + 128.0)
    return records.tobytes()
