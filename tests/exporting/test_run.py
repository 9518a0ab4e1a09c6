"""Many shapes: several processes, Ctrl-C, and what is reported."""

import signal

import pytest

from ddimx.exporting.run import run
from ddimx.exporting.settings import ExportSettings, named_formats, without_suffix
from ddimx.exporting.sources import ExportItem, items_of
from ddimx.progress import Progress
from ddimx.signals import Stop
from tests.exporting import write


class Counting(Progress):
    """Counts what is reported, and may set a stop after so many."""

    def __init__(self, stop=None, after=None):
        super().__init__(quiet=True)
        self.total = self.count = 0
        self.stop_after = (stop, after)

    def start(self, what, total, done=0):
        self.total = total

    def advance(self, count=1, note=""):
        self.count += count
        stop, after = self.stop_after
        if stop is not None and self.count == after:
            stop.signal = signal.SIGINT


@pytest.fixture
def items(tmp_path):
    for i in range(5):
        write(tmp_path / f"{i}.npz", legs=i)
    return items_of(tmp_path, tmp_path / "out")


def test_processes_make_the_same_files_in_the_same_order(tmp_path, items):
    (tmp_path / "2.npz").write_bytes(b"")
    records = []
    for workers in (1, 2):
        progress = Counting()
        settings = ExportSettings(formats=("spz",), workers=workers, overwrite=workers == 2)
        records.append(run(items, settings, Stop(), progress))
        assert progress.count == progress.total == 5
    for record in records:
        assert record.pop("seconds") > 0
        assert record["status"] == "failed"
        assert [shape["splats"] for shape in record["exported"]] == [64, 73, 91, 100]
        assert [failed["source"] for failed in record["failed"]] == [str(tmp_path / "2.npz")]
    written, unchanged = (
        [file["state"] for shape in record["exported"] for file in shape["files"]]
        for record in records
    )
    assert set(written) == {"written"}
    assert set(unchanged) == {"unchanged"}  # byte for byte the same


@pytest.mark.parametrize("merge", [False, True])
def test_a_stop_ends_after_the_shape_in_hand(tmp_path, items, merge):
    stop = Stop()
    merged = ExportItem(tmp_path / "all", tmp_path / "all") if merge else None
    settings = ExportSettings(formats=("splat",))
    record = run(items, settings, stop, Counting(stop, after=2), merged=merged)
    assert record["status"] == "interrupted"
    assert len(list((tmp_path / "out").glob("*"))) == (0 if merge else 2)
    assert not (tmp_path / "all.splat").exists()
    again = run(items, settings, Stop(), Counting(), merged=merged)
    assert again["status"] == "complete"
    if not merge:
        assert [shape["files"][0]["state"] for shape in again["exported"]] == [
            *["unchanged"] * 2,
            *["written"] * 3,
        ]


def test_a_stop_during_processes_leaves_whole_files(tmp_path, items):
    stop = Stop()
    settings = ExportSettings(formats=("splat",), workers=2)
    record = run(items, settings, stop, Counting(stop, after=1))
    files = {file["path"] for shape in record["exported"] for file in shape["files"]}
    assert files == {str(path) for path in (tmp_path / "out").glob("*")}
    assert record["status"] == ("complete" if len(files) == 5 else "interrupted")


def test_formats_may_come_with_commas_or_one_by_one():
    assert named_formats(["spz,3DGS", " glb", "spz"]) == ("spz", "3dgs", "glb")


def test_suffixes_come_off(tmp_path):
    for name in ("a.3dgs.ply", "a.ply", "a.spz", "a"):
        assert without_suffix(tmp_path / name) == tmp_path / "a"
    assert without_suffix(tmp_path / ".ply") == tmp_path / ".ply"
