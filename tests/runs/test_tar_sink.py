"""Tars of samples: the bytes of PNGs, the same ones however batches were cut or killed."""

import io
import json
import tarfile
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError, UsageError
from ddimx.runs import tar_sink as module
from ddimx.runs.formats import PARTS
from ddimx.runs.sinks import open_sink, remove_parts, unit_of
from ddimx.runs.tar_sink import TarSink
from tests.conftest import examples
from tests.runs.test_sinks import GRAY, GRAY_ALPHA, RGB, RGBA, levels
from tests.sampling import names_in

ABOUT = {"seed": "3", "times": str([*range(400)]), "prompt": "Ein Bär ☃"}
UNIT = 8


def opened(folder, indices, unit=UNIT, data=RGB):
    sink = TarSink(folder, data, ("cat", "dog"), ABOUT, unit=unit)
    sink.begin(indices)
    return sink


def samples_of(indices):
    """A sample for each index, the same whichever are made with it."""
    pixels, samples = levels(64)
    return pixels[[i % 64 for i in indices]], samples[[i % 64 for i in indices]]


def put(sink, indices):
    sink.write(indices, samples_of(indices)[1], torch.tensor([i % 2 for i in indices]))


def whole_run(folder, indices, unit=UNIT):
    """The tars of a run that nothing disturbed, by name."""
    sink = opened(folder, indices, unit)
    put(sink, list(indices))
    return {name: (folder / name).read_bytes() for name in sink.finish(indices)}


