"""An export in shards: the files that one process writes."""

from __future__ import annotations

import signal

import pytest

from ddimx.errors import DdimxError, UsageError
from ddimx.exporting.api import placed
from ddimx.exporting.run import run
from ddimx.exporting.settings import ExportSettings
from ddimx.exporting.shards import run_shard
from ddimx.files import write_bytes
from ddimx.progress import Progress
from ddimx.runs.lock import lock_folder
from ddimx.runs.part import Partial
from ddimx.runs.shards import Shard
from ddimx.signals import Stop
from tests.exporting import write
from tests.exporting.test_run import Counting

SETTINGS = ExportSettings(formats=("spz", "json"), workers=1)


@pytest.fixture
def source(tmp_path):
    """Five shapes in two folders, and a file that is none."""
    for i in range(5):
        (tmp_path / "in" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        write(tmp_path / "in" / "ab"[i % 2] / f"{i}.npz", legs=i)
    (tmp_path / "in" / "b" / "9.npz").write_bytes(b"")
    return tmp_path / "in"


def go(source, out, text="1/1", *, gather=False, settings=SETTINGS, stop=None, progress=None):
    return run_shard(
        placed(source, out, settings, merge=False),
        *(settings, Stop() if stop is None else stop, progress or Progress(quiet=True)),
        folder=out,
        shard=Shard.parsed(text),
        gather=gather,
    )


def tree(folder):
    """All exported files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "shards"
    }


@pytest.fixture
def whole(source, tmp_path):
    """What one process writes."""
    items = placed(source, tmp_path / "whole", SETTINGS, merge=False)
    run(items, SETTINGS, Stop(), Progress(quiet=True))
    return tree(tmp_path / "whole")


def test_the_same_files_as_of_one_process(source, tmp_path, whole):
    out = tmp_path / "out"
    assert isinstance(go(source, out, "4/4"), Partial)
    partial = go(source, out, "1/4")
    assert (partial.done, partial.count) == (3, 6)
    go(source, out, "3/4")
    record = go(source, out, "2/4")
    assert record.pop("seconds") > 0
    assert record == {
        "status": "failed",
        "shapes": 6,
        "shards": 4,
        "exported": 5,
        "splats": 64 + 73 + 82 + 91 + 100,
        "files": 10,
        "bytes": sum(map(len, whole.values())),
        "failed": [
            {
                "source": str(source / "b" / "9.npz"),
                "error": f"{source / 'b' / '9.npz'}: not an octree file: neither .npz nor .npy",
            }
        ],
    }
    assert tree(out) == whole
    assert not list(out.rglob(".*"))


def test_what_has_failed_is_tried_again(source, tmp_path):
    out = tmp_path / "out"
    go(source, out, "1/2")
    assert go(source, out, "2/2")["status"] == "failed"
    write(source / "b" / "9.npz", legs=2)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.spz")}
    record = go(source, out, "2/2")
    assert (record["status"], record["exported"], record["files"]) == ("complete", 6, 12)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert go(source, out, gather=True)["status"] == "complete"


def test_a_stop_leaves_no_record(source, tmp_path, whole):
    out, stop = tmp_path / "out", Stop()
    assert go(source, out, "1/2", stop=stop, progress=Counting(stop, after=1)) is None
    assert len(tree(out)) == 2
    assert stop.signal == signal.SIGINT
    with pytest.raises(DdimxError, match="6 of 6 shapes are missing"):
        go(source, out, gather=True)
    go(source, out, "1/2")
    go(source, out, "2/2")
    assert tree(out) == whole


def test_one_process_and_shards_exclude_each_other(source, tmp_path, monkeypatch):
    monkeypatch.setattr("ddimx.runs.shards.WAIT", 0.1)
    out = tmp_path / "out"
    with (
        lock_folder(out / "b", "export"),  # it may export into a part of the folder
        pytest.raises(UsageError, match="another process is writing"),
    ):
        go(source, out, "1/2")


def test_files_that_are_gone_or_of_somebody_else(source, tmp_path):
    out = tmp_path / "out"
    write_bytes(out / "a" / "0.spz", b"mine")
    partial = go(source, out, "1/2")
    ((_, reason),) = partial.made.failed.values()
    assert "0.spz is there with other contents; give --overwrite" in reason
    assert (out / "a" / "0.spz").read_bytes() == b"mine"
    (out / "a" / "0.spz").unlink()
    assert not go(source, out, "1/2").made.failed
    (out / "a" / "2.json").unlink()
    with pytest.raises(DdimxError, match=r"number 1; remove shards/00001-of-00002\.json, and st"):
        go(source, out, "2/2")


def test_another_export_is_refused(source, tmp_path):
    out = tmp_path / "out"
    go(source, out, "1/2")
    for other in (ExportSettings(formats=("spz",)), ExportSettings(SETTINGS.formats, unit=2.0)):
        with pytest.raises(UsageError, match="its shards were begun with something else"):
            go(source, out, "2/2", settings=other)
    write(source / "a" / "new.npz")
    with pytest.raises(UsageError, match="shapes: 6 -> 7"):
        go(source, out, "2/2")


def test_the_folder_of_a_run_has_shards_of_its_own(source, tmp_path):
    out = tmp_path / "out"
    write_bytes(out / "manifest.json", b"{}")
    with pytest.raises(UsageError, match="is the folder of a run, which has shards of its own"):
        go(source, out, "1/2")
