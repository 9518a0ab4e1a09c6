"""A set of octrees that shards make is the one that one process makes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest

from ddimx.data.shapes import prepare as shape_set
from ddimx.data.shapes.jobs import PrepareSettings
from ddimx.data.shapes.prepare import ShapeFolder
from ddimx.data.shapes.prepare_shards import run_shard
from ddimx.errors import DdimxError, UsageError
from ddimx.progress import Progress
from ddimx.runs.part import Partial
from ddimx.runs.shards import Shard
from tests.data.shapes.meshes import box, broken
from tests.data.shapes.test_prepare import jobs, prepare

COUNT = 7


class Killed(BaseException):
    """What no handler catches, as little as SIGKILL."""


def go(folder, work, text="1/1", *, gather=False, depth=3, **settings):
    shapes = ShapeFolder(folder, PrepareSettings("here", depth, **settings))

    def finish(outcome):
        shapes.finish(outcome, ["train", "val", "test", *["train"] * 99][: len(outcome.made)], {})

    return run_shard(
        *(shapes, work, Shard.parsed(text)),
        workers=1,
        progress=Progress(quiet=True),
        finish=finish,
        about={},
        gather=gather,
    )


def tree(folder):
    """All files of a set, but what its shards say about themselves."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "shards"
    }


@pytest.fixture
def whole(tmp_path):
    """What one process makes of seven boxes and a mesh that cannot be read."""
    prepare(tmp_path / "whole", jobs(COUNT, bad=broken))
    return tree(tmp_path / "whole")


@pytest.fixture
def made(monkeypatch):
    """The shapes that are made, by all processes, in their order."""
    made = []
    real = shape_set.make_all

    def counted(work, *args):
        made.extend(job.shape_id for job in work)
        return real(work, *args)

    monkeypatch.setattr(shape_set, "make_all", counted)
    return made


def test_the_same_files_as_of_one_process(tmp_path, whole, made):
    folder, work = tmp_path / "set", jobs(COUNT, bad=broken)
    for k in (3, 1):
        result = go(folder, work, f"{k}/3")
        assert isinstance(result, Partial)
        assert not list(folder.glob("*.jsonl"))  # a folder with lists is complete
    outcome = go(folder, work, "2/3")
    assert (len(outcome.made), len(outcome.failed), outcome.found) == (7, 1, 4)
    assert tree(folder) == whole
    assert sorted(made) == [*(f"b{i}" for i in range(7)), "bad"]
    names = sorted(path.name for path in (folder / "shards").iterdir())
    assert names == [*(f"0000{k}-of-00003.json" for k in (1, 2, 3)), "manifest.json"]
    assert len(go(folder, work, "1/3").made) == len(go(folder, work, gather=True).made) == 7
    assert len(made) == 8


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_shard_goes_on_also_as_another_one(tmp_path, whole, made, monkeypatch, after):
    folder, work, count = tmp_path / "set", jobs(COUNT, bad=broken), []
    real = Progress.advance

    def killed(self, *args, **options):  # called when a shape is made and noted
        count.append(1)
        if len(count) == after + 1:
            raise Killed
        real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", killed)
        with pytest.raises(Killed):
            go(folder, work, "1/2")
    made.clear()
    for text in ("2/2", "3/3", "1/3", "2/3"):
        outcome = go(folder, work, text)
    assert len(outcome.made) == 7
    assert len([name for name in made if name != "bad"]) == 7 - (after + 1)
    assert tree(folder) == whole


def test_what_has_failed_is_tried_again_by_its_shard(tmp_path, made):
    folder, mended = tmp_path / "set", jobs(COUNT, bad=box)
    work = jobs(COUNT, bad=broken)
    go(folder, work, "1/2")
    assert [made.job.shape_id for made in go(folder, work, "2/2").failed] == ["bad"]
    made.clear()
    assert not go(folder, mended, "1/2").made[7:]  # has nothing to do with it
    assert made == []
    outcome = go(folder, mended, "2/2")
    assert (made, len(outcome.made), outcome.failed) == (["bad"], 8, ())
    prepare(tmp_path / "whole", mended)
    assert tree(folder) == tree(tmp_path / "whole")


