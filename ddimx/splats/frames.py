"""Which axis is up: octrees are y up, files are what their readers take them to be.

Splat viewers take PLY and .splat for COLMAP's frame, y down and z forward (RDF), glTF and spz are
y up by specification, and modelling programs like z up. All of these are turns, never mirrors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import unknown

UPS = {
    "y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),  # as it is
    "-y": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),  # half a turn about x: (x, -y, -z)
    "z": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),  # a quarter about x: (x, -z, y); the front is -y
}


def rotation_to(up: str) -> npt.NDArray[np.float64]:
    """Return the rotation from y up to ``up``, float64 [3, 3].

    Raises:
        UsageError: an axis other than y, z, -y.
    """
    if up not in UPS:
        raise unknown("axis for --up", up, UPS)
    return np.array(UPS[up], dtype=np.float64)
