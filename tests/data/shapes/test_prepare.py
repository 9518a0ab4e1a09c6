"""A folder of octrees: what is made, kept, made again, skipped, and left by an interrupted run."""

import io
import json
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from ddimx.data.shapes import jobs as shape_jobs
from ddimx.data.shapes import prepare as shape_set
from ddimx.data.shapes.jobs import Job, PrepareSettings
from ddimx.data.shapes.meshes import Surface
from ddimx.data.shapes.prepare import ShapeFolder
from ddimx.errors import DdimxError, UsageError
from ddimx.octree.file import read_shape
from ddimx.progress import Progress
from ddimx.signals import Interrupted
from tests.data.shapes.meshes import BOX, FACES, box, broken, hidden, large, slow
from tests.sampling import state_of


def jobs(count=3, **others):
    made = [
        Job("box", f"b{i}", f"b{i}.obj", str(i), partial(box, 1 + i), {"name": f"Box {i}"})
        for i in range(count)
    ]
    return made + [Job("box", name, f"{name}.obj", "0", read) for name, read in others.items()]


def prepare(folder, work, *, depth=3, workers=1, overwrite=False, **settings):
    shapes = ShapeFolder(folder, PrepareSettings("here", depth, **settings))
    progress = Progress(console=Console(file=io.StringIO(), width=200))
    outcome = shapes.run(work, workers=workers, progress=progress, overwrite=overwrite)
    shapes.finish(outcome, ["train", "val", "test", *["train"] * 99][: len(outcome.made)], {})
    return outcome


def lines(folder, part):
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def test_the_layout(tmp_path):
    outcome = prepare(tmp_path / "set", jobs())
    assert (len(outcome.made), len(outcome.failed), outcome.found) == (3, 0, 0)
    (row,) = lines(tmp_path / "set", "val")
    shape = read_shape(tmp_path / "set" / row["file"])
    assert row == {
        "file": "shapes/box/b1.npz",
        "category": "box",
        "shape_id": "b1",
        "nodes": sum(shape.tree.counts[:-1]),
        "leaves": shape.tree.counts[-1],
        "source": "b1.obj",
        "name": "Box 1",
    }
    assert (shape.category, shape.shape_id, shape.tree.depth) == ("box", "b1", 3)
    assert np.array_equal(shape.tree.leaves, box(2).tree(3).leaves)
    assert shape.tree.edge == pytest.approx(4 / 0.99)  # the way back to the mesh's units
    record = json.loads((tmp_path / "set" / "prepare.json").read_text())
    assert record["settings"]["depth"] == 3
    assert record["counts"] == {"train": 1, "val": 1, "test": 1}


def test_several_processes_make_the_same_files(tmp_path):
    count = 9
    prepare(tmp_path / "one", jobs(count))
    prepare(tmp_path / "two", jobs(count), workers=2)
    for name in ["train.jsonl", *(f"shapes/box/b{i}.npz" for i in range(count))]:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_bad_mesh_is_skipped_listed_and_tried_again(tmp_path):
    outcome = prepare(tmp_path / "set", jobs(2, bad=broken))
    assert [made.job.shape_id for made in outcome.failed] == ["bad"]
    reasons = json.loads((tmp_path / "set" / "failures.json").read_text())
    assert reasons == [{"source": "bad.obj", "reason": "b.obj: not a readable OBJ file"}]
    outcome = prepare(tmp_path / "set", jobs(2, bad=box))
    assert (len(outcome.made), outcome.found) == (3, 2)
    assert not (tmp_path / "set" / "failures.json").exists()


def test_an_octrees_fault_names_the_source(tmp_path):
    flat = partial(Surface, BOX * 0, FACES)
    prepare(tmp_path / "set", jobs(1, flat=flat))
    (reason,) = json.loads((tmp_path / "set" / "failures.json").read_text())
    assert reason["reason"] == "flat.obj: all points lie in one place: the shape has no extent"


def test_nothing_made_is_no_success(tmp_path):
    with pytest.raises(DdimxError, match=r"none of 2 shapes could be made; the first: b\.obj"):
        prepare(tmp_path / "set", jobs(0, bad=broken, worse=broken))
    assert len(json.loads((tmp_path / "set" / "failures.json").read_text())) == 2
    assert not (tmp_path / "set" / "train.jsonl").exists()


def test_what_is_there_is_kept(tmp_path):
    prepare(tmp_path / "set", jobs())
    before = state_of(tmp_path / "set" / "shapes")
    assert prepare(tmp_path / "set", jobs()).found == 3
    assert state_of(tmp_path / "set" / "shapes") == before


