"""The bytes of a scene of three Gaussians in every format, put together by hand from the specs."""

import gzip
import json
import math
import struct
import sys
import types

import numpy as np
import pytest

from ddimx.errors import UsageError
from ddimx.splats.formats import FORMATS, EncodeOptions
from tests.splats.scene import HALF, ROWS, three

C0 = 0.28209479177387814


def encode(name, **options):
    return FORMATS[name].encode(three(), EncodeOptions(**options))


def test_ply():
    header = (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
        b"property float x\nproperty float y\nproperty float z\n"
        b"property float scale_x\nproperty float scale_y\nproperty float scale_z\n"
        b"property uchar red\nproperty uchar green\nproperty uchar blue\n"
        b"property float opacity\nend_header\n"
    )
    colors = [(255, 0, 0), (51, 102, 153), (128, 128, 128)]
    body = b"".join(
        struct.pack("<6f3Bf", *position, *sigmas, *color, alpha)
        for (position, sigmas, _, _, alpha), color in zip(ROWS, colors, strict=True)
    )
    assert encode("ply") == header + body
    assert body[:31].hex() == (
        "0000003f" "000080be" "0000803f" "0000003e" "0000003f" "0000803e" "ff0000" "0000003f"
    )  # fmt: skip


def test_ply_as_text():
    lines = encode("ply", text=True).decode().splitlines()
    assert lines[:3] == ["ply", "format ascii 1.0", "element vertex 3"]
    assert [float(v) for v in lines[-3].split()] == [
        0.5,
        -0.25,
        1,
        0.125,
        0.5,
        0.25,
        255,
        0,
        0,
        0.5,
    ]
    assert [float(v) for v in lines[-2].split()] == [-1, 2, 0.125, 1, 1, 1, 51, 102, 153, 0.9375]


def inria_row(position, sigmas, quaternion, color, alpha, rest):
    alpha = min(max(alpha, 1e-6), 1 - 1e-6)
    values = [*position, 0, 0, 0]
    values += [(c - 0.5) / C0 for c in map(single, color)]
    values += [0.0] * rest
    values += [math.log(alpha) - math.log1p(-alpha)]
    values += [math.log(s) for s in sigmas]
    return struct.pack(f"<{17 + rest}f", *values, *quaternion)


