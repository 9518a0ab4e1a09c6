"""Damaged files are errors of ours wherever NumPy's and zip's files are read, never a crash."""

import io
import zipfile

import numpy as np
import pytest

from ddimx.data.images.npz import NpzSource
from ddimx.data.shapes.meshes import read_surface
from ddimx.errors import DdimxError
from ddimx.octree.file import holds_tokens, read_shape
from ddimx.recipes.furniture.sweethome import CATALOGUE, read_library


def npy():
    stream = io.BytesIO()
    np.save(stream, np.ones((9, 3)))
    return stream.getvalue()


def archived(**changes):
    """A zip of one array, with bytes of its headers changed: offset in both headers -> value."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tokens.npy", npy())
    data = bytearray(stream.getvalue())
    central = data.index(b"PK\x01\x02")
    for name, value in changes.items():
        local, listed = {"flags": (6, 8), "method": (8, 10)}[name]
        data[local], data[central + listed] = value, value
    return bytes(data)


DAMAGED = {
    "header.npy": npy().replace(b"{'descr'", b"{('desc'", 1),  # a bracket that nothing closes
    "types.npy": npy().replace(b"'<f8'", b"[1,2]", 1),
    "encrypted.npz": archived(flags=1),
    "method.npz": archived(method=99),
    "cut.npz": archived()[:-30],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_arrays_and_archives(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    for read in (read_shape, read_surface):
        with pytest.raises(DdimxError, match=name):
            read(path)
    if path.suffix == ".npz":
        with pytest.raises(DdimxError, match=name):
            NpzSource(path, held_out=False)
    else:
        assert not holds_tokens(path)


def test_a_library_with_a_broken_catalogue(tmp_path):
    path = tmp_path / "a.sh3f"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CATALOGUE, "id=x\n" * 99)
    data = bytearray(path.read_bytes())
    start = 30 + len(CATALOGUE)
    data[start : start + 4] = b"\xff\xff\xff\xff"  # no block of deflate begins like this
    path.write_bytes(bytes(data))
    with pytest.raises(DdimxError, match=r"a\.sh3f: not a Sweet Home 3D furniture library"):
        read_library(path)
