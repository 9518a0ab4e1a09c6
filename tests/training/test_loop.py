"""The training loop: the same weights however often it is stopped, and no step into NaN."""

import math

import numpy as np
import pytest
import torch

from ddimx.data.examples import open_batches
from ddimx.errors import DdimxError
from ddimx.models.layers import KeyedDropout
from ddimx.noise import Noise
from ddimx.training.loop import Trainer, set_dropout_key
from ddimx.training.state import checkpoints, restore, save_checkpoint
from ddimx.weights.formats.native import read_header, read_tensors
from tests.training.small import LOSSES, Notes, finish, newest, open_source_part, same_tensors

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


# --- learning; writing checkpoints ---------------------------------------------------------------


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