def single(value):
    """The float32 nearest to a number."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


@pytest.mark.parametrize(
    ("degree", "rest", "size"),
    [(0, 0, 68), (1, 9, 104), (2, 24, 164), (3, 45, 248), (None, 45, 248)],  # INRIA's loader: 45
)
def test_3dgs(degree, rest, size):
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(rest)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    body = b"".join(inria_row(*row, rest) for row in ROWS)
    assert len(body) == 3 * size
    assert encode("3dgs", sh_degree=degree) == header.encode() + body


def test_3dgs_in_hexadecimal():
    first = encode("3dgs", sh_degree=0).partition(b"end_header\n")[2][:68]
    # 0.5 / C0 = 1.7724539 = sqrt(pi); ln(1/8), ln(1/2), ln(1/4) = -2.0794415, -.6931472, -1.3862944
    assert first.hex() == (
        "0000003f" "000080be" "0000803f" "000000000000000000000000"
        "c5dfe23f" "c5dfe2bf" "c5dfe2bf" "00000000"
        "921505c0" "187231bf" "1872b1bf" "0000803f" "000000000000000000000000"
    )  # fmt: skip


def test_no_logit_is_infinite():
    last = struct.unpack("<17f", encode("3dgs", sh_degree=0)[-68:])
    assert last[9] == pytest.approx(13.815509557963774)  # ln((1 - 1e-6) / 1e-6)


def test_splat():
    second, first, third = (
        struct.pack("<6f", *position, *sigmas) + bytes.fromhex(rest)
        for (position, sigmas, *_), rest in zip(
            ROWS,
            # rgba; 128 + 128 q: 128 sqrt(1/2) = 90.5 (so 218.5 -> 219), 128 / 2 = 64, 256 -> 255
            ["ff000080" "ff808080", "336699ef" "db80db80", "808080ff" "c040c040"],
            strict=True,
        )
    )  # fmt: skip
    # Volume times opacity: .5 / 64, .9375, 1 / 4096.
    assert encode("splat") == first + second + third


def test_spz():
    data = encode("spz")
    assert data[:10].hex() == "1f8b0800000000000" + "0ff"  # gzip without name, time or system
    payload = bytes.fromhex(
        "4e475350" "03000000" "03000000" "00" "0c" "00" "00"
        # positions * 4096: 2048 -1024 4096, -4096 8192 512, 0 0 -12288
        "000800" "00fcff" "001000" "00f0ff" "002000" "000200" "000000" "000000" "00d0ff"
        # 255 alpha, rounded: 127.5 -> 128, 239.06, 255
        "80efff"
        # 127.5 + 38.25 dc, dc = (c - .5) / C0: 1 -> 195.3, 0 -> 59.7, .2 -> 86.8, .4 -> 113.9,
        # .6 -> 141.06, .5 -> 128 (a half goes up)
        "c33c3c" "57728d" "808080"
        # 160 + 16 ln s: 1/8 -> 126.7, 1/2 -> 148.9, 1/4 -> 137.8, 1 -> 160, 1/16 -> 115.6
        "7f958a" "a0a0a0" "747474"
    )  # fmt: skip
    # Rotations: the largest part's place among x y z w, then the others, sign and 9 bits of
    # 511 |q| sqrt(2). First: w, nothing else. Second: y and w are equal but for rounding, so the
    # earlier one in x y z w is taken: y; then x, z, w = 0, 0, 511. Third: all are 1/2, so x is
    # taken; x < 0, so all signs turn: y, z, w = -1/2, 1/2, -1/2, with 511 sqrt(1/2) = 361.3.
    words = [3 << 30, 1 << 30 | 511, 0 << 30 | (512 + 361) << 20 | 361 << 10 | (512 + 361)]
    payload += struct.pack("<3I", *words)
    assert gzip.decompress(data) == payload
    assert data[-4:] == struct.pack("<I", len(payload))
    for degree, rest in ((1, 9), (2, 24), (3, 45)):
        padded = gzip.decompress(encode("spz", sh_degree=degree))
        expected = payload[:12] + bytes([degree]) + payload[13:] + b"\x80" * 3 * rest
        assert padded == expected
    # Version 2: x y z of the quaternion with w >= 0, 127.5 + 127.5 q: q = 0 is 127.5, so 128;
    # sqrt(1/2) is 217.7; the third has w > 0, -1/2 is 63.75 and 1/2 is 191.25.
    second = gzip.decompress(encode("spz", spz_version=2))
    rotations = bytes.fromhex("808080" "80da80" "40bf40")  # fmt: skip
    assert second == payload[:4] + b"\x02" + payload[5:-12] + rotations


def test_spz_of_version_4(monkeypatch):
    """A plain header, the table of columns, and each column by itself; the library is not here."""

    class ZstdCompressor:
        def __init__(self, level):
            assert level > 0

        def compress(self, data):
            return b"Z" + data[::-1]

    library = types.SimpleNamespace(ZstdCompressor=ZstdCompressor)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", library)
    third = gzip.decompress(encode("spz", sh_degree=1))
    lengths = [27, 3, 9, 9, 12, 27]  # positions, alphas, colors, scales, rotations, harmonics
    starts = [16 + sum(lengths[:i]) for i in range(6)]
    columns = [third[start : start + n] for start, n in zip(starts, lengths, strict=True)]
    for degree, count in ((1, 6), (0, 5)):  # an empty column is left out
        data = encode("spz", sh_degree=degree, spz_version=4)
        head = third[:4] + struct.pack("<2I4B", 4, 3, degree, 12, 0, count)
        table = [value for n in lengths[:count] for value in (n + 1, n)]
        head += struct.pack(f"<I12x{2 * count}Q", 32, *table)
        assert data == head + b"".join(b"Z" + column[::-1] for column in columns[:count])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UsageError, match=r"pip install 'ddimx\[3d\]', or give --spz-version 3"):
        encode("spz", spz_version=4)


def test_glb():
    data = encode("glb")
    own = "KHR_gaussian_splatting"
    names = ["POSITION", "COLOR_0", f"{own}:ROTATION", f"{own}:SCALE", f"{own}:OPACITY"]
    names += [f"{own}:SH_DEGREE_0_COEF_0"]
    sizes, kinds = [36, 12, 48, 36, 12, 36], ["VEC3", "VEC4", "VEC4", "VEC3", "SCALAR", "VEC3"]
    document = {
        "asset": {"version": "2.0", "generator": "ddimx"},
        "extensionsUsed": [own],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {name: i for i, name in enumerate(names)},
                        "mode": 0,
                        "extensions": {
                            own: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
                        },
                    }
                ]
            }
        ],
        "accessors": [
            {"bufferView": i, "componentType": 5126, "count": 3, "type": kind}
            for i, kind in enumerate(kinds)
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": sum(sizes[:i]), "byteLength": size, "target": 34962}
            for i, size in enumerate(sizes)
        ],
        "buffers": [{"byteLength": 180}],
    }
    document["accessors"][0] |= {"min": [-1, -0.25, -3], "max": [0.5, 2, 1]}
    document["accessors"][1] |= {"componentType": 5121, "normalized": True}
    size = struct.unpack_from("<I", data, 12)[0]
    assert json.loads(data[20 : 20 + size]) == document
    # sRGB .2 .4 .6 .5 as linear light, by IEC 61966-2-1, in 255ths (glTF 2.0, 3.6.2.2)
    light = [0.0331047666, 0.1328683216, 0.3185467781, 0.2140411405]
    parts = [round(255 * v) for v in light]
    columns = [
        struct.pack("<9f", *(v for row in ROWS for v in row[0])),
        struct.pack("<12B", 255, 0, 0, 128, *parts[:3], 239, *[parts[3]] * 3, 255),
        struct.pack("<12f", 0, 0, 0, 1, 0, HALF, 0, HALF, -0.5, 0.5, -0.5, 0.5),
        struct.pack("<9f", *(v for row in ROWS for v in row[1])),
        struct.pack("<3f", *(row[4] for row in ROWS)),
        struct.pack("<9f", *((single(c) - 0.5) / C0 for row in ROWS for c in row[3])),
    ]
    expected = b"glTF" + struct.pack("<2I", 2, len(data)) + struct.pack("<I4s", size, b"JSON")
    assert data[:20] == expected
    assert data[20 + size :] == struct.pack("<I4s", 180, b"BIN\0") + b"".join(columns)


def test_json():
    text = encode("json", up="-y").decode()
    assert text.startswith('{"format": "ddimx-splats", "version": 2, "up": "-y", "count": 3,\n')
    assert text.endswith('"opacities": [0.5,0.9375,1.0]}\n')
    columns = ("positions", "scales", "quaternions", "colors", "opacities")
    read = json.loads(text)
    assert set(read) == {"format", "version", "up", "count", *columns}
    for k, name in enumerate(columns):
        expected = np.array([row[k] for row in ROWS], dtype=np.float32)
        assert (np.array(read[name], dtype=np.float32) == expected).all()
    assert read["colors"][1] == [0.2, 0.4, 0.6]  # the shortest decimals, not those of a double
