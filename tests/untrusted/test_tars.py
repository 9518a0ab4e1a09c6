"""Tar headers from outside: every format that tarfile writes, and lies in each field."""

import io
import tarfile

import pytest

from ddimx.untrusted.tars import BLOCK, MOST_EXTENDED, read_at, tar_members
from tests.fuzz.tars import checked, entry, tar_of

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
END = bytes(2 * BLOCK)


def written(tmp_path, data):
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    return path


def refuses(tmp_path, data, reason):
    with pytest.raises(ValueError, match=reason):
        list(tar_members(written(tmp_path, data)))


@pytest.mark.parametrize("kind", FORMATS)
def test_members_are_where_tarfile_finds_them(tmp_path, kind):
    names = ["a.png", "./b/c.json", "x" * 60 + "/" + "y" * 90, "empty"]
    if kind != "ustar":
        names += ["é☃.png", "d/" * 130 + "deep.png", "n" * 200 + ".png"]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=FORMATS[kind]) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            content = b"" if name == "empty" else bytes([number]) * (number * 511 + 1)
            info.size, info.mtime = len(content), 1.5 if kind == "pax" else 1
            archive.addfile(info, io.BytesIO(content))
    with tarfile.open(path) as archive:
        expected = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in archive]
    assert [tuple(member) for member in tar_members(path)] == expected
    for number, member in enumerate(tar_members(path)):
        assert read_at(path, member.offset, member.size) == bytes([number]) * member.size


def test_what_is_no_file_is_passed_over(tmp_path):
    path = tmp_path / "a.tar"
    kinds = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
    with tarfile.open(path, "w") as archive:
        for number, kind in enumerate((*kinds, tarfile.CHRTYPE, tarfile.BLKTYPE)):
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("plain.png"))
    assert [member.name for member in tar_members(path)] == ["plain.png"]


def test_sparse_files_are_passed_over(tmp_path):
    """GNU's, whose table goes on in a second block, and pax's, whose name is another."""
    head = bytearray(entry("s.png", b"x" * 600, kind=b"S"))
    head[482] = 1
    more = bytes(504) + b"\0" * 8
    data = checked(head[:BLOCK]) + more + bytes(head[BLOCK:])
    pax = entry("p", b"22 GNU.sparse.major=1\n", kind=b"x")
    data += pax + entry("GNUSparseFile.0/a.png", b"1\n0\n9\n") + entry("b.png", b"b") + END
    assert [member.name for member in tar_members(written(tmp_path, data))] == ["b.png"]


def test_sizes_above_eight_gigabytes_are_written_in_base_256(tmp_path):
    large = entry("a.png", b"", size=b"\x80" + (9 << 30).to_bytes(11, "big"))
    path = written(tmp_path, large)
    with path.open("r+b") as stream:  # a file with a hole, which takes no room on disk
        stream.truncate(BLOCK + (9 << 30))
        stream.seek(0, 2)
        stream.write(entry("b.png", b"b") + END)
    assert [(m.name, m.size) for m in tar_members(path)] == [("a.png", 9 << 30), ("b.png", 1)]


def test_a_long_name_and_a_size_hold_for_one_member(tmp_path):
    data = entry("x", b"long.png\0", kind=b"L") + entry("cut.png", b"1") + entry("b.png", b"2")
    zero = b"0" * 11 + b"\0"
    data += entry("x", b"10 size=3\n18 path=other.png\n", kind=b"x")
    data += entry("c.png", b"123", size=zero)
    data += entry("x", b"18 path=never.png\n", kind=b"g") + entry("d.png", b"4") + END
    names = [(m.name, m.size) for m in tar_members(written(tmp_path, data))]
    assert names == [("long.png", 1), ("b.png", 1), ("other.png", 3), ("d.png", 1)]


@pytest.mark.parametrize("cut", [1, BLOCK - 1, BLOCK, BLOCK + 100, 2 * BLOCK + 10])
def test_a_tar_that_is_cut(tmp_path, cut):
    """Within a header, within a member, and between two: a tar has an end of its own."""
    data = tar_of({"a.png": b"a" * 300, "b.png": b"b"})
    assert len(list(tar_members(written(tmp_path, data)))) == 2
    refuses(tmp_path, data[:cut], "not a tar file" if cut < BLOCK else "cut: it ends")
    refuses(tmp_path, data[: 4 * BLOCK], r"cut: it ends in or after its header at byte 2048")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a tar file"),
        (b"text" * 200, "not a tar file"),
        (b"\x1f\x8b" + bytes(600), "compressed by gzip, so .* unpack it to a plain .tar"),
        (b"BZh9" + bytes(600), "compressed by bzip2"),
        (b"\xfd7zXZ" + bytes(600), "compressed by xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed by zstd"),
        (entry("a", b"a") + b"x" * BLOCK, "damaged: there is no header at byte 1024"),
        (entry("a", b"", size=b"7" * 11 + b"\0") + END, "cut: it ends"),
        (entry("a", b"", size=b"\xff" * 12) + END, "states no size"),  # negative: CVE-2025-8194
        (entry("a", b"", size=b"-0000000512\0") + END, "states no size"),
        (entry("a", b"", size=b"0o7".ljust(12)) + END, "states no size"),
        (entry("a", b"", size=b"1_0".ljust(12)) + END, "states no size"),
        (entry("a", b"", size=b"\x80" + b"\xff" * 11) + END, "cut: it ends"),
        (entry("x", b"14 size=-5120\n", kind=b"x") + entry("a", b"") + END, "states no size"),
        (entry("x", b"30 size=1\n", kind=b"x") + entry("a", b"") + END, "damaged: the extended"),
        (entry("x", b"0 size=1\n", kind=b"x") + entry("a", b"") + END, "damaged: the extended"),
        (entry("x", b"3 =" * 9, kind=b"x") + entry("a", b"") + END, "damaged: the extended"),
        (entry("x", b"-9 size=1\n", kind=b"x") + entry("a", b"") + END, "damaged: the extended"),
        (entry("x", bytes(MOST_EXTENDED + 1), kind=b"x") + END, "an extended header of 65K"),
        (entry("x", bytes(MOST_EXTENDED + 1), kind=b"L") + END, "an extended header of 65K"),
    ],
)
def test_tars_that_are_refused(tmp_path, data, reason):
    refuses(tmp_path, data, reason)


def test_a_sparse_table_without_an_end(tmp_path):
    head = bytearray(entry("s", b"", kind=b"S"))
    head[482] = 1
    refuses(tmp_path, checked(head) + (bytes(504) + b"\1" * 8) * 3, "cut: it ends")


def test_a_file_that_has_become_shorter(tmp_path):
    path = written(tmp_path, b"abc")
    assert read_at(path, 1, 2) == b"bc"
    with pytest.raises(ValueError, match="has become shorter"):
        read_at(path, 1, 3)
