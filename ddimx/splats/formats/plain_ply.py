"""``ply``: a point cloud with sizes, in the fields that the first version of this tool documented.

    x y z scale_x scale_y scale_z    float32: center, linear standard deviations
    red green blue                   uchar: sRGB
    opacity                          float32, linear

No orientation, so flattened Gaussians lose theirs; programs that read point clouds open it, splat
viewers do not (``3dgs`` is for them).
"""

from __future__ import annotations

import io

import numpy as np

from ...errors import DdimxError
from ..cloud import GaussianCloud
from .options import EncodeOptions
from .values import byte

FIELDS = [
    *((name, "<f4") for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z")),
    *((name, "u1") for name in ("red", "green", "blue")),
    ("opacity", "<f4"),
]


def encode(cloud: GaussianCloud, options: EncodeOptions) -> bytes:
    """Return the file's bytes, binary little-endian or as text.

    Raises:
        DdimxError: plyfile is not installed.
    """
    try:
        from plyfile import PlyData, PlyElement
    except ImportError:
        raise DdimxError(
            "--format ply is written with plyfile: pip install 'ddimx[3d]', or choose 3dgs"
        ) from None
    vertices = np.empty(len(cloud), dtype=FIELDS)
    columns = [*cloud.positions.T, *cloud.sigmas.T, *byte(cloud.colors * 255.0).T, cloud.alphas]
    for (name, _), column in zip(FIELDS, columns, strict=True):
        vertices[name] = column
    stream = io.BytesIO()
    element = PlyElement.describe(vertices, "vertex")
    PlyData([element], text=options.text, byte_order="<").write(stream)
    return stream.getvalue()
