"""Zip and gzip from outside: bombs, lies in headers, spanned disks, what nobody asked for."""

import gzip
import io
import zipfile
from dataclasses import replace

import pytest

from ddimx.untrusted import limits
from ddimx.untrusted.archives import open_zip, read_member, unzipped
from tests.fuzz.values import zeros
from tests.fuzz.zips import Member, bomb, packed, spanned, stored


def opened(data: bytes):
    return open_zip(io.BytesIO(data))


def refuses(data: bytes, reason: str, name: str = "a"):
    with pytest.raises(ValueError, match=reason), opened(data) as archive:
        archive.read(name)


def test_members_are_read_and_folders_left_out(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"one" * 1000)
        archive.writestr("folder/", b"")
        archive.writestr("folder/b", b"")
    with open_zip(path) as archive:
        assert archive.names == ["a", "folder/b"]
        assert archive.read("a") == b"one" * 1000
        assert archive.read("folder/b") == b""
        assert archive.declared("a") == 3000
        with archive.open("a") as stream:
            assert stream.read(4) == b"oneo"
        with pytest.raises(ValueError, match="it holds no c"):
            archive.read("c")


def test_a_member_is_read_from_its_place_alone(tmp_path):
    """Without the directory, which may be large; what the file holds there is not trusted."""
    path, other = tmp_path / "a.zip", tmp_path / "other.zip"
    for each, method in ((path, zipfile.ZIP_DEFLATED), (other, zipfile.ZIP_STORED)):
        with zipfile.ZipFile(each, "w", method) as archive:
            archive.writestr("first", b"x")
            archive.writestr("a", b"one" * 1000)
    for each in (path, other):
        with open_zip(each) as archive:
            place = archive.member("a")
        assert read_member(each, place) == b"one" * 1000
        for changes, reason in (
            ({"size": 2999}, "a is damaged"),
            ({"size": 3001}, "a is damaged"),
            ({"checksum": 0}, "a is damaged"),
            ({"stored": 4}, "a is damaged"),
            ({"offset": 0}, "a is damaged"),  # another member
            ({"offset": 5}, "a is not where the archive's directory says"),
            ({"offset": 1 << 40}, "a is not where the archive's directory says"),
            ({"encrypted": True}, "a is encrypted"),
            ({"method": 12}, "compressed by method 12"),
            ({"size": 300 << 20}, r"a unpacks to 300M.*--limit-memory"),
        ):
            with pytest.raises(ValueError, match=reason):
                read_member(each, replace(place, **changes))
    data = bytearray(path.read_bytes())
    data[place.offset + 40 : place.offset + 44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged|not a readable zip file"), open_zip(path) as it:
        read_member(path, it.member("a"))


def test_only_a_bomb_that_is_asked_for_is_refused():
    data = packed([stored("tokens", b"abc"), bomb("mask", 300)])
    assert len(data) < 1 << 20
    with opened(data) as archive:
        assert archive.read("tokens") == b"abc"
        archive.check(["tokens"])
        for names in (["mask"], ["tokens", "mask"]):
            with pytest.raises(ValueError, match=r"unpacks to 30[01]M.*--limit-memory"):
                archive.check(names)


def test_many_members_count_together():
    data = packed([bomb(str(i), 100) for i in range(4)])
    with opened(data) as archive:
        archive.check(["0", "1"])
        with pytest.raises(ValueError, match=r"\(3 members\) unpacks to 300M"):
            archive.check(["0", "1", "2"])


def test_copies_divide_the_bound():
    with opened(packed([bomb("a", 100)])) as archive:
        archive.check(["a"], copies=2)
        with pytest.raises(ValueError, match="--limit-memory 300M allows it"):
            archive.check(["a"], copies=3)


def test_a_bomb_that_declares_little_is_cut_short():
    member = bomb("a", 300)
    member.size = 1000
    refuses(packed([member]), "CRC")
    member = stored("a", b"abc")
    member.size = 1000
    refuses(packed([member]), "shorter than it declares|CRC")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"flags": 1}, "a is encrypted"),
        ({"method": 12}, "method 12; stored and deflated"),
        ({"method": 14}, "method 14; stored and deflated"),
        ({"method": 99}, "method 99; stored and deflated"),
        ({"crc": 5}, "CRC"),
        ({"stated": 2}, "CRC|error|shorter|Error"),
        ({"size": 0xFFFFFFFE}, "unpacks to 4096M"),
    ],
)
def test_lies_of_a_header(change, reason):
    member = stored("a", b"abcdefghijkl" * 9)
    for key, value in change.items():
        setattr(member, key, value)
    refuses(packed([member]), reason)


def test_a_name_that_stands_there_twice_is_ambiguous():
    data = packed([stored("a", b"1"), stored("a", b"2"), stored("b", b"3")])
    refuses(data, "it holds a twice")
    with opened(data) as archive:
        assert archive.read("b") == b"3"


def test_spanned_disks_are_refused():
    whole = packed([stored("a", b"abc")])
    refuses(spanned(whole), "several disks")
    refuses(packed([stored("a", b"abc")], disk=1), "several disks")
    with opened(packed([stored("a", b"abc")], comment=b"a comment")) as archive:
        assert archive.read("a") == b"abc"


def test_zip64_is_read(monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # so that it needs the 64-bit record
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("b", b"")
        with archive.open(zipfile.ZipInfo("a"), "w", force_zip64=True) as member:
            member.write(b"abc")
    assert b"PK\x06\x06" in stream.getvalue()
    with open_zip(stream) as archive:
        assert archive.read("a") == b"abc"


def test_a_directory_that_would_fill_the_memory_is_not_read(monkeypatch):
    data = packed([stored(f"{i:040d}", b"", 0) for i in range(100)])
    monkeypatch.setenv(limits.VARIABLE, "100K")
    with (
        pytest.raises(ValueError, match=r"directory takes 8600; --limit-memory 101K"),
        opened(data),
    ):
        pass
    monkeypatch.setenv(limits.VARIABLE, "101K")
    with opened(data) as archive:
        assert len(archive.names) == 100


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"no zip at all" * 9, b"PK\x05\x06" + b"\xff" * 18]
)
def test_what_is_no_zip(data):
    refuses(data, "zip")


@pytest.mark.parametrize("cut", [5, 21, 40, 80])
def test_what_is_cut(cut):
    refuses(packed([stored("a", b"abc" * 100), stored("b", b"")])[:-cut], "zip")


def test_a_gzip_bomb_is_stopped_on_the_way(monkeypatch):
    monkeypatch.setenv(limits.VARIABLE, "16M")
    raw, _ = zeros(30)
    data = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + raw
    inner = gzip.GzipFile(fileobj=io.BytesIO(data))
    stream = unzipped(inner, len(data))
    with pytest.raises(ValueError, match="it unpacks to"):
        stream.read()
    assert inner.tell() <= 17 << 20
    good = gzip.compress(b"abc" * 1000, mtime=0)
    with gzip.GzipFile(fileobj=io.BytesIO(good)) as whole:
        assert unzipped(whole, len(good)).read() == b"abc" * 1000
    with (
        gzip.GzipFile(fileobj=io.BytesIO(good[:-9])) as cut,
        pytest.raises(ValueError, match="not a readable compressed file"),
    ):
        unzipped(cut, len(good)).read()


def test_members_of_the_tests_are_honest():
    """What packs the hostile archives is read by zipfile where nothing is changed."""
    data = packed([stored("a", b"abc"), stored("b", b"d" * 99, 0), bomb("c", 2)])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.read("c") == bytes(2 << 20)
    assert isinstance(stored("a", b""), Member)
