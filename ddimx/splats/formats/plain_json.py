"""``json``: the cloud as it is, for programs and eyes, under the original project's names.

    {"format": "ddimx-splats", "version": 2, "up": "y", "count": N,
     "positions":   [[x, y, z], ...],     in the units of the octree's cube
     "scales":      [[a, b, c], ...],     standard deviations along the Gaussian's own axes
     "quaternions": [[w, x, y, z], ...],  unit, own axes to the file's
     "colors":      [[r, g, b], ...],     sRGB in 0..1
     "opacities":   [a, ...]}             in 0..1

Version 1 said "sigmas", "colours" and "alphas". Numbers are the shortest that read back as the same
float32; "up" is the axis that points up.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt

from ..cloud import GaussianCloud
from .options import EncodeOptions

NAME, VERSION = "ddimx-splats", 2
# The name in a file, and the cloud's.
COLUMNS = {
    "positions": "positions",
    "scales": "sigmas",
    "quaternions": "quaternions",
    "colors": "colors",
    "opacities": "alphas",
}


def encode(cloud: GaussianCloud, options: EncodeOptions) -> bytes:
    """Return the file's bytes."""
    about = {"format": NAME, "version": VERSION, "up": options.up, "count": len(cloud)}
    parts = [json.dumps(about)[:-1]]
    parts += [f'"{name}": {_array(getattr(cloud, own))}' for name, own in COLUMNS.items()]
    return (",\n ".join(parts) + "}\n").encode("ascii")


def _array(values: npt.NDArray[np.float32]) -> str:
    # NumPy writes the shortest decimal that is this float32, slowly; most stand there many times.
    # They are compared by their bits, which tell -0.0 from 0.0.
    bits, places = np.unique(values.view(np.int32), return_inverse=True)
    texts = np.array(bits.view(np.float32).astype(str).tolist(), dtype=object)
    numbers = texts[places].reshape(values.shape)
    if values.ndim == 1:
        return f"[{','.join(numbers.tolist())}]"
    rows = "],[".join(map(",".join, numbers.tolist()))
    return f"[[{rows}]]"