def test_one_process_goes_on_where_shards_stopped(tmp_path, whole, made):
    """Alone, when they are complete, with other shapes too; nothing is made twice."""
    folder, work = tmp_path / "set", jobs(COUNT, bad=broken)
    go(folder, work, "1/2")
    go(folder, work, "2/2")
    made.clear()
    prepare(folder, jobs(COUNT + 1, bad=broken))
    assert made == ["b7", "bad"]
    assert not (folder / "shards").exists()
    prepare(folder, work)
    assert tree(folder) == whole


def test_one_process_takes_over_the_journals_of_shards(tmp_path, whole, made):
    folder, work = tmp_path / "set", jobs(COUNT, bad=broken)
    go(folder, work, "2/2")
    made.clear()
    prepare(folder, work)
    assert made == ["b0", "b1", "b2", "b3", "bad"]
    assert tree(folder) == whole


def test_shards_go_on_where_one_process_stopped(tmp_path, whole, made):
    folder, work = tmp_path / "set", jobs(COUNT, bad=broken)
    prepare(folder, work[:3])
    made.clear()
    for text in ("1/2", "2/2"):
        go(folder, work, text)
    assert made == ["b3", *(f"b{i}" for i in range(4, 7)), "bad"]
    assert tree(folder) == whole


def test_a_source_that_changes_meanwhile(tmp_path):
    folder, work = tmp_path / "set", jobs(4)
    go(folder, work, "1/2")
    changed = [replace(work[0], stamp="new", read=partial(box, 5)), *work[1:]]
    with pytest.raises(DdimxError) as lost:
        go(folder, changed, "2/2")
    assert str(lost.value).endswith(
        "1 shapes that were made are not there, or their sources have changed since, the first is "
        "number 0; remove shards/00001-of-00002.json, and start these shards again"
    )
    (folder / "shards" / "00001-of-00002.json").unlink()
    go(folder, changed, "1/2")
    prepare(tmp_path / "whole", changed)
    assert tree(folder) == tree(tmp_path / "whole")


def test_other_sets_are_refused(tmp_path):
    folder, work = tmp_path / "set", jobs(4)
    go(folder, work, "1/2")
    for other, options in (
        (work, {"depth": 4}),
        (jobs(5), {}),
        ([*work[:3], replace(work[3], shape_id="other")], {}),
    ):
        with pytest.raises(UsageError, match="its shards were begun with something else"):
            go(folder, other, "2/2", **options)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine").write_text("text")
    with pytest.raises(UsageError, match="is not a prepared set"):
        go(tmp_path / "notes", work, "1/2")
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match="not a folder"):
        go(tmp_path / "file", work, "1/2")


@pytest.mark.parametrize("name", ["../x.npz", "/etc/x", 5])
def test_the_journal_of_a_shard_is_no_way_out(tmp_path, name):
    folder, work = tmp_path / "set", jobs(4)
    go(folder, work, "1/2")
    journal = folder / "shards" / "00001-of-00002.jsonl"
    journal.write_text(json.dumps({"file": name}) + "\n")
    for run in (partial(go, folder, work, "2/2"), partial(prepare, folder, work)):
        with pytest.raises(DdimxError, match=r"00001-of-00002\.jsonl: the name .* is refused"):
            run()


def test_the_journal_of_a_shard_is_no_link(tmp_path):
    folder, work = tmp_path / "set", jobs(4)
    go(folder, work, "1/2")
    (tmp_path / "elsewhere").write_text("text")
    (folder / "shards" / "00002-of-00002.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DdimxError, match="is refused: it leads out"):
        go(folder, work, "2/2")
    assert (tmp_path / "elsewhere").read_text() == "text"
