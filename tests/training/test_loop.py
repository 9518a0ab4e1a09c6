"""The training loop: the same weights however often it is stopped, and no step into NaN."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from ddimx.config_file import override
from ddimx.data.examples import open_batches
from ddimx.data.images.sources import open_source
from ddimx.errors import DdimxError
from ddimx.models import gaussian
from ddimx.models.factory import build
from ddimx.models.layers import KeyedDropout
from ddimx.noise import Noise
from ddimx.progress import Progress
from ddimx.signals import Stop
from ddimx.training import report as reporting
from ddimx.training.loop import Trainer, set_dropout_key
from ddimx.training.report import FolderReporter
from ddimx.training.state import TrainState, checkpoints, restore, save_checkpoint
from ddimx.weights.formats.native import read_header, read_tensors


class Notes:
    """A reporter that keeps what it is told, and can ask for a stop after a step."""

    def __init__(self, stop=None, after=None):
        self.losses, self.norms, self.validations, self.saves = [], [], [], []
        self._stop, self._after = stop, after

    def start(self, state, total):
        self.begun = (state.step, total)

    def step(self, state, losses, norm, waited):
        assert waited >= 0.0
        self.losses += losses
        self.norms.append(norm)
        if state.step == self._after:
            self._stop.signal = 15

    def validation(self, state, losses):
        self.validations.append((state.step, losses))

    def validated(self, step):
        return False

    def saved(self, state):
        self.saves.append(state.step)

    def problem(self, state, what, error):
        raise AssertionError(what)


@pytest.fixture
def trainer(tiny_config, formula_weights, tmp_path, monkeypatch):
    """Return a function that makes a trainer with fixed weights in a folder of the test."""
    monkeypatch.setattr(gaussian, "PREVIEW_STEPS", 2)  # pictures are not what takes the time here

    def make(name="run", items=(), process=None, device="cpu"):
        config = override(tiny_config, items)
        network, own = build(config)
        return Trainer(
            config=config,
            state=TrainState.fresh(formula_weights(network).to(device), config),
            process=process or own,
            source=open_source(config),
            held_out=open_source(config, held_out=True),
            folder=tmp_path / name,
            noise=Noise(0),
            device=torch.device(device),
        )

    return make


def finish(trainer, stop=None, after=None):
    stop = stop or Stop()
    notes = Notes(stop, after)
    notes.finished = trainer.run(stop, notes)
    return notes


def newest(trainer):
    return checkpoints(trainer.folder / "checkpoints")[-1]


def same_tensors(one, other):
    a, b = read_tensors(one), read_tensors(other)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


# --- stopping and going on ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_resumed_run_ends_with_the_same_bits(trainer, cut):
    whole = trainer("whole")
    assert finish(whole).finished
    first = trainer("first")
    notes = finish(first, after=cut)
    assert not notes.finished
    assert first.state.step == cut
    second = trainer("second")
    restore(newest(first), second.state)
    resumed = finish(second)
    assert resumed.finished
    assert resumed.begun == (cut, 6)
    assert len(resumed.losses) == 6 - cut
    assert same_tensors(newest(whole), newest(second)) == []
    kinds = {name.split(".")[0] for name in read_tensors(newest(whole))}
    assert kinds == {"model", "ema", "optim"}


def test_another_seed_is_another_run(trainer):
    one, other = trainer("one"), trainer("other")
    other.noise = Noise(1)
    finish(one)
    finish(other)
    assert same_tensors(newest(one), newest(other))


def test_a_finished_run_has_nothing_to_do(trainer):
    run = trainer()
    finish(run)
    before = newest(run).read_bytes()
    again = finish(run)
    assert again.finished
    assert again.losses == []
    assert newest(run).read_bytes() == before


def test_a_stop_writes_the_checkpoint_of_its_step(trainer):
    run = trainer()
    notes = finish(run, after=2)
    assert notes.saves == [2]
    assert newest(run).name == "checkpoint-00000002.safetensors"
    assert read_header(newest(run)).info["step"] == 2


def test_snapshots_validations_and_what_is_kept(trainer):
    items = ["training.n_iters=7", "training.snapshot_freq=2", "training.validation_freq=3"]
    run = trainer(items=[*items, "training.keep_checkpoints=2"])
    notes = finish(run)
    assert notes.begun == (0, 7)
    assert notes.saves == [2, 4, 6, 7]
    assert [step for step, _ in notes.validations] == [3, 6, 7]
    names = [p.name for p in checkpoints(run.folder / "checkpoints")]
    assert names == ["checkpoint-00000006.safetensors", "checkpoint-00000007.safetensors"]
    grids = sorted(p.name for p in (run.folder / "samples").iterdir())
    assert grids == [f"step-{step:08d}.png" for step in (2, 4, 6, 7)]
    assert read_header(newest(run)).info["seed"] == 0


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 6), (100, 7)])
def test_epochs_limit_the_run_too(trainer, epochs, steps):
    run = trainer(items=[f"training.n_epochs={epochs}", "training.n_iters=7"])
    assert len(np.unique(run.source.families)) == 12  # what an epoch visits, 4 in a step
    notes = finish(run)
    assert notes.begun == (0, steps)
    assert len(notes.losses) == steps


# --- one step -------------------------------------------------------------------------------------

# Weights by formula, seed 0; recorded once. A change here changes every training run.
LOSSES = [1.266286, 1.035817, 1.121096, 0.934344, 1.064746]


def test_recorded_losses(trainer):
    assert finish(trainer()).losses[:5] == pytest.approx(LOSSES, rel=1e-4)


def test_the_learning_rate_follows_its_schedule(trainer):
    run = trainer(items=["optim.lr=0.01", "optim.warmup_steps=2", "optim.decay_steps=3"])
    rates = []
    step = run.state.optimizer.step
    run.state.optimizer.step = lambda: (
        rates.append(run.state.optimizer.param_groups[0]["lr"]),
        step(),
    )
    finish(run)
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.01 * 2 / 3, 0.01 / 3])


@pytest.mark.parametrize("clip", ["null", "0.01"])
def test_gradients_are_clipped_and_their_norm_is_reported(trainer, clip):
    run = trainer(items=[f"optim.grad_clip={clip}", "training.n_iters=1"])
    seen = []
    step = run.state.optimizer.step
    run.state.optimizer.step = lambda: (seen.append(norm_of(run.state.network)), step())
    (reported,) = finish(run).norms
    assert reported > 0.1
    assert seen == [pytest.approx(reported if clip == "null" else 0.01, rel=1e-3)]


def norm_of(network):
    return math.sqrt(sum(p.grad.square().sum().item() for p in network.parameters()))


def test_dropout_gets_the_address_of_the_step(trainer):
    run = trainer()
    layers = [m for m in run.state.network.modules() if isinstance(m, KeyedDropout)]
    assert layers
    finish(run)
    for layer in layers:
        noise, positions, step = layer.key
        assert (noise, step) == (Noise(0), 5)
        assert positions.tolist() == [20, 21, 22, 23]
    set_dropout_key(run.state.network, (Noise(3), torch.arange(2), 9))
    assert {layer.key[2] for layer in layers} == {9}


# --- losing the finite numbers --------------------------------------------------------------------


class Spoilt:
    """A process that goes wrong at one step; everything else is the real one's."""

    def __init__(self, inner, step, how):
        self._inner, self._step, self._how = inner, step, how

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def loss(self, network, batch, draws):
        losses = self._inner.loss(network, batch, draws)
        return self._how(losses) if draws.step == self._step else losses


