"""NumPy's files from outside: what a header declares is held against what is there."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from ddimx.untrusted import limits
from ddimx.untrusted.arrays import map_npy, read_header, read_npy, read_npz
from tests.fuzz.zips import bomb, packed, stored

DTYPES = st.sampled_from(
    [
        "u1",
        "<i8",
        ">i4",
        "<f2",
        ">f4",
        "<f8",
        "<c16",
        "?",
        "<U3",
        ">U2",
        "S5",
        "<M8[ns]",
        "<m8[s]",
    ]
)


def npy(shape: str = "(3,)", descr: str = "'<f4'", fortran: str = "False", data: bytes = bytes(12)):
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def written(array, version=None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version, allow_pickle=False)
    return stream.getvalue()


@given(
    DTYPES.flatmap(
        lambda d: arrays_of.arrays(d, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0))
    ),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_what_numpy_writes_is_read(tmp_path_factory, array, fortran, version):
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    path.write_bytes(written(array, version))
    for read in (read_npy(path), map_npy(path)):
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert read.tobytes("A") == array.tobytes("A")
    assert read_npy(path).flags.writeable


def test_headers_of_other_writers_are_read(tmp_path):
    """With the keys in another order, Python 2's long integers, no comma or space."""
    for header in (
        b"{'shape': (3L,), 'fortran_order': False, 'descr': '<f4'}",
        b'{"descr":"<f4","fortran_order":False,"shape":(3,)}',
    ):
        path = tmp_path / "a.npy"
        length = len(header).to_bytes(2, "little")
        path.write_bytes(b"\x93NUMPY\x01\x00" + length + header + bytes(12))
        assert read_npy(path).shape == (3,)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy("(1152921504606846976,)"), "declares .1152921504606846976. of float32, 12 bytes"),
        (npy(f"({'9' * 5000},)"), "not of whole numbers"),
        (npy("(-1,)"), "header is damaged"),
        (npy("(4294967296, 4294967296)"), "declares"),
        (npy("(0, 9223372036854775807)"), "declares"),
        (npy("(0, 999999999999999999)"), "declares"),
        (npy("(" + "1," * 33 + ")"), "33 dimensions"),
        (npy("(" * 500 + ")" * 500), "header is damaged"),
        (npy("[3]"), "header is damaged"),
        (npy(descr="'|O'"), "objects or structures"),
        (npy(descr="[('a', '<f4')]"), "not of a plain array"),
        (npy(descr="'<f4,<f4'"), "objects or structures"),
        (npy(descr="'(2,)f4'"), "objects or structures"),
        (npy(descr="'<U1073741823'"), "unknown type"),
        (npy(descr="'<f3'"), "unknown type"),
        (npy(descr="'f" + "9" * 5000 + "'"), "objects or structures"),
        (npy(descr="True"), "objects or structures"),
        (npy("(1000000000000,)", "'|S0'"), "declares"),
        (npy("(3,)", "'<U1'", data=b"\xff" * 12), "characters that do not exist"),
        (npy(data=bytes(11)), "12 bytes|11 bytes"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535, "header of 65535 bytes"),
        (b"\x93NUMPY\x09\x00" + npy()[8:], "not an array"),
        (b"\x93NUMPY\x01", "not an array"),
        (b"PK\x03\x04", "not an array"),
    ],
)
def test_what_is_refused(tmp_path, content, reason):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_npy(path)
    if "characters" not in reason:  # what is mapped is not looked at
        with pytest.raises(ValueError, match=reason):
            map_npy(path)
    path.write_bytes(packed([stored("x.npy", content)]))
    with pytest.raises(ValueError, match=f"x.npy.*({reason})"):
        read_npz(path)


def test_only_the_arrays_that_are_needed_are_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(3), b=np.eye(2))
    assert sorted(read_npz(path)) == ["a", "b"]
    only = read_npz(path, ["b", "c"])
    assert list(only) == ["b"]
    assert (only["b"] == np.eye(2)).all()
    good = stored("a.npy", npy())
    path.write_bytes(packed([good, bomb("mask.npy", 300), stored("tokens/", b"")]))
    assert list(read_npz(path, ["a", "tokens"])) == ["a"]
    with pytest.raises(ValueError, match="unpacks to 301M"):
        read_npz(path, ["a", "mask"])
    path.write_bytes(packed([good, stored("tokens", b"not an array")]))
    with pytest.raises(ValueError, match="tokens: not an array"):
        read_npz(path, ["tokens"])


def test_the_bound_is_raised_by_the_option(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(300_000, np.uint8))
    monkeypatch.setenv(limits.VARIABLE, "100K")
    with pytest.raises(ValueError, match=r"a.npy unpacks to 294K.*--limit-memory 294K"):
        read_npz(path)
    monkeypatch.setenv(limits.VARIABLE, "294K")
    assert len(read_npz(path)["a"]) == 300_000
    np.savez(path, a=np.arange(300_000))  # as long in the file: no surprise
    assert len(read_npz(path)["a"]) == 300_000


def test_a_header_alone_allocates_nothing():
    header = read_header(io.BytesIO(npy("(1152921504606846976,)")))
    assert header.size == 4 << 60
