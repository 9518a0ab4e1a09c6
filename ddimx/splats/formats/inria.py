"""``3dgs``: the PLY of the original Gaussian splatting (INRIA), which every viewer opens.

Binary little-endian, all float32: x y z, normals (zero), f_dc_0..2 (harmonics of degree 0),
f_rest_0..44 (zero), opacity (its logit), scale_0..2 (natural logarithms), rot_0..3 (w, x, y, z).
The header holds no comment and ends its lines with LF: loaders fail on both.

Degree 3 is the default, for INRIA's own loader and Blender's add-on demand all 45 ``f_rest``
(graphdeco-inria/gaussian-splatting, scene/gaussian_model.py; ReshotAI/gaussian-splatting-blender-
addon), though it makes 248 bytes of a Gaussian, and degree 0 makes 68. Coefficients are ordered by
channel, so that with another degree all names but the first mean something else.
"""

from __future__ import annotations

import numpy as np

from ..cloud import GaussianCloud
from .options import EncodeOptions, rest_count
from .values import harmonic0, logit

DEGREE = 3


def fields(sh_degree: int) -> list[str]:
    """Return the names of a vertex's properties in their order: 17 at degree 0, 62 at degree 3."""
    rest = [f"f_rest_{i}" for i in range(rest_count(sh_degree))]
    color = [f"f_dc_{i}" for i in range(3)]
    shape = [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    return ["x", "y", "z", "nx", "ny", "nz", *color, *rest, "opacity", *shape]


def encode(cloud: GaussianCloud, options: EncodeOptions) -> bytes:
    """Return the file's bytes."""
    names = fields(DEGREE if options.sh_degree is None else options.sh_degree)
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud)}"]
    lines += [f"property float {name}" for name in names]
    header = "\n".join([*lines, "end_header", ""]).encode("ascii")
    table = np.zeros((len(cloud), len(names)), dtype="<f4")
    table[:, 0:3] = cloud.positions
    table[:, 6:9] = harmonic0(cloud.colors)
    table[:, -8] = logit(cloud.alphas)
    table[:, -7:-4] = np.log(cloud.sigmas.astype(np.float64))
    table[:, -4:] = cloud.quaternions
    return b"".join([header, table.data])  # one copy: with harmonics this is 40 MB of a large shape
