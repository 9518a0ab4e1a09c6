"""``json``: the cloud as it is, for programs and eyes.

    {"format": "ddimx-splats", "version": 1, "up": "y", "count": N,
     "positions":   [[x, y, z], ...],     in the units of the octree's cube
     "sigmas":      [[a, b, c], ...],     standard deviations along the Gaussian's own axes
     "quaternions": [[w, x, y, z], ...],  unit, own axes to the file's
     "colours":     [[r, g, b], ...],     sRGB in 0..1; spelled so in version 1
     "alphas":      [a, ...]}             opacity in 0..1

Numbers are the shortest that read back as the same float32; "up" is the axis that points up.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt

from ..cloud import GaussianCloud
from .options import EncodeOptions

NAME, VERSION = "ddimx-splats", 1
# The name in a file, and the cloud's.
COLUMNS = {
    "positions": "positions",
    "sigmas": "sigmas",
    "quaternions": "quaternions",
    "colours": "colors",
    "alphas": "alphas",
}


def encode(cloud: GaussianCloud, options: EncodeOptions) -> bytes:
    """Return the file's bytes."""
    about = {"format": NAME, "version": VERSION, "up": options.up, "count": len(cloud)}
    parts = [json.dumps(about)[:-1]]
    parts += [f'"{name}": {_array(getattr(cloud, own))}' for name, own in COLUMNS.items()]
    return (",\n ".join(parts) + "}\n").encode("ascii")


def _array(values: npt.NDArray[np.float32]) -> str:
    numbers = values.astype(str)  # numpy writes the shortest decimal that is this float32
    if values.ndim == 1:
        return f"[{','.join(numbers.tolist())}]"
    rows = "],[".join(map(",".join, numbers.tolist()))
    return f"[[{rows}]]"