def test_a_changed_source_and_a_damaged_file_are_made_again(tmp_path):
    folder = tmp_path / "set"
    prepare(folder, jobs())
    good = (folder / "shapes/box/b0.npz").read_bytes()
    (folder / "shapes/box/b0.npz").write_bytes(good[:100])
    (folder / "shapes/box/b1.npz").unlink()
    changed = [*jobs()[:2], Job("box", "b2", "b2.obj", "later", partial(box, 0.1))]
    assert prepare(folder, changed).found == 0
    assert (folder / "shapes/box/b0.npz").read_bytes() == good
    tree = read_shape(folder / "shapes/box/b2.npz").tree
    assert np.array_equal(tree.leaves, box(0.1).tree(3).leaves)


def test_what_is_no_longer_wanted_goes(tmp_path):
    prepare(tmp_path / "set", jobs(3))
    prepare(tmp_path / "set", jobs(2))
    assert sorted(p.name for p in (tmp_path / "set" / "shapes/box").iterdir()) == [
        "b0.npz",
        "b1.npz",
    ]


def test_other_settings_are_refused_and_replace_the_set_on_request(tmp_path):
    folder = tmp_path / "set"
    prepare(folder, jobs())
    before = state_of(folder)
    with pytest.raises(UsageError, match="prepared with depth 3 instead of 4; give --overwrite"):
        prepare(folder, jobs(), depth=4)
    assert state_of(folder) == before
    assert prepare(folder, jobs(2), depth=4, overwrite=True).found == 0
    assert read_shape(folder / "shapes/box/b0.npz").tree.depth == 4
    assert not (folder / "shapes/box/b2.npz").exists()


def test_a_strangers_folder_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is not a prepared set"):
        prepare(tmp_path, jobs(), overwrite=True)
    with pytest.raises(UsageError, match="exists and is not a folder"):
        prepare(tmp_path / "letter.txt", jobs())
    (tmp_path / "prepare.json").write_text("{}")
    with pytest.raises(UsageError, match="not the record of a prepared set"):
        prepare(tmp_path, jobs())


def test_two_shapes_of_one_name_are_refused_before_anything_is_written(tmp_path):
    twice = [*jobs(1), Job("Box", "B0", "other.obj", "", box)]
    with pytest.raises(UsageError, match=r"b0\.obj and other\.obj are both shape 'B0'"):
        prepare(tmp_path / "set", twice)
    assert not (tmp_path / "set").exists()


def test_an_interrupted_run_leaves_whole_files_and_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "set"

    def interrupted(work, settings, folder, workers):
        yield from shape_jobs.make_all(work[:2], settings, folder, workers)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(shape_set, "make_all", interrupted)
        with pytest.raises(Interrupted):
            prepare(folder, jobs(3))
    assert sorted(p.name for p in folder.iterdir()) == ["journal.jsonl", "prepare.json", "shapes"]
    for i in range(2):
        read_shape(folder / f"shapes/box/b{i}.npz")
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write('{"file": "shapes/box/b1.npz", "st')  # cut off by a power failure
    (folder / "shapes/box/.b9.npz.abcd1234.part").write_bytes(b"half")
    assert prepare(folder, jobs(3)).found == 2
    assert prepare(folder, jobs(3)).found == 3
    assert len(list((folder / "shapes/box").iterdir())) == 3


def test_hidden_cells_are_left_out_on_request(tmp_path):
    work = jobs(1, hidden=hidden)
    prepare(tmp_path / "all", work, depth=5)
    prepare(tmp_path / "seen", work, depth=5, visible=True)
    leaves = [
        read_shape(tmp_path / d / "shapes/box/hidden.npz").tree.leaves for d in ("all", "seen")
    ]
    assert np.array_equal(leaves[1], box().tree(5).leaves)
    assert set(leaves[1].tolist()) < set(leaves[0].tolist())


def test_a_mesh_too_large_for_memory_or_patience_is_one_bad_mesh(tmp_path, monkeypatch):
    monkeypatch.setattr(shape_jobs, "SECONDS", 0.5)
    prepare(tmp_path / "set", jobs(1, large=large, slow=slow))
    reasons = json.loads((tmp_path / "set" / "failures.json").read_text())
    assert [one["reason"] for one in reasons] == [
        "large.obj: needs more than 0.3 GB of memory at depth 3; --limit-memory allows it more",
        "slow.obj: takes more than 0.5 seconds of computing at depth 3; --limit-memory allows it "
        "more",
    ]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(shape_set, "make_all", full)
    with pytest.raises(DdimxError, match=r"cannot write .*set: No space left on device"):
        prepare(tmp_path / "set", jobs())