SPOILT = {
    "loss nan": lambda losses: losses * math.nan,
    "loss inf": lambda losses: losses + math.inf,
    # A finite loss whose gradient is not: after the step, all weights would be NaN.
    "gradient nan": lambda losses: losses + (losses * 0).sqrt(),
}


@pytest.mark.parametrize("case", SPOILT)
def test_training_stops_before_it_is_spoilt(trainer, case):
    what, value = case.split()
    items = ["training.snapshot_freq=1", "training.keep_checkpoints=1", "training.n_iters=9"]
    run = trainer(items=items)
    run.process = Spoilt(run.process, 4, SPOILT[case])
    with pytest.raises(DdimxError) as error:
        finish(run)
    assert f"the {what} is {value} at step 4" in str(error.value)
    assert f"the last good checkpoint is {newest(run)}" in str(error.value)
    assert newest(run).name == "checkpoint-00000004.safetensors"
    assert all(value.isfinite().all() for value in read_tensors(newest(run)).values())


def test_a_run_that_is_spoilt_at_once_says_that_nothing_was_saved(trainer):
    run = trainer()
    run.process = Spoilt(run.process, 0, SPOILT["loss nan"])
    with pytest.raises(DdimxError, match="at step 0; training stopped, there is no checkpoint yet"):
        finish(run)
    assert not checkpoints(run.folder / "checkpoints")


