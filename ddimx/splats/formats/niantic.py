"""``spz``: Niantic's compressed splats, in the versions 2, 3 and 4 (nianticlabs/spz).

Columns: positions (24-bit fixed point), alphas, colors, log scales (a byte each), rotations, and
harmonics above degree 0 where there are any. Rotations are x, y, z in a byte each in version 2, the
three smallest parts of the quaternion in 10 bits each later. Up to version 3 sixteen bytes of
header and the columns are one gzip stream; version 4 has 32 bytes of plain header, a table of the
columns' sizes (compressed, unpacked) and each column as a Zstandard frame of its own.

The frame is RUB by specification: x right, y up, z towards the viewer: a shape that is y up stays
as it is.
"""

from __future__ import annotations

import importlib
import math
import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from ...errors import DdimxError, MissingPackage
from ..cloud import GaussianCloud
from .options import EncodeOptions, rest_count
from .values import byte, harmonic0

MAGIC, VERSION = 0x5053474E, 3  # "NGSP"; 3 is what most readers know
ZSTD_VERSION, ZSTD_LEVEL, HEADER_SIZE = 4, 12, 32
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
        MissingPackage: version 4 without Zstandard.
    """
    bits = fraction_bits(cloud)
    version = VERSION if options.spz_version is None else options.spz_version
    degree = options.sh_degree or 0
    scaled = cloud.positions.astype(np.float64) * 2.0**bits
    fixed = (np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)).astype("<i4")  # as C's round
    values = SCALE_STEPS * (np.log(cloud.sigmas.astype(np.float64)) + SCALE_SHIFT)
    if values.min() < -0.5 or values.max() >= 255.5:
        low, high = math.exp(-SCALE_SHIFT), math.exp(255 / SCALE_STEPS - SCALE_SHIFT)
        raise DdimxError(
            f"spz holds standard deviations from {low:.2g} to {high:.0f}, not "
            f"{cloud.sigmas.min():g} to {cloud.sigmas.max():g}; --unit changes the size, or choose "
            "another format"
        )
    columns = [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(),
        byte(cloud.alphas * 255.0).tobytes(),
        byte(harmonic0(cloud.colors) * (COLOR_SCALE * 255) + 127.5).tobytes(),
        byte(values).tobytes(),
        (three_bytes if version == 2 else rotations)(cloud.quaternions).tobytes(),
    ]
    if degree:
        columns.append(b"\x80" * (rest_count(degree) * len(cloud)))  # 128 is zero
    # The last byte is reserved up to version 3, and counts the columns in version 4.
    last = len(columns) if version == ZSTD_VERSION else 0
    header = struct.pack("<3I4B", MAGIC, version, len(cloud), degree, bits, 0, last)
    if version != ZSTD_VERSION:
        return _gzip(b"".join([header, *columns]))
    compress = zstd()
    frames = [compress(column) for column in columns]
    sizes = [n for pair in zip(frames, columns, strict=True) for n in map(len, pair)]
    head = header + struct.pack("<I12x", HEADER_SIZE) + struct.pack(f"<{len(sizes)}Q", *sizes)
    return b"".join([head, *frames])


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
            f"Gaussians of {cloud.sigmas.min():g}; --center puts the shape at the origin, --unit "
            "changes its size; or choose another format"
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


def three_bytes(quaternions: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Pack quaternions (w, x, y, z) [N, 4] as version 2 does: x, y, z of the sign with w >= 0."""
    q = quaternions.astype(np.float64)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    return byte(q[:, 1:] * np.where(q[:, :1] < 0, -127.5, 127.5) + 127.5)


def zstd() -> Callable[[bytes], bytes]:
    """Return what makes a Zstandard frame: of Python 3.14's own, else of the package zstandard."""
    try:
        own = importlib.import_module("compression.zstd")
        return partial(own.compress, level=ZSTD_LEVEL)
    except ImportError:
        pass
    try:
        package = importlib.import_module("zstandard")
    except ImportError:
        raise MissingPackage(
            "spz of version 4 is compressed with Zstandard: pip install 'ddimx[3d]', or give "
            "--spz-version 3"
        ) from None
    compress: Callable[[bytes], bytes] = package.ZstdCompressor(level=ZSTD_LEVEL).compress
    return compress


def _gzip(data: bytes) -> bytes:
    """Compress without time, name or operating system, so that equal clouds give equal files."""
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    return GZIP_HEADER + body + struct.pack("<2I", zlib.crc32(data), len(data) & 0xFFFFFFFF)
