"""A packed set that shards make has the bytes that one process makes, whoever was killed where."""

from __future__ import annotations

import json

import pytest

from ddimx.data.images import pack, pack_shards
from ddimx.data.images.folder import FolderSource
from ddimx.data.images.pack import PackedSet
from ddimx.data.images.pack_pieces import Pieces
from ddimx.data.images.pack_shards import ShardPacking
from ddimx.errors import DdimxError, UsageError
from ddimx.progress import Progress
from ddimx.runs.part import Partial
from ddimx.runs.shards import Shard
from tests.data.images.test_pack import (  # noqa: F401 - fixtures
    COUNT,
    ORIGIN,
    Killed,
    _small_chunks,
    parts,
    pictures,
    run,
)

NAMES = ("", ".json")


def go(folder, out, text, *, origin=ORIGIN, gather=False):
    packing = ShardPacking(parts(folder), origin, out)
    return packing.run_shard(Shard.parsed(text), Progress(quiet=True), gather=gather)


def files(out):
    return [out.with_name(out.name + more).read_bytes() for more in NAMES]


@pytest.fixture
def whole(pictures, tmp_path):  # noqa: F811
    """What one process makes."""
    run(pictures, tmp_path / "whole.npy")
    return files(tmp_path / "whole.npy")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_the_same_bytes_as_of_one_process(pictures, tmp_path, whole, order):  # noqa: F811
    out = tmp_path / "p.npy"
    for k in order:
        result = go(pictures, out, f"{k}/3")
    assert isinstance(result, PackedSet)
    assert (result.images, len(result.bad), result.start) == (48, 2, COUNT - (17 if k != 1 else 16))
    assert files(out) == whole
    assert not (tmp_path / "p.npy.unfinished").exists()
    for text in ("1/3", "2/7", "1/1"):  # afterwards everybody finds it made
        assert go(pictures, out, text).fingerprint == result.fingerprint


def test_more_shards_than_images(pictures, tmp_path):  # noqa: F811
    for path in sorted(pictures.iterdir())[3:]:
        path.unlink()
    run(pictures, tmp_path / "whole.npy")
    for k in (4, 1, 5, 2, 3):
        result = go(pictures, tmp_path / "p.npy", f"{k}/5")
    assert isinstance(result, PackedSet)
    assert files(tmp_path / "p.npy") == files(tmp_path / "whole.npy")


def test_what_is_decoded_once_is_decoded(pictures, tmp_path, whole, monkeypatch):  # noqa: F811
    """A shard killed after two pieces, and three shards that end it in place of eight."""
    out, decoded, written = tmp_path / "p.npy", [], []
    real, real_write = FolderSource.decoded, Pieces.write

    def counted(self, index):
        decoded.append(self.place(index))
        return real(self, index)

    def write(self, positions, images):
        written.append(positions)
        if len(written) == 3:
            raise Killed
        real_write(self, positions, images)

    monkeypatch.setattr(FolderSource, "decoded", counted)
    with monkeypatch.context() as patch:
        patch.setattr(Pieces, "write", write)
        with pytest.raises(Killed):
            go(pictures, out, "2/2")  # of 25 images 16 are written, and 8 lost
    assert len(decoded) == 24
    assert written == [range(25, 33), range(33, 41), range(41, 49)]
    go(pictures, out, "1/8")
    for k in (1, 2, 3):
        result = go(pictures, out, f"{k}/3")
    assert isinstance(result, PackedSet)
    assert len(decoded) == COUNT + 8
    assert files(out) == whole


@pytest.mark.parametrize("at", range(1, 8))
def test_whoever_joins_may_be_killed(pictures, tmp_path, whole, monkeypatch, at):  # noqa: F811
    """Before each record of how far it is; the same shard once more, or --gather, ends it."""
    out, calls = tmp_path / "p.npy", []
    go(pictures, out, "1/2")

    def chain(digest, images, real=pack._chain):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return real(digest, images)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "_chain", chain)
        with pytest.raises(Killed):
            go(pictures, out, "2/2")
    folder = tmp_path / "p.npy.unfinished"
    pieces = Pieces(folder, 1).listed()
    # What was joined is not kept twice, besides the chunk in its hands and one before it.
    assert pieces[0].positions.stop > 8 * (at - 2)
    monkeypatch.setattr(FolderSource, "decoded", None)  # nothing is decoded again
    result = go(pictures, out, "2/2") if at % 2 else go(pictures, out, "1/1", gather=True)
    assert result.images == 48
    assert files(out) == whole
    assert not folder.exists()


@pytest.mark.parametrize("moment", ["array_header", "sync"])
def test_killed_at_the_very_end(pictures, tmp_path, whole, monkeypatch, moment):  # noqa: F811
    go(pictures, tmp_path / "p.npy", "1/2")

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pack, moment, killed)
        with pytest.raises(Killed):
            go(pictures, tmp_path / "p.npy", "2/2")
    assert go(pictures, tmp_path / "p.npy", "1/1", gather=True).images == 48
    assert files(tmp_path / "p.npy") == whole