def test_a_rate_that_is_far_too_high(trainer):
    run = trainer(items=["optim.lr=1e30", "optim.weight_decay=0", "optim.grad_clip=null"])
    with pytest.raises(DdimxError, match=r"the (loss|gradient) is (nan|inf) at step [12]"):
        finish(run)


# --- looking now and then, as on a GPU ------------------------------------------------------------


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(Trainer, "draw_grid", lambda self: None)


@pytest.mark.usefixtures("without_pictures")
def test_how_often_losses_are_fetched_does_not_change_them(trainer):
    always, seldom = trainer("always"), trainer("seldom", ["training.snapshot_freq=6"])
    seldom.look_every = 4
    notes = finish(seldom)
    assert notes.losses == finish(always).losses
    assert len(notes.norms) == 3  # after steps 3 (a validation), 4 and 6
    assert same_tensors(newest(always), newest(seldom)) == []


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("case", SPOILT)
def test_steps_after_a_spoilt_one_leave_the_weights_alone(trainer, case):
    what, value = case.split()
    items = ["training.n_iters=12", "training.snapshot_freq=12", "training.validation_freq=12"]
    run, good = trainer("run", items), trainer("good", items)
    run.process, run.look_every = Spoilt(run.process, 4, SPOILT[case]), 9
    with pytest.raises(DdimxError, match=f"the {what} is {value} at step 4;"):
        finish(run)
    assert run.state.step == 9
    finish(good, after=4)
    tensors = (run.state.network.state_dict(), good.state.network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(t.values() for t in tensors), strict=True))
    assert not checkpoints(run.folder / "checkpoints")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_does_not_wait_for_the_gpu(trainer, precision):
    run = trainer(items=[f"training.precision={precision}"], device="cuda")
    run.look_every = 100
    batches = open_batches(run.source, run.config.data, run.noise, 4)
    steps = [(step, *batches.batch(step)) for step in range(6)]
    for step in steps[:3]:  # memory is allocated, and algorithms are chosen
        run.step(*step, 6)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in steps[3:]:
            run.step(*step, 6)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.look()
    # The first five were recorded on a CPU in float32; bfloat16 has 8 bits.
    bound = 0.02 if precision == "fp32" else 0.2
    assert run.state.losses[:5] == pytest.approx(LOSSES, rel=bound)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_pictures")
def test_a_run_in_bf16_keeps_its_weights_in_fp32_and_ends_with_the_same_bits(trainer):
    items = ["training.precision=bf16"]
    whole, first, second = (trainer(name, items) for name in ("whole", "first", "second"))
    losses = finish(whole).losses
    finish(first, after=2)
    restore(newest(first), second.state)
    finish(second)
    assert same_tensors(newest(whole), newest(second)) == []
    assert {value.dtype for value in read_tensors(newest(whole)).values()} == {torch.float32}
    assert losses[:5] == pytest.approx(LOSSES, rel=0.2)
    assert losses[:5] != pytest.approx(LOSSES, rel=1e-5)


# --- validation and grids -------------------------------------------------------------------------


def snapshot(run):
    state = run.state
    tensors = [*state.network.state_dict().values(), *state.ema.values()]
    for parameter in state.network.parameters():
        tensors += list(state.optimizer.state[parameter].values())
    return [t.clone() for t in tensors], state.step, torch.get_rng_state()


@pytest.mark.parametrize("what", ["validate", "draw_grid"])
def test_looking_changes_nothing(trainer, what):
    run = trainer()
    finish(run)
    (before, step, generator), result = snapshot(run), getattr(run, what)()
    assert result
    after, step_after, generator_after = snapshot(run)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert step == step_after
    assert torch.equal(generator, generator_after)


