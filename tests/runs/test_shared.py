"""Items that several processes make in shards, with items that are files of a folder."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError, UsageError
from ddimx.runs.lock import held, lock_folder
from ddimx.runs.part import Made, Part, Partial
from ddimx.runs.shards import GATHERING, Shard, remainder
from ddimx.runs.shared import (
    SharedWork,
    begun_in_shards,
    blocks_of,
    goes_on_in_shards,
    remove_shared,
)
from tests.conftest import examples
from tests.sampling import state_of

COUNT = 10


class Killed(BaseException):
    """What no handler catches, as little as SIGKILL."""


class Folder:
    """Work whose item i is the file "i"; items of ``bad`` cannot be made."""

    def __init__(self, folder: Path, count: int = COUNT, **identity) -> None:
        self.folder = folder
        self.work = SharedWork(folder, "files", count, identity)
        self.bad: set[int] = set()
        self.made: list[int] = []  # by all processes
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def make(self, part: Part, killed_at: int | None = None) -> Made:
        there = [i for i in part.pending if (self.folder / str(i)).exists()]
        failed = {}
        for i in part.pending:
            if i == killed_at:
                raise Killed
            if i in self.bad:
                failed[i] = (f"source {i}", f"source {i} is bad")
            elif i not in there:
                (self.folder / str(i)).write_text(str(i))
                self.made.append(i)
        items = [i for i in part.pending if i not in failed]
        return Made(items, failed, {"bytes": len(items)})

    def conclude(self, records, failed):
        return sum(record["bytes"] for record in records.values()), failed

    def go(self, text: str = "1/1", *, killed_at: int | None = None, gather: bool = False):
        self.work.begin(lambda: lock_folder(self.folder), self.prepare, gather=gather)
        return self.work.run(
            Shard.parsed(text),
            lambda part: self.make(part, killed_at),
            self.conclude,
            gather=gather,
        )


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "out")


def test_the_last_shard_gathers(folder):
    for text, done in (("2/3", 3), ("3/3", 7)):
        partial = folder.go(text)
        assert isinstance(partial, Partial)
        assert (partial.done, partial.count, str(partial.shard)) == (done, COUNT, text)
        assert goes_on_in_shards(folder.folder)
    assert "4 files; 7 of 10 files are there" in partial.text
    assert folder.go("1/3") == (COUNT, {})
    assert not goes_on_in_shards(folder.folder)
    assert sorted(folder.made) == list(range(COUNT))
    assert folder.prepared == 1
    left = {path.name for path in (folder.folder / "shards").iterdir()}
    assert left == {*(f"0000{k}-of-00003.json" for k in (1, 2, 3)), "manifest.json"}


def test_what_is_finished_is_not_made_again(folder):
    folder.go("1/2")
    before = state_of(folder.folder)
    partial = folder.go("1/2")
    assert "nothing is left to do for shard 1/2; 5 of 10" in partial.text
    assert state_of(folder.folder) == before
    folder.go("2/2")
    assert folder.go("2/2") == folder.go("1/7") == folder.go(gather=True) == (COUNT, {})
    assert len(folder.made) == COUNT


@examples(8)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.none() | st.integers(0, COUNT - 1)),
        max_size=12,
    ),
    st.sets(st.integers(0, COUNT - 1), max_size=3),
)
def test_any_shards_killed_anywhere(tmp_path_factory, launches, bad):
    """Whatever was launched and killed, one process ends it, and nothing was made twice."""
    folder = Folder(tmp_path_factory.mktemp("work") / "out")
    folder.bad = set(bad)
    for of, number, killed_at in launches:
        with suppress(Killed):
            folder.go(f"{min(number, of)}/{of}", killed_at=killed_at)
    total, failed = folder.go()
    assert sorted(failed) == sorted(bad)
    assert all(reason == f"source {i} is bad" for i, (_, reason) in failed.items())
    assert total == COUNT - len(bad)
    assert sorted(folder.made) == [i for i in range(COUNT) if i not in bad]


def test_what_has_failed_is_tried_again(folder):
    folder.bad = {1, 8}
    first = folder.go("1/2")
    assert first.as_json() == {
        "status": "partial",
        "shard": "1/2",
        "made": 4,
        "done": 5,
        "count": COUNT,
        "failed": [{"source": "source 1", "reason": "source 1 is bad"}],
    }
    assert sorted(folder.go("2/2")[1]) == [1, 8]
    folder.bad = {8}
    total, failed = folder.go("1/2")  # the shard that has it, once more
    assert (total, list(failed)) == (9, [8])
    folder.bad = set()
    assert folder.go("3/3") == (10, {})  # or one of another launch


def test_a_shard_is_made_once_at_a_time(folder, tmp_path):
    other = Folder(folder.folder)

    def meanwhile(part):
        for text, words in (("2/3", "shard 2/3 is being made by process"), ("1/2", "overlaps")):
            with pytest.raises(UsageError, match=words):
                other.go(text)
        with pytest.raises(UsageError, match="shard 2/3 is being made by process"):
            remove_shared(folder.folder)
        assert isinstance(other.go("1/3"), Partial)  # which is another one
        return folder.make(part)

    folder.work.begin(lambda: lock_folder(folder.folder), folder.prepare)
    folder.work.run(Shard.parsed("2/3"), meanwhile, folder.conclude)
    assert not {3, 4, 5} & set(other.made)


def test_one_process_alone_is_at_work(folder, monkeypatch):
    monkeypatch.setattr("ddimx.runs.shards.WAIT", 0.1)
    with (
        lock_folder(folder.folder),
        pytest.raises(UsageError, match="another process is writing"),
    ):
        folder.go("1/2")
    assert not folder.folder.exists()


def test_another_process_gathers(folder):
    folder.go("1/2")
    lock = folder.folder / "shards" / GATHERING
    with held(lock, folder.folder):
        partial = folder.go("2/2")
        assert "all files are there; another process is gathering them" in partial.text
        with pytest.raises(UsageError, match="another process is gathering the shards"):
            remove_shared(folder.folder)
    assert folder.go(gather=True) == (COUNT, {})


def test_gathering_says_what_is_missing(folder):
    with pytest.raises(UsageError, match="no shard was begun here; omit --gather"):
        folder.go(gather=True)
    assert not folder.folder.exists()
    folder.go("1/5")
    folder.go("4/5")
    with pytest.raises(DdimxError) as missing:
        folder.go(gather=True)
    lines = str(missing.value).split("\n")
    assert lines[0].endswith("out: 6 of 10 files are missing")
    assert lines[1:] == [
        "  files 2 to 5, 8 to 9",
        "  to be started again: --shard 2/5, 3/5, 5/5; or one process makes all that is missing: "
        "the same command without --shard and --gather",
    ]


def test_a_record_on_which_others_rely(folder):
    folder.go("1/2")  # 0 to 4
    folder.go("2/3")  # of 3 to 5 it has to make 5 alone
    (folder.folder / "shards" / "00001-of-00002.json").unlink()
    folder.go("1/3")
    with pytest.raises(DdimxError, match=r"2 of 10 files are missing\n  files 3 to 4\n.*2/3; or"):
        folder.go("3/3")
    assert folder.go("2/3") == (COUNT, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "00001-of-00002.json: not the record of a shard"),
        ('{"schema": 1, "shard": 1, "of": 2, "made": [[0, 99]]}', "not the record of a shard"),
        ('{"schema": 1, "shard": 1, "of": 2, "made": [[0, 5]]}', "not the record of a shard"),
        (
            '{"schema": 1, "shard": 1, "of": 2, "made": [[0, 4]], "failed": [[4]]}',
            "not the record of a shard",
        ),
        (
            '{"schema": 1, "shard": 1, "of": 2, "made": [[0, 4]], "failed": []}',
            "1 of 10 files are missing",
        ),
    ],
)
def test_a_damaged_record(folder, text, words):
    folder.go("1/2")
    (folder.folder / "shards" / "00001-of-00002.json").write_text(text)
    with pytest.raises(DdimxError, match=words):
        folder.go("2/2")


def test_shards_of_something_else(folder, tmp_path):
    Folder(folder.folder, size=8).go("1/2")
    for other in (Folder(folder.folder, size=9), Folder(folder.folder, count=11, size=8)):
        with pytest.raises(
            UsageError, match=r"begun with something else \((size: 8 -> 9|files: 10 -> 11)"
        ):
            other.go("2/2")
    (folder.folder / "shards" / "manifest.json").write_text("{}")
    with pytest.raises(DdimxError, match="not a manifest of a work in shards"):
        Folder(folder.folder, size=8).go("2/2")


def test_what_shards_wrote_about_themselves_goes(folder):
    folder.go("1/2")
    (folder.folder / "shards" / "notes").write_text("mine")
    (folder.folder / "shards" / "a.extra").write_text("ours")
    remove_shared(folder.folder, "*.extra")
    assert not begun_in_shards(folder.folder)
    assert [path.name for path in (folder.folder / "shards").iterdir()] == ["notes"]
    (folder.folder / "shards" / "notes").unlink()
    folder.go("1/2")
    remove_shared(folder.folder)
    assert not (folder.folder / "shards").exists()
    remove_shared(folder.folder)  # nothing to do


def test_shards_is_no_way_out(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder.folder.mkdir()
    (folder.folder / "shards").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DdimxError, match="'shards' is refused"):
        folder.go("1/2")
    assert not any((tmp_path / "elsewhere").iterdir())


@given(st.sets(st.integers(0, 40)))
def test_blocks(indices):
    blocks = blocks_of(sorted(indices))
    assert [i for block in blocks for i in block] == sorted(indices)
    assert all(one.stop < other.start for one, other in pairwise(blocks))
    gaps = remainder(range(41), blocks)
    assert {i for gap in gaps for i in gap} == set(range(41)) - indices
