"""CIFAR-10 as published: what is read, and what a pickle may not do."""

import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest

from ddimx.data.images.cifar10 import CLASSES, Cifar10Source
from ddimx.errors import DdimxError
from tests.data.images.official import cifar10, cifar_batch, py2_string

EVERY = np.arange(20)


@pytest.mark.parametrize("archive", [True, False])
def test_training_and_test_batches(tmp_path, archive):
    images, labels = cifar10(tmp_path, archive=archive)
    train = Cifar10Source(tmp_path, held_out=False)
    test = Cifar10Source(tmp_path, held_out=True)
    assert (len(train), len(test)) == (20, 4)
    assert np.array_equal(train.images(EVERY), images[:20])
    assert np.array_equal(test.images(np.array([3, 0])), images[[23, 20]])
    assert np.array_equal(train.labels, labels[:20])
    assert np.array_equal(test.labels, labels[20:])
    assert train.fingerprint != test.fingerprint
    assert train.image_shape == (32, 32, 3)


def test_the_fixture_is_what_python_2_wrote(tmp_path):
    """The standard unpickler, which calls NumPy, reads the same from it."""
    images, labels = cifar10(tmp_path, archive=False)
    data = (tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes()
    assert data.startswith(b"\x80\x02}")
    batch = pickle.loads(data, encoding="bytes")
    assert set(batch) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert batch[b"data"].dtype == np.uint8
    assert batch[b"data"].shape == (4, 3072)
    assert batch[b"labels"] == labels[20:].tolist()
    assert batch[b"data"][1, 1024] == images[21, 0, 0, 1]  # green comes after all of red


@pytest.mark.parametrize("archive", [True, False])
def test_the_root_may_be_the_thing_itself(tmp_path, archive):
    cifar10(tmp_path, archive=archive)
    inner = tmp_path / ("cifar-10-python.tar.gz" if archive else "cifar-10-batches-py")
    assert len(Cifar10Source(inner, held_out=False)) == 20


def test_the_classes_are_the_published_ones():
    assert CLASSES[0] == "airplane"
    assert CLASSES[6] == "frog"
    assert CLASSES[9] == "truck"
    assert len(CLASSES) == 10


def test_nothing_there_says_what_to_put_where(tmp_path):
    with pytest.raises(DdimxError) as error:
        Cifar10Source(tmp_path, held_out=False)
    for words in (str(tmp_path), "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"):
        assert words in str(error.value)


def test_a_missing_batch_is_named(tmp_path):
    cifar10(tmp_path, archive=False)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert len(Cifar10Source(tmp_path, held_out=True)) == 4
    with pytest.raises(DdimxError, match="lacks data_batch_3;"):
        Cifar10Source(tmp_path, held_out=False)


def test_a_truncated_archive(tmp_path):
    cifar10(tmp_path, count=40)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DdimxError, match=r"cifar-10-python\.tar\.gz: (cannot be read|lacks)"):
        Cifar10Source(tmp_path, held_out=False)


def test_an_archive_of_something_else(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"<html>quota exceeded</html>" * 100)
    with pytest.raises(DdimxError, match="cannot be read") as error:
        Cifar10Source(tmp_path, held_out=False)
    assert "\n" not in str(error.value)


def batch_of(folder, data):
    """Replace the test batch and read it."""
    cifar10(folder, archive=False)
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(data)
    return Cifar10Source(folder, held_out=True)