def test_manifest_rows_are_what_the_journal_says():
    made = shape_jobs.Made(jobs(1)[0], {"nodes": 3, "leaves": 8, "stamp": "0", "bytes": 9})
    assert shape_set.row(made)["leaves"] == 8
    assert "stamp" not in shape_set.row(made)


@pytest.mark.parametrize("key", ["nodes", "leaves", "bytes", "stamp"])
def test_a_journals_line_that_lacks_something_is_made_again(tmp_path, key):
    folder = tmp_path / "set"
    prepare(folder, jobs(2))
    before = lines(folder, "train")
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().split("\n") if line]
    del rows[0][key]
    wrong = [rows[1] | {key: []}, [], 5, None]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, *wrong]) + "[" * 100_000 + "\n"
    (folder / "journal.jsonl").write_text(text + '{"file": "shapes/box/b0.npz", "nodes": 1' + "\n")
    assert prepare(folder, jobs(2)).found == 0
    assert lines(folder, "train") == before


@pytest.mark.parametrize("text", ["[" * 100_000, '{"settings": []}', '{"settings": 5}', "\xff"])
def test_a_record_that_is_none(tmp_path, text):
    prepare(tmp_path / "set", jobs(1))
    (tmp_path / "set" / "prepare.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"prepare\.json is not the record of a prepared set"):
        prepare(tmp_path / "set", jobs(1))


def test_the_journal_does_not_show_how_a_set_was_made(tmp_path, monkeypatch):
    """Undisturbed, stopped after two shapes with another order of jobs, or in several processes."""
    count = 10
    prepare(tmp_path / "whole", jobs(count))

    def interrupted(work, settings, folder, workers):
        yield from shape_jobs.make_all(work[:1:-1], settings, folder, workers)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(shape_set, "make_all", interrupted)
        with pytest.raises(Interrupted):
            prepare(tmp_path / "stopped", jobs(4))
    assert len((tmp_path / "stopped" / "journal.jsonl").read_text().splitlines()) == 2
    prepare(tmp_path / "stopped", jobs(count))
    prepare(tmp_path / "parallel", jobs(count), workers=2)
    journal = (tmp_path / "whole" / "journal.jsonl").read_text()
    files = [json.loads(line)["file"] for line in journal.splitlines()]
    assert files == [f"shapes/box/b{i}.npz" for i in range(count)]
    for name in ("stopped", "parallel"):
        assert (tmp_path / name / "journal.jsonl").read_text() == journal


def test_a_folder_that_was_only_begun_is_taken(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / ".prepare.json.abcd1234.part").write_text("{")
    (folder / ".ddimx.lock").write_text("")
    prepare(folder, jobs(1))
    assert sorted(p.name for p in folder.iterdir() if p.name != ".ddimx.lock") == [
        "journal.jsonl",
        "prepare.json",
        "shapes",
        "test.jsonl",
        "train.jsonl",
        "val.jsonl",
    ]


def test_a_setting_that_an_older_set_lacks_is_the_default(tmp_path):
    folder = tmp_path / "set"
    prepare(folder, jobs(1))
    record = json.loads((folder / "prepare.json").read_text())
    del record["settings"]["visible"]
    (folder / "prepare.json").write_text(json.dumps(record))
    assert prepare(folder, jobs(1)).found == 1
    with pytest.raises(UsageError, match="visible False instead of True"):
        prepare(folder, jobs(1), visible=True)


def test_a_second_process_is_refused(tmp_path):
    shapes = ShapeFolder(tmp_path / "set", PrepareSettings("here", 3))
    with (
        shapes.alone(),
        pytest.raises(UsageError, match="another process is writing"),
        ShapeFolder(tmp_path / "set", PrepareSettings("here", 3)).alone(),
    ):
        pass
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["test.jsonl", "prepare.json", "journal.jsonl"])
def test_a_disk_that_fills_up_at_the_end_leaves_what_goes_on(tmp_path, monkeypatch, name):
    folder, real = tmp_path / "set", shape_set.write_bytes

    def full(path, data):
        if path.name == name:
            raise OSError(28, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(shape_set, "write_bytes", full)
        patch.setattr(shape_set, "write_json", lambda path, _: full(path, b"{}"))
        with pytest.raises(DdimxError, match="No space left on device; what was written is valid"):
            prepare(folder, jobs(2))
    (folder / "prepare.json").unlink(missing_ok=True)
    shape_set.write_json(folder / "prepare.json", {"settings": vars(PrepareSettings("here", 3))})
    assert prepare(folder, jobs(2)).found in (0, 2)