def test_what_one_process_began_shards_end(pictures, tmp_path, whole, monkeypatch):  # noqa: F811
    out, decoded = tmp_path / "p.npy", []
    real_json, real = pack.write_json, FolderSource.decoded

    def killed_at_the_third(path, state):
        if state["done"] == 24:
            raise Killed
        real_json(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "write_json", killed_at_the_third)
        with pytest.raises(Killed):
            run(pictures, out)

    def counted(self, index):
        decoded.append(index)
        return real(self, index)

    monkeypatch.setattr(FolderSource, "decoded", counted)
    assert isinstance(go(pictures, out, "1/2"), Partial)
    with pytest.raises(UsageError, match="was begun in shards"):
        run(pictures, out)
    assert go(pictures, out, "2/2").images == 48
    assert len(decoded) == COUNT - 16
    assert files(out) == whole


def test_one_process_begins_anew_with_overwrite(pictures, tmp_path, whole):  # noqa: F811
    go(pictures, tmp_path / "p.npy", "1/2", origin={**ORIGIN, "category": "x"})
    with pytest.raises(UsageError, match=r"begun with something else \(category: x -> None\)"):
        go(pictures, tmp_path / "p.npy", "2/2")
    run(pictures, tmp_path / "p.npy", overwrite=True)
    assert files(tmp_path / "p.npy") == whole
    assert not (tmp_path / "p.npy.unfinished").exists()


def test_a_source_that_has_changed_is_refused(pictures, tmp_path):  # noqa: F811
    go(pictures, tmp_path / "p.npy", "1/2")
    (pictures / "49.png").rename(pictures / "50.png")  # as many images as before
    with pytest.raises(UsageError, match=r"begun with something else \(names_sha256: "):
        go(pictures, tmp_path / "p.npy", "2/2")


def test_other_versions_of_libraries_are_refused(pictures, tmp_path, monkeypatch):  # noqa: F811
    go(pictures, tmp_path / "p.npy", "1/2")
    monkeypatch.setattr(pack_shards, "version", lambda name: "0.1")
    with pytest.raises(UsageError, match=r"begun with something else .*pillow: .* -> 0\.1"):
        go(pictures, tmp_path / "p.npy", "2/2")


def test_pieces_that_are_gone(pictures, tmp_path, whole):  # noqa: F811
    out, shards = tmp_path / "p.npy", tmp_path / "p.npy.unfinished" / "shards"
    go(pictures, out, "1/2")
    (shards / "000000008-000000016.pixels").unlink()
    with pytest.raises(DdimxError) as lost:
        go(pictures, out, "2/2")
    assert str(lost.value).endswith(
        "8 images that were made are not there, the first is number 8; remove "
        "shards/00001-of-00002.json, and start these shards again"
    )
    (shards / "00001-of-00002.json").unlink()
    assert go(pictures, out, "1/2").images == 48
    assert files(out) == whole


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("000000000-000000008.pixels", b"short", "5 bytes, where 7 images of 192 should be"),
        ("000000000-000000008.bad", b"{", "not JSON|remove it"),
        ("000000000-000000008.bad", b"[[7]]", "remove it"),
        ("000000000-000000008.bad", b"[]", "1344 bytes, where 8 images"),
    ],
)
def test_damaged_pieces(pictures, tmp_path, name, content, words):  # noqa: F811
    go(pictures, tmp_path / "p.npy", "1/2")
    path = tmp_path / "p.npy.unfinished" / "shards" / name
    assert path.is_file()
    path.write_bytes(content)
    with pytest.raises(DdimxError, match=words):
        go(pictures, tmp_path / "p.npy", "2/2")
    assert not (tmp_path / "p.npy").exists()


def test_every_record_says_what_is_bad(pictures, tmp_path):  # noqa: F811
    partial = go(pictures, tmp_path / "p.npy", "1/2")
    assert [reason for _, reason in partial.made.failed.values()] == [
        f"{pictures / '07.png'}: cannot be decoded (cannot identify image file)"
    ]
    record = json.loads(
        (tmp_path / "p.npy.unfinished" / "shards" / "00001-of-00002.json").read_text()
    )
    assert record["made"] == [[0, 25]]
    assert [failed[:2] for failed in record["failed"]] == [[7, str(pictures / "07.png")]]


def test_no_image_that_can_be_decoded(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes(b"broken")
    go(folder, tmp_path / "p.npy", "1/2")
    with pytest.raises(DdimxError, match="none of 4 images can be decoded"):
        go(folder, tmp_path / "p.npy", "2/2")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_disk_that_is_too_small(pictures, tmp_path, monkeypatch):  # noqa: F811
    usage = type("usage", (), {"free": 24 * 192})
    with monkeypatch.context() as patch:
        patch.setattr(pack.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DdimxError, match=r"p\.npy needs 0\.0 GB more"):
            go(pictures, tmp_path / "p.npy", "1/2")
        assert isinstance(go(pictures, tmp_path / "p.npy", "1/3"), Partial)  # 16 images