ONE = np.zeros((1, 32, 32, 3), np.uint8)
GOOD = cifar_batch(ONE, [0])
SYSTEM = b"\x80\x02cposix\nsystem\n" + py2_string("touch ran") + b"\x85R."
EVIL = {
    "system": (SYSTEM, r"asks for posix\.system"),
    "eval": (b"\x80\x02c__builtin__\neval\nU\x011\x85R.", r"asks for (builtins|__builtin__)\.eval"),
    "numpy": (b"\x80\x02cnumpy\nsave\nU\x011\x85R.", r"asks for numpy\.save"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", r"asks for numpy\.ndarray\.to"),
    "codecs": (b"\x80\x02c_codecs\nencode\nU\x011\x85R.", r"asks for _codecs\.encode"),
    "object dtype": (GOOD.replace(b"U\x02u1", b"U\x02O8"), "not plain uint8"),
    "fortran": (GOOD.replace(b"tb\x89T", b"tb\x88T"), "not plain uint8"),
    "empty": (b"", "not a CIFAR-10 batch"),
    "text": (b"hello", "not a CIFAR-10 batch"),
    "list": (b"\x80\x02].", "not a CIFAR-10 batch"),
    "no labels": (GOOD.replace(b"labels", b"lapels"), "not a CIFAR-10 batch"),
    "cut": (GOOD[:1000], "not a CIFAR-10 batch"),
    "label": (cifar_batch(ONE, [10]), "do not fit"),
    "count": (cifar_batch(ONE, [1, 2]), "do not fit"),
    "shape": (GOOD.replace(b"J\x00\x0c\x00\x00", b"J\x00\x06\x00\x00"), "not a CIFAR-10 batch"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_what_is_no_batch_is_refused_by_name_and_runs_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    data, message = EVIL[kind]
    assert data != GOOD
    with pytest.raises(DdimxError, match=message) as error:
        batch_of(tmp_path / "set", data)
    assert "test_batch" in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_batch_that_was_pickled_again_is_read(tmp_path):
    """By Python 3 and NumPy 2, with text for bytes, as some mirrors have it."""
    flat = np.arange(3072, dtype=np.uint8)[None] // 12
    data = pickle.dumps({b"data": flat, b"labels": [7]}, protocol=4)
    source = batch_of(tmp_path, data)
    assert source.labels.tolist() == [7]
    expected = flat.reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(source.images(np.array([0]))[0], expected)


def test_paths_in_an_archive_are_not_followed(tmp_path):
    cifar10(tmp_path)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    path.write_bytes((tmp_path / "evil.tar").read_bytes())
    with pytest.raises(DdimxError, match="lacks test_batch"):
        Cifar10Source(tmp_path, held_out=True)


def gzip_bomb(size, name="test_batch"):
    """A tar in gzip in which one file has this many zeros."""
    head = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
    head.size = size
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as out:
        out.write(head.tobuf())
        for _ in range(size >> 20):
            out.write(bytes(1 << 20))
    return stream.getvalue()


def sparse(size):
    """A tar whose test batch is a hole of this many bytes."""
    head = tarfile.TarInfo("cifar-10-batches-py/test_batch")
    head.type = tarfile.GNUTYPE_SPARSE
    data = bytearray(head.tobuf(tarfile.GNU_FORMAT))
    data[386:398], data[398:410] = b"%011o\0" % (size - 1), b"%011o\0" % 0
    data[483:495] = b"%011o\0" % size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data) + bytes(1024)


BOMBS = {
    "a large member": (gzip_bomb(70 << 20), "test_batch is longer than 64M"),
    "a sparse member": (sparse(1 << 32), "test_batch is longer than 64M"),
    "a long archive": (gzip_bomb(300 << 20, "readme.html"), "unpacks to"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(tmp_path, name):
    data, reason = BOMBS[name]
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(data)
    with pytest.raises(DdimxError, match=rf"cannot be read \(.*({reason})"):
        Cifar10Source(tmp_path, held_out=True)


NESTED = b"](" + b"K\x01" * 9 + b"e"  # a list, and lists that hold the one before nine times
for level in range(9):
    NESTED = NESTED + b"q" + bytes([level]) + b"](" + (b"h" + bytes([level])) * 9 + b"e"

PICKLES = {
    "a memo of gigabytes": (b"\x80\x02}r\xff\xff\xff\x0f.", "memo has a gap"),
    "a string that is not there": (b"\x80\x02T\xff\xff\xff\x7fabc.", "2147483647 bytes"),
    "lists of lists": (
        GOOD.replace(b"](K\x00e", b"](" + NESTED + b"e"),
        "not a list of whole numbers",
    ),
    "very deep": (b"\x80\x02" + b"]" * 50000 + b"a" * 49999 + b".", "not a CIFAR-10 batch"),
    "a number of 5,000 digits": (b"I" + b"9" * 5000 + b"\n.", "not a CIFAR-10 batch"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path, name):
    data, reason = PICKLES[name]
    with pytest.raises(DdimxError, match=reason):
        batch_of(tmp_path / "set", data)
