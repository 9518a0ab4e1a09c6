"""What comes back after a stop: rate, averages, place in the data, losses by time."""

import pytest
import torch

from ddimx.models.process import Draws, drawn_timesteps
from ddimx.noise import Noise
from ddimx.training.loop import Trainer
from ddimx.training.measure import TIME_PARTS, LossesByTime
from ddimx.training.state import restore
from tests.training.small import finish, newest

STEPS, CUT = 12, 10  # the rate falls by then, and the fourth epoch, of 3 steps, has begun
RATES = 0.9, 0.3
ITEMS = [
    f"training.n_iters={STEPS}",
    "training.snapshot_freq=100",
    "data.balance=family",
    "optim.lr=0.01",
    "optim.warmup_steps=4",
    "optim.decay_steps=5",
    f"model.ema_rate={RATES[0]}",
    f"model.ema2_rate={RATES[1]}",
]
BIAS = "conv_in.bias"


@pytest.fixture
def notes(trainer, monkeypatch):
    """What is to be seen of every step: of a whole run, and of one that was cut in two."""
    seen = []
    step = Trainer.step

    def noted(self, number, positions, batch, total):
        result = step(self, number, positions, batch, total)
        state = self.state
        tensors = state.network.state_dict()[BIAS], state.ema[BIAS], state.ema2[BIAS]
        seen[-1].append(
            {
                "rate": state.learning_rate,
                "examples": (positions.tolist(), batch["x"].numpy().tobytes()),
                "averages": [value.clone() for value in tensors],
                "sums": (list(state.time_sums), list(state.time_counts)),
                "loss": result[0].item(),
            }
        )
        return result

    monkeypatch.setattr(Trainer, "step", noted)
    monkeypatch.setattr(Trainer, "_measure", lambda *_: None)
    seen.append([])
    finish(trainer("whole", ITEMS))
    seen.append([])
    first, second = trainer("first", ITEMS), trainer("second", ITEMS)
    finish(first, after=CUT)
    restore(newest(first), second.state)
    assert second.state.learning_rate == first.state.learning_rate == pytest.approx(0.006)
    finish(second)
    assert len(seen[0]) == len(seen[1]) == STEPS
    return seen


def test_rate_averages_data_and_losses_by_time_come_back(notes):
    whole, halves = notes
    for one, two in zip(whole, halves, strict=True):
        for key in ("rate", "examples", "sums", "loss"):
            assert one[key] == two[key]
        assert all(map(torch.equal, one["averages"], two["averages"]))
    # The rate of step s, from 0: 0.01 min(1, (s + 1) / 4, (12 - s) / 5).
    rising, falling = [0.0025, 0.005, 0.0075], [0.008, 0.006, 0.004, 0.002]
    assert [note["rate"] for note in whole] == pytest.approx([*rising, *[0.01] * 5, *falling])
    # Each step goes on in the data where the last one ended; no batch is seen twice.
    positions, contents = zip(*(note["examples"] for note in whole), strict=True)
    assert [p for part in positions for p in part] == list(range(4 * STEPS))
    assert len(set(contents)) == STEPS
    # The averages, by the definition, from the weights alone. Each step rounds a number below 1
    # about twice.
    for place, rate in enumerate(RATES, 1):
        average = whole[0]["averages"][place].double()
        for step in range(2, STEPS + 1):
            weights = whole[step - 1]["averages"]
            keep = min(rate, (1 + step) / (10 + step))
            average = keep * average + (1 - keep) * weights[0].double()
            assert torch.allclose(weights[place].double(), average, rtol=0, atol=1e-5)
    assert not torch.equal(*whole[-1]["averages"][1:])
    # Losses by time: every example counts once, in the part in which its time lies.
    sums, counts = whole[-1]["sums"]
    expected = [0] * TIME_PARTS
    for step in range(STEPS):
        numbers = torch.arange(4 * step, 4 * step + 4)
        for t in drawn_timesteps(Draws(Noise(0), numbers, step, 4), 1000).tolist():
            expected[t * TIME_PARTS // 1000] += 1
    assert counts == expected
    mean = sum(note["loss"] for note in whole) / STEPS
    assert sum(sums) / (4 * STEPS) == pytest.approx(mean, rel=1e-5)


class Told:
    """A process whose times are told."""

    def __init__(self, shares):
        self.shares = torch.tensor(shares, dtype=torch.float64)

    def time_shares(self, draws):
        return self.shares


def test_sums_by_part_of_the_schedule():
    by_time = LossesByTime(Told([0.0, 0.249, 0.25, 0.999, 1.0]))
    by_time.add(None, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    by_time.end_step()
    # A step in two parts, and of two processes that have the same.
    for _ in range(2):
        by_time.add(None, torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0]))
    by_time.end_step(lambda value: 2 * value)
    assert by_time.take() == [
        ([3.0, 4.0, 0.0, 24.0], [2, 1, 0, 2]),
        ([8.0, 4.0, 0.0, 8.0], [8, 4, 0, 8]),
    ]
    assert by_time.take() == []
    silent = LossesByTime(object())
    silent.add(None, torch.ones(5))
    silent.end_step()
    assert silent.take() == []
