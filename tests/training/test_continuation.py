"""What comes back after a stop: rate, averages, place in the data, losses by time."""

import pytest
import torch

from ddimx.models.process import Draws, drawn_timesteps
from ddimx.noise import Noise
from ddimx.training.loop import Trainer
from ddimx.training.measure import TIME_PARTS, LossesByTime
from ddimx.training.state import restore
from tests.training.small import finish, newest


def both(trainer, monkeypatch, note, items=(), cut=5, steps=12):
    """What ``note(trainer)`` says after every step: of a whole run, and of one cut in two."""
    seen = []
    step = Trainer.step

    def noted(self, *args):
        result = step(self, *args)
        seen[-1].append(note(self, *args))
        return result

    monkeypatch.setattr(Trainer, "step", noted)
    monkeypatch.setattr(Trainer, "_measure", lambda *_: None)
    items = [f"training.n_iters={steps}", "training.snapshot_freq=100", *items]
    seen.append([])
    whole = trainer("whole", items)
    finish(whole)
    seen.append([])
    first, second = trainer("first", items), trainer("second", items)
    finish(first, after=cut)
    restore(newest(first), second.state)
    # What is known before a step is done, without the schedule's help.
    assert second.state.learning_rate == first.state.learning_rate
    finish(second)
    assert len(seen[0]) == len(seen[1]) == steps
    return seen


SCHEDULE = ["optim.lr=0.01", "optim.warmup_steps=4", "optim.decay_steps=5"]


@pytest.mark.parametrize("cut", [2, 6, 9], ids=["rising", "level", "falling"])
def test_the_learning_rate(trainer, monkeypatch, cut):
    whole, halves = both(
        trainer, monkeypatch, lambda run, *_: run.state.learning_rate, SCHEDULE, cut
    )
    assert whole == halves
    # Rate(step) = 0.01 min(1, (step + 1) / 4, (12 - step) / 5), step from 0.
    rising, falling = [0.0025, 0.005, 0.0075], [0.008, 0.006, 0.004, 0.002]
    assert whole == pytest.approx([*rising, *[0.01] * 5, *falling])


def test_the_place_within_an_epoch_of_families(trainer, monkeypatch):
    """An epoch has 3 steps, in which every family stands for itself once."""

    def examples(run, step, positions, batch, _):
        return step, positions.tolist(), batch["x"].numpy().tobytes(), batch["label"].tolist()

    whole, halves = both(trainer, monkeypatch, examples, ["data.balance=family"], cut=4)
    assert whole == halves
    assert [positions for _, positions, *_ in whole] == [
        list(range(4 * step, 4 * step + 4)) for step in range(12)
    ]
    assert len({content for *_, content, _ in whole}) == 12


def test_averages_of_two_rates(trainer, monkeypatch):
    rates = 0.9, 0.3
    items = [f"model.ema_rate={rates[0]}", f"model.ema2_rate={rates[1]}"]
    name = "conv_in.bias"

    def averages(run, *_):
        state = run.state
        own = state.network.state_dict()[name]
        return [value.clone() for value in (own, state.ema[name], state.ema2[name])]

    whole, halves = both(trainer, monkeypatch, averages, items)
    for one, two in zip(whole, halves, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    # By the definition, from the weights alone. Each step rounds a number below 1 about twice.
    for place, rate in enumerate(rates, 1):
        average = whole[0][place].double()
        for step in range(2, 13):
            keep = min(rate, (1 + step) / (10 + step))
            average = keep * average + (1 - keep) * whole[step - 1][0].double()
            assert torch.allclose(whole[step - 1][place].double(), average, rtol=0, atol=1e-5)
    assert not torch.equal(whole[-1][1], whole[-1][2])


def test_losses_by_time(trainer, monkeypatch):
    def sums(run, *_):
        return list(run.state.time_sums), list(run.state.time_counts)

    whole, halves = both(trainer, monkeypatch, sums, ["training.batch_size=6"])
    assert whole == halves
    total, counts = whole[-1]
    expected = [0] * TIME_PARTS
    for step in range(12):
        positions = torch.arange(6 * step, 6 * step + 6)
        for t in drawn_timesteps(Draws(Noise(0), positions, step, 6), 1000).tolist():
            expected[t * TIME_PARTS // 1000] += 1
    assert counts == expected
    assert sum(counts) == 72
    losses = finish(trainer("again", ["training.batch_size=6", "training.n_iters=12"])).losses
    assert sum(total) / 72 == pytest.approx(sum(losses) / 12, rel=1e-5)


class Told:
    """A process whose times are told."""

    def __init__(self, shares):
        self.shares = torch.tensor(shares, dtype=torch.float64)

    def time_shares(self, draws):
        return self.shares


def test_sums_by_part_of_the_schedule():
    by_time = LossesByTime(Told([0.0, 0.249, 0.25, 0.999, 1.0]))
    by_time.add(None, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    by_time.add(None, torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0]))
    assert by_time.take() == [
        ([3.0, 4.0, 0.0, 24.0], [2, 1, 0, 2]),
        ([2.0, 1.0, 0.0, 2.0], [2, 1, 0, 2]),
    ]
    assert by_time.take() == []
    silent = LossesByTime(object())
    silent.add(None, torch.ones(5))
    assert silent.take() == []
