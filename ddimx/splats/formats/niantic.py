"""``spz``: Niantic's compressed splats, version 3, which is one gzip stream.

Sixteen bytes of header, then columns: positions (24-bit fixed point), alphas, colors, log scales
(a byte each) and rotations (the three smallest parts of the quaternion in 10 bits each). The frame
is RUB by specification: x right, y up, z towards the viewer: a shape that is y up stays as it is.
"""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import numpy.typing as npt

from ...errors import DdimxError
from ..cloud import GaussianCloud
from .options import EncodeOptions
from .values import byte, harmonic0

MAGIC, VERSION = 0x5053474E, 3  # "NGSP"
FRACTION_BITS = 12  # what other writers use; more where Gaussians are small, fewer where far away
STEPS = 4  # a standard deviation is at least so many steps of the fixed point
POSITION_LIMIT = 2**23 - 1
COLOR_SCALE = 0.15
SCALE_STEPS, SCALE_SHIFT = 16, 10  # byte = 16 (ln sigma + 10)
GZIP_HEADER = bytes.fromhex("1f8b08 00 00000000 00 ff")  # deflate, no name, no time, no system
LEVEL = 6


def encode(cloud: GaussianCloud, options: EncodeOptions) -> bytes:
    """Return the file's bytes.

    Raises:
        DdimxError: a position or a size that the format cannot hold.
    """
    bits = fraction_bits(cloud)
    header = struct.pack("<3I4B", MAGIC, VERSION, len(cloud), options.sh_degree, bits, 0, 0)
    scaled = cloud.positions.astype(np.float64) * 2.0**bits
    fixed = (np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)).astype("<i4")  # as C's round
    values = SCALE_STEPS * (np.log(cloud.sigmas.astype(np.float64)) + SCALE_SHIFT)
    if values.min() < -0.5 or values.max() >= 255.5:
        low, high = math.exp(-SCALE_SHIFT), math.exp(255 / SCALE_STEPS - SCALE_SHIFT)
        raise DdimxError(
            f"spz holds standard deviations from {low:.2g} to {high:.0f}, not "
            f"{cloud.sigmas.min():g} to {cloud.sigmas.max():g}; choose another format"
        )
    columns = [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
        byte(cloud.alphas * 255.0).tobytes(),
        byte(harmonic0(cloud.colors) * (COLOR_SCALE * 255) + 127.5).tobytes(),
        byte(values).tobytes(),
        rotations(cloud.quaternions).tobytes(),
    ]
    if options.sh_degree:
        columns.append(b"\x80" * (45 * len(cloud)))  # 128 is zero
    return _gzip(b"".join([header, *columns]))


def fraction_bits(cloud: GaussianCloud) -> int:
    """Return how many bits of a coordinate stand behind the point.

    Raises:
        DdimxError: no number of bits holds both the farthest position and the smallest Gaussian.
    """
    farthest = float(np.abs(cloud.positions).max())
    finest = STEPS / float(cloud.sigmas.min())
    room = math.floor(math.log2(POSITION_LIMIT / farthest)) if farthest > 0 else 23
    bits = min(max(FRACTION_BITS, math.ceil(math.log2(finest))), room, 23)
    if bits < 0 or 2.0**-bits > 2 * float(cloud.sigmas.min()):
        raise DdimxError(
            f"spz holds coordinates in 24 bits: too few for positions up to {farthest:g} with "
            f"Gaussians of {cloud.sigmas.min():g}; choose another format, or scale the shape"
        )
    return bits


def rotations(quaternions: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Pack quaternions (w, x, y, z) [N, 4] into "<u4" [N].

    Two bits name the largest part in the order x, y, z, w; the others follow in that order, each a
    bit of sign and nine of magnitude up to sqrt(1/2). The quaternion's sign is such that the
    largest part is positive.
    """
    q = quaternions.astype(np.float64)[:, [1, 2, 3, 0]]
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    largest = np.abs(q).argmax(axis=1)
    q = q * np.where(np.take_along_axis(q, largest[:, None], axis=1) < 0, -1, 1)
    magnitude = np.floor(511 * np.abs(q) / math.sqrt(0.5) + 0.5).astype(np.uint32)
    parts = ((q < 0).astype(np.uint32) << 9) | np.minimum(magnitude, 511)
    packed = largest.astype(np.uint32)
    for i in range(4):
        packed = np.where(largest == i, packed, (packed << 10) | parts[:, i])
    result: npt.NDArray[np.uint32] = packed.astype("<u4")
    return result


def _gzip(data: bytes) -> bytes:
    """Compress without time, name or operating system, so that equal clouds give equal files."""
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    return GZIP_HEADER + body + struct.pack("<2I", zlib.crc32(data), len(data) & 0xFFFFFFFF)
