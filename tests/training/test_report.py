"""What a training run reports: its log after a stop or a kill, and what cannot be written."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from ddimx.errors import DdimxError
from ddimx.progress import Progress
from ddimx.signals import Stop
from ddimx.training import report as reporting
from ddimx.training.loop import Trainer
from ddimx.training.report import FolderReporter
from ddimx.training.state import restore
from tests.training.small import LOSSES, newest, same_tensors


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """In place of pictures of curves the list of what was drawn: the file, and lines of the log."""
    pictures = []
    monkeypatch.setattr(
        reporting,
        "draw_curves",
        lambda path, log: pictures.append((path, len(log.read_text().splitlines()))),
    )
    return pictures


def test_curves_are_drawn_at_every_checkpoint_with_what_was_measured_there(
    trainer, monkeypatch, drawn
):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)
    monkeypatch.setattr(FolderReporter, "EVERY", 3)
    run = trainer()
    run.run(Stop(), report_of(run))
    path = run.folder / "curves.png"
    assert drawn == [(path, 2), (path, 4)]  # each with the line of the validation beside it


def test_curves_that_cannot_be_drawn_are_said_once(trainer, monkeypatch):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)
    monkeypatch.setattr(reporting, "draw_curves", lambda *_: "curves.png is omitted: it is so")
    stream, run = io.StringIO(), trainer()
    run.folder.mkdir()
    report = FolderReporter(run.folder, Progress(console=Console(file=stream, width=200)), 4)
    run.run(Stop(), report)
    assert stream.getvalue().count("curves.png is omitted: it is so") == 1

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reporting, "draw_curves", full)
    other = trainer("other")
    assert other.run(Stop(), report_of(other))
    (note,) = [line["note"] for line in log_of(other) if "note" in line]
    assert (
        note
        == f"cannot write {other.folder / 'curves.png'}: No space left on device; training goes on"
    )


def test_the_log_of_a_run(trainer, monkeypatch):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)
    monkeypatch.setattr(FolderReporter, "EVERY", 2)
    run = trainer()
    run.folder.mkdir()
    report = FolderReporter(run.folder, Progress(quiet=True), 4)
    run.run(Stop(), report)
    report.close()
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "validation_train" in line] == [3, 6]
    first = next(line for line in lines if "loss" in line)
    assert first["loss"] == pytest.approx(np.mean(LOSSES[:2]), rel=1e-4)
    assert first["images_per_second"] > 0
    assert {"grad_norm", "data_wait_seconds", "seconds"} <= first.keys()
    assert 0 <= first["data_wait_share"] < 1
    assert first["learning_rate"] == 0.002
    parts = [mean for line in lines for mean in line.get("loss_by_time", ())]
    assert len(parts) == 3 * 4
    assert all(mean is None or 0 < mean < 3 for mean in parts)


def test_losses_by_time_are_means_over_the_examples_of_a_part(trainer, monkeypatch):
    written = []

    class Writer:
        def add_scalar(self, name, value, step):
            written.append((name, value, step))

    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: Writer())
    monkeypatch.setattr(FolderReporter, "EVERY", 1)
    run = trainer()
    report = report_of(run)
    report.start(run.state, 3)
    run.state.step = 1
    run.state.losses.append(2.0)
    run.state.add_by_time([3.0, 0.0, 5.0, 0.0], [2, 0, 1, 0])
    run.state.add_by_time([1.0, 0.0, 1.0, 7.0], [2, 0, 1, 1])
    report.step(run.state, [2.0], 1.0, 0.0)
    (line,) = log_of(run)
    assert line["loss_by_time"] == [1.0, None, 3.0, 7.0]
    by_time = {name: value for name, value, _ in written if "by_time" in name}
    expected = {1: 1.0, 3: 3.0, 4: 7.0}
    assert by_time == {f"loss/by_time_{i}_of_4": value for i, value in expected.items()}
    assert run.state.losses == run.state.time_sums == run.state.time_counts == []


class Told:
    """A distance of which it is known how often it was measured."""

    key, name = "fid", "FID"

    def __init__(self):
        self.shapes = []

    def __call__(self, pictures, folder):
        self.shapes += [batch.shape for batch in pictures]
        return 12.5


def test_the_distance_is_measured_every_so_many_steps_and_once(trainer, monkeypatch):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)
    items = ["training.fid_every=2", "training.fid_samples=5", "training.snapshot_freq=2"]
    run = trainer(items=[*items, "training.n_iters=5"])
    run.distance = Told()
    assert run.run(Stop(), report_of(run))
    measured = [line["step"] for line in log_of(run) if line.get("fid") == 12.5]
    assert measured == [2, 4, 5]
    assert run.distance.shapes == [(5, 8, 8, 3)] * 3
    # Gone on with at a step that has been measured, and at one whose line a kill swallowed.
    for lost, again in (([], 0), ([5], 1)):
        lines = [line for line in log_of(run) if not ("fid" in line and line["step"] in lost)]
        (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        second = trainer(items=[*items, "training.n_iters=5"])
        second.distance = Told()
        restore(newest(run), second.state)
        assert second.run(Stop(), report_of(second))
        assert len(second.distance.shapes) == again
        assert [line["step"] for line in log_of(run) if "fid" in line] == [2, 4, 5]


def test_a_distance_that_cannot_be_measured_does_not_end_training(trainer, monkeypatch):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)

    class Bad(Told):
        def __call__(self, pictures, folder):
            raise DdimxError("samples: features are not finite")

    run = trainer(items=["training.fid_every=6", "training.fid_samples=2"])
    run.distance = Bad()
    assert run.run(Stop(), report_of(run))
    said = "cannot write FID of step 6: samples: features are not finite; training goes on"
    assert [line["note"] for line in log_of(run) if "note" in line] == [said]


def log_of(run):
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def numbers(lines):
    """The lines of a log without what tells how long something took."""
    times = {"seconds", "images_per_second", "data_wait_seconds", "data_wait_share"}
    return [{key: line[key] for key in line if key not in times} for line in lines]


def report_of(run):
    run.folder.mkdir(exist_ok=True)
    return FolderReporter(run.folder, Progress(quiet=True), 4)


class Killed(Exception):
    """In place of a signal that nobody can catch."""


def kill_at(monkeypatch, name, step):
    """Let the trainer die when it is about to do something at a step."""
    real = getattr(Trainer, name)

    def die(self, *args):
        if self.state.step == step:
            raise Killed
        return real(self, *args)

    monkeypatch.setattr(Trainer, name, die)


@pytest.mark.parametrize(
    ("name", "step"),
    [("validate", 3), ("draw_grid", 3), ("save", 6), ("validate", 6), ("draw_grid", 6)],
)
def test_a_run_that_goes_on_makes_up_for_what_a_kill_swallowed(
    trainer, monkeypatch, tmp_path, name, step
):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)
    monkeypatch.setattr(FolderReporter, "EVERY", 4)
    whole = trainer("whole")
    whole.run(Stop(), report_of(whole))
    with monkeypatch.context() as patch:
        kill_at(patch, name, step)
        first = trainer("killed")
        with pytest.raises(Killed):
            first.run(Stop(), report_of(first))
    again = trainer("killed")
    restore(newest(again), again.state)
    again.run(Stop(), report_of(again))
    # One line of each step, and each the mean of all steps since the last one.
    assert numbers(log_of(again)) == numbers(log_of(whole))
    pictures = {path.name: path.read_bytes() for path in (whole.folder / "samples").iterdir()}
    assert {p.name: p.read_bytes() for p in (again.folder / "samples").iterdir()} == pictures
    assert len(pictures) == 2


def test_a_line_that_a_kill_swallowed_is_written(trainer, monkeypatch):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)
    monkeypatch.setattr(FolderReporter, "EVERY", 3)
    whole = trainer("whole")
    whole.run(Stop(), report_of(whole))

    def die(self, state, *_):
        if state.step == 3:
            raise Killed

    killed = trainer("killed")
    with monkeypatch.context() as patch:
        patch.setattr(FolderReporter, "step", die)
        with pytest.raises(Killed):
            killed.run(Stop(), report_of(killed))
    assert newest(killed).name == "checkpoint-00000003.safetensors"
    (killed.folder / "log.jsonl").write_text(json.dumps({"step": 9, "loss": 0.0}) + '\n{"st')
    again = trainer("killed")
    restore(newest(again), again.state)
    again.run(Stop(), report_of(again))
    assert numbers(log_of(again)) == numbers(log_of(whole))


def test_what_is_no_checkpoint_may_fail_and_that_is_said_once(trainer, monkeypatch):
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "draw_grid", full)
    stream = io.StringIO()
    run = trainer()
    run.folder.mkdir()
    report = FolderReporter(run.folder, Progress(console=Console(file=stream, width=200)), 4)
    assert run.run(Stop(), report)
    said = f"cannot write {run.folder / 'samples'}: No space left on device; training goes on"
    assert stream.getvalue().count(said) == 1
    assert [line["note"] for line in log_of(run) if "note" in line] == [said]

    monkeypatch.setattr(reporting, "append_line", lambda *_: full(None))
    other = trainer("other")
    assert other.run(Stop(), report_of(other))
    assert same_tensors(newest(run), newest(other)) == []


def test_the_share_of_waiting_for_data(trainer, monkeypatch, tmp_path):
    """By a clock of our own: of every second of training 0.25 s waiting, from step 3 on 0.75 s."""
    clock = [100.0]
    monkeypatch.setattr(reporting.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(reporting, "_summary_writer", lambda *_: None)
    monkeypatch.setattr(FolderReporter, "EVERY", 2)
    stream = io.StringIO()
    report = FolderReporter(tmp_path, Progress(console=Console(file=stream, width=200)), 4)
    state, waited = trainer().state, 0.0
    report.start(state, 4)
    for step in (1, 2, 3, 4):
        clock[0] += 1.0
        waited += 0.25 if step < 3 else 0.75
        state.step = step
        state.losses.append(1.0)
        report.step(state, [1.0], 1.0, waited)
    report.saved(state)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["data_wait_share"] for line in lines] == [0.25, 0.75]
    assert "step 4: checkpoint written, waiting for data 50%" in stream.getvalue()