def test_how_often_one_looks_does_not_change_the_result(trainer):
    often = trainer("often", ["training.validation_freq=1", "training.snapshot_freq=1"])
    seldom = trainer("seldom", ["training.validation_freq=6", "training.snapshot_freq=6"])
    finish(often)
    finish(seldom)
    assert same_tensors(newest(often), newest(seldom)) == []


def test_validation_measures_the_average_without_dropout(trainer):
    run = trainer(items=["model.dropout=0.9"])
    first = run.validate()
    assert set(first) == {"train", "held_out"}
    assert first == run.validate()
    with torch.no_grad():  # the raw weights do not enter
        for parameter in run.state.network.parameters():
            parameter.mul_(1.5)
    assert run.validate() == first
    for value in run.state.ema.values():
        value.mul_(1.5)
    assert run.validate() != first


def test_validation_without_an_average_measures_the_weights(trainer):
    run = trainer(items=["model.ema=false"])
    with_average = trainer().validate()
    assert run.validate() == with_average
    with torch.no_grad():
        next(run.state.network.parameters()).mul_(1.5)
    assert run.validate() != with_average


def test_both_parts_are_measured_with_the_same_draws(trainer):
    run = trainer()
    run.held_out = run.source
    losses = run.validate()
    assert losses["train"] == losses["held_out"]


def test_a_data_set_without_a_held_out_part(trainer):
    run = trainer()
    run.held_out = open_source_part(run, 0)
    losses = run.validate()
    assert set(losses) == {"train"}


def open_source_part(run, count):
    """The first ``count`` examples of a run's source."""
    part = open_source(run.config)
    part._images, part.labels = part._images[:count], part.labels[:count]
    part.families = part.families[:count]
    return part


# --- learning; the log ----------------------------------------------------------------------------


def test_eight_images_are_learnt(trainer):
    items = ["model.dropout=0", "training.batch_size=8", "data.balance=none", "optim.lr=0.003"]
    items += ["model.patch_size=1", "model.ch=16", "model.attn_resolutions=[]"]
    items += ["training.n_iters=70", "diffusion.prediction=epsilon"]
    items += ["training.snapshot_freq=1000", "training.validation_freq=1000"]
    run = trainer(items=items)
    run.source = open_source_part(run, 8)
    losses = finish(run).losses
    assert len(losses) == 70
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])


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


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_what_to_do(trainer, monkeypatch):
    run = trainer()
    monkeypatch.setattr("ddimx.training.loop.save_checkpoint", failing_from(run, 6))
    with pytest.raises(DdimxError) as error:
        finish(run)
    assert "cannot write the checkpoint of step 6: No space left on device" in str(error.value)
    assert f"the last good checkpoint is {newest(run)}" in str(error.value)
    assert f"ddimx train --resume {run.folder}" in str(error.value)


def failing_from(run, step):
    def save(*args):
        if run.state.step >= step:
            raise OSError(28, "No space left on device")
        return save_checkpoint(*args)

    return save


def test_the_checkpoint_comes_before_all_else_of_its_step(trainer, monkeypatch):
    order = []
    for name in ("save", "validate", "draw_grid"):
        real = getattr(Trainer, name)
        monkeypatch.setattr(
            Trainer, name, lambda self, name=name, real=real: (order.append(name), real(self))[1]
        )
    step = Notes.step
    monkeypatch.setattr(Notes, "step", lambda self, *a: (order.append("report"), step(self, *a)))
    finish(trainer())
    one = ["report", "report", "save", "report", "validate", "draw_grid"]
    assert order == one + one


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


def test_no_example_is_measured_twice(trainer, monkeypatch):
    """Of a set without a held-out part as many as there are, not as many as there could be."""
    run = trainer()
    run.held_out, measured = open_source_part(run, 0), []
    monkeypatch.setattr(Trainer, "_loss", lambda self, part, count: measured.append(count) or 0.0)
    run.validate()
    run.held_out = open_source_part(run, 3)
    run.validate()
    assert measured == [len(run.source), 3, 3]