def contents(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_by_name(tmp_path):
    sink = open_sink("tar", tmp_path, RGB, ())
    assert isinstance(sink, TarSink)
    assert unit_of(sink) == module.UNIT == 4096
    assert unit_of(open_sink("png", tmp_path, RGB, ())) == 1
    assert not sink.one_file  # it may grow
    with pytest.raises(UsageError, match="a png file has at most 4 channels and these images hav"):
        open_sink("tar", tmp_path, RGB.model_copy(update={"channels": 5}), ())


@pytest.mark.parametrize("data", [RGB, GRAY, RGBA, GRAY_ALPHA], ids=lambda d: str(d.channels))
def test_members_are_the_files_of_png(tmp_path, data):
    pixels, samples = levels(3, data.channels)
    labels = torch.tensor([0, 1, 2])
    open_sink("png", tmp_path / "png", data, ("cat", "dog"), ABOUT).write(
        [5, 6, 7], samples, labels
    )
    sink = opened(tmp_path / "tar", range(5, 8), data=data)
    assert sink.done() == set()
    sink.write([5, 6, 7], samples, labels)
    assert sink.done() == {5, 6, 7}
    assert sink.finish(range(5, 8)) == ["samples-000000.tar"]
    sink.tidy()
    assert names_in(tmp_path / "tar") == ["samples-000000.tar"]
    found = contents(tmp_path / "tar" / "samples-000000.tar")
    assert list(found) == [f"00000{i}.{kind}" for i in (5, 6, 7) for kind in ("png", "json")]
    for number, name in enumerate(("cat", "dog", "none")):
        picture = f"00000{5 + number}.png"
        assert found[picture] == (tmp_path / "png" / picture).read_bytes()
        facts = {"index": str(5 + number), "class": name, **ABOUT}
        assert json.loads(found[f"00000{5 + number}.json"]) == {
            "index": 5 + number, "seed": 3, "class": name, "about": facts
        }  # fmt: skip
    assert (sink.pixels(range(6, 8)) == pixels[1:]).all()


def test_no_time_owner_or_path_is_in_a_tar(tmp_path):
    whole_run(tmp_path, range(3))
    with tarfile.open(tmp_path / "samples-000000.tar") as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert (member.uname, member.gname, member.pax_headers) == ("", "", {})
    assert str(tmp_path).encode() not in (tmp_path / "samples-000000.tar").read_bytes()


def test_each_tar_is_written_when_its_samples_are_there(tmp_path):
    indices = range(100, 121)
    sink = opened(tmp_path, indices)
    put(sink, range(100, 107))
    assert names_in(tmp_path) == [PARTS]
    put(sink, range(107, 119))
    assert names_in(tmp_path) == [PARTS, "samples-000000.tar", "samples-000001.tar"]
    assert names_in(tmp_path / PARTS) == ["00000116-3.piece"]
    put(sink, range(119, 121))
    assert names_in(tmp_path / PARTS) == []
    assert sink.finish(indices) == sink.files(indices) == names_in(tmp_path)[1:]
    assert [len(contents(tmp_path / name)) for name in sink.files(indices)] == [16, 16, 10]
    pixels = samples_of(indices)[0]
    assert (sink.pixels(indices) == pixels).all()
    assert (sink.pixels(range(107, 109)) == pixels[7:9]).all()


def test_indices_of_seven_digits(tmp_path):
    indices = range(999_999, 1_000_001)
    whole_run(tmp_path, indices)
    names = ["999999.png", "999999.json", "1000000.png", "1000000.json"]
    assert list(contents(tmp_path / "samples-000000.tar")) == names
    assert opened(tmp_path, indices).done() == set(indices)


@examples(8)
@given(
    cuts=st.lists(st.integers(1, 20), max_size=6),
    first=st.sampled_from([0, 5, 4096]),
    order=st.randoms(use_true_random=False),
)
def test_batches_do_not_show(tmp_path_factory, cuts, first, order):
    """Nor their order, nor that every batch has a process of its own."""
    indices = range(first, first + 21)
    expected = whole_run(tmp_path_factory.mktemp("whole"), indices)
    folder = tmp_path_factory.mktemp("cut")
    bounds = sorted({0, 21, *(cut for cut in cuts if cut < 21)})
    batches = [indices[a:b] for a, b in pairwise(bounds)]
    order.shuffle(batches)
    seen = set()
    for batch in batches:
        sink = opened(folder, indices)
        assert sink.done() == seen
        put(sink, batch)
        seen |= set(batch)
    names = opened(folder, indices).finish(indices)
    assert {name: (folder / name).read_bytes() for name in names} == expected


def test_a_run_that_grows_replaces_its_last_tar(tmp_path):
    expected = whole_run(tmp_path / "whole", range(2, 20))
    whole_run(tmp_path / "run", range(2, 13))
    sink = opened(tmp_path / "run", range(2, 20))
    assert sink.done() == set(range(2, 13))
    with pytest.raises(DdimxError, match=r"samples-000001\.tar: samples of it are missing"):
        sink.finish(range(2, 20))
    put(sink, range(13, 15))  # then another process
    sink = opened(tmp_path / "run", range(2, 20))
    assert sink.done() == set(range(2, 15))
    put(sink, range(15, 20))
    assert {n: (tmp_path / "run" / n).read_bytes() for n in sink.finish(range(2, 20))} == expected
    sink.tidy()
    assert names_in(tmp_path / "run") == [*expected]


def test_pieces_that_overlap(tmp_path):
    """As after batches of another size; the first that has a sample gives it."""
    expected = whole_run(tmp_path / "whole", range(8))
    sink = opened(tmp_path / "run", range(8))
    for batch in (range(5), range(3, 7), range(4, 6), range(6, 8)):
        put(sink, batch)
    assert (tmp_path / "run" / "samples-000000.tar").read_bytes() == expected["samples-000000.tar"]
    assert names_in(tmp_path / "run" / PARTS) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_a_tar_is_put_together(tmp_path, monkeypatch, moment):
    """Before it has its name, or before its pieces are gone: the next process ends the same."""
    expected = whole_run(tmp_path / "whole", range(12))

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    sink = opened(tmp_path / "run", range(12))
    put(sink, range(5))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_copy" if moment == "before" else "sync", killed)
        with pytest.raises(Killed):
            put(sink, range(5, 12))
    assert (tmp_path / "run" / "samples-000000.tar").exists() == (moment == "after")
    sink = opened(tmp_path / "run", range(12))
    assert sink.done() == set(range(12))
    assert {n: (tmp_path / "run" / n).read_bytes() for n in sink.finish(range(12))} == expected
    sink.tidy()
    assert names_in(tmp_path / "run") == [*expected]


def test_what_is_not_ours_is_named(tmp_path):
    whole_run(tmp_path, range(10))
    path = tmp_path / "samples-000000.tar"
    data = path.read_bytes()
    for wrong, why in (
        (data[:-512], "it is cut"),
        (data[:10240], "it is cut"),
        (bytes(10240), "it ends without a sample"),
        (b"", "not a tar file"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(
            DdimxError, match=rf"samples-000000\.tar: not what .* \({why}\); remove"
        ):
            opened(tmp_path, range(10)).done()
    path.unlink()
    sink = opened(tmp_path, range(10))
    assert sink.done() == {8, 9}
    put(sink, range(2))
    piece = tmp_path / PARTS / "00000000-2.piece"
    for number, content in enumerate((b"", piece.read_bytes()[:900], b"x" * 2000)):
        piece.write_bytes(content)
        with pytest.raises(DdimxError, match=r"00000000-2\.piece: not what this run wrote \("):
            put(sink, range(2 + number, 8))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i in (0, 2):
            for kind in ("png", "json"):
                archive.addfile(tarfile.TarInfo(f"{i:06d}.{kind}"))
    piece.write_bytes(stream.getvalue())
    with pytest.raises(DdimxError, match="its members are others"):
        sink.finish(range(10))
    whole_run(tmp_path / "b", range(3))
    with pytest.raises(DdimxError, match=r"holds no 000003\.png"):
        opened(tmp_path / "b", range(3)).pixels(range(2, 4))


def test_a_long_last_json_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TAIL", 2048)  # less than the last sample takes
    whole_run(tmp_path, range(3))
    assert opened(tmp_path, range(9)).done() == {0, 1, 2}


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / PARTS).mkdir()
    others = ("samples-1.tar", "other.tar", "samples-000000.tar.gz", "samples-000007.tar")
    pieces = ("notes.piece", "00000099-2.piece", "00000000-0.piece")
    for name in (*others, *(f"{PARTS}/{piece}" for piece in pieces)):
        (tmp_path / name).write_text("keep me")
    sink = opened(tmp_path, range(2))
    assert sink.done() == set()
    put(sink, [0])
    assert sink.done() == {0}
    put(sink, [1])
    assert sink.finish(range(2)) == ["samples-000000.tar"]
    sink.tidy()
    assert names_in(tmp_path) == sorted([*others, PARTS, "samples-000000.tar"])
    assert names_in(tmp_path / PARTS) == sorted(pieces)
    assert all((tmp_path / name).read_text() == "keep me" for name in others)
    remove_parts(tmp_path)  # of --overwrite: what bears a piece's name is one
    assert names_in(tmp_path / PARTS) == ["notes.piece"]


def test_parts_that_lead_elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / PARTS).symlink_to(tmp_path / "elsewhere")
    sink = opened(tmp_path / "run", range(2))
    for act in (sink.done, lambda: put(sink, [0]), sink.tidy):
        with pytest.raises(DdimxError, match="by a symbolic link"):
            act()
    assert names_in(tmp_path / "elsewhere") == []


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    sink = opened(tmp_path, range(8))

    def full(*_, **__):
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(OSError, match="disk"):
            put(sink, range(4))
    assert names_in(tmp_path / PARTS) == []
    assert opened(tmp_path, range(8)).done() == set()
