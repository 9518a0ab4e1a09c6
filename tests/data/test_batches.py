"""Training batches: a function of the step, wherever one starts."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from ddimx.config import DataConfig
from ddimx.data import batches as reading
from ddimx.data.batches import READ_AHEAD, Batches
from ddimx.noise import Noise
from ddimx.pixels import to_network

COUNT = 10


class Source:
    """Images that tell their index: constant but for the left half, which is brighter."""

    labels = np.arange(COUNT) % 3
    families = np.arange(COUNT) // 2
    fingerprint = "none"

    def __len__(self):
        return COUNT

    def images(self, indices):
        images = np.zeros((len(indices), 4, 4, 3), dtype=np.uint8)
        images += indices.astype(np.uint8)[:, None, None, None]
        images[:, :, :2] += 100
        return images


def config(**changes):
    return DataConfig(dataset="NPZ", image_size=4, channels=3, **changes)


def batches(size=4, seed=0, source=None, **changes):
    return Batches(source or Source(), config(**changes), Noise(seed), size)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


EVERYTHING = {"random_flip": True, "uniform_dequantization": True}


def test_a_batch_holds_the_examples_of_its_positions():
    made = batches()
    positions, batch = made.batch(3)
    assert positions.tolist() == [12, 13, 14, 15]
    indices = made.order.indices(np.arange(12, 16))
    assert batch["label"].tolist() == (indices % 3).tolist()
    expected = to_network(torch.from_numpy(Source().images(indices)), config())
    assert torch.equal(batch["x"], expected)
    assert batch["x"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("start", [0, 1, 5])
def test_batches_do_not_depend_on_the_first_step(start):
    whole = {step: (where, batch) for step, where, batch in batches(**EVERYTHING).steps(0, 7)}
    seen = []
    for step, positions, batch in batches(**EVERYTHING).steps(start, 7):
        seen.append(step)
        assert torch.equal(positions, whole[step][0])
        assert same(batch, whole[step][1])
    assert seen == list(range(start, 7))


def test_reading_ahead_gives_what_reading_gives():
    direct = batches(**EVERYTHING)
    for step, positions, batch in batches(**EVERYTHING).steps(2, 6):
        where, alone = direct.batch(step)
        assert torch.equal(where, positions)
        assert same(batch, alone)


def test_an_example_does_not_depend_on_the_size_of_the_batch():
    whole = batches(size=8).batch(1)[1]["x"]
    halves = [batches(size=4).batch(step)[1]["x"] for step in (2, 3)]
    assert torch.equal(whole, torch.cat(halves))


def test_seeds_differ():
    assert not same(batches(seed=1).batch(0)[1], batches(seed=2).batch(0)[1])


def test_nothing_to_do():
    assert list(batches().steps(4, 4)) == []


class LazyPool(ThreadPoolExecutor):
    """Reads when the result is asked for, in the caller's thread; notes what is cancelled."""

    submitted: ClassVar[list] = []
    cancelled: ClassVar[list] = []

    def submit(self, function, step):
        self.submitted.append(step)
        return SimpleNamespace(
            result=lambda: function(step), cancel=lambda: self.cancelled.append(step)
        )


@pytest.fixture
def lazy_pool(monkeypatch):
    monkeypatch.setattr(LazyPool, "submitted", [])
    monkeypatch.setattr(LazyPool, "cancelled", [])
    monkeypatch.setattr(reading, "ThreadPoolExecutor", LazyPool)
    return LazyPool


def test_reading_is_some_batches_ahead_and_ends_when_nobody_takes_them(lazy_pool):
    steps = batches().steps(3, 100)
    next(steps)
    ahead = [4 + i for i in range(READ_AHEAD)]
    assert lazy_pool.submitted == [3, *ahead]
    steps.close()
    assert lazy_pool.cancelled == ahead


def test_reading_never_goes_beyond_the_end(lazy_pool):
    assert len(list(batches().steps(0, READ_AHEAD + 2))) == READ_AHEAD + 2
    assert lazy_pool.submitted == list(range(READ_AHEAD + 2))
    assert len(list(batches().steps(0, 1))) == 1


def test_the_wait_for_data_is_counted_and_nothing_else(lazy_pool, monkeypatch):
    """A clock that the source alone moves: half a second for every batch that it reads."""
    clock = [0.0]

    class Slow(Source):
        def images(self, indices):
            clock[0] += 0.5
            return super().images(indices)

    monkeypatch.setattr(reading.time, "perf_counter", lambda: clock[0])
    made = batches(source=Slow())
    for _ in made.steps(0, 4):
        clock[0] += 100.0
    assert made.waited == 2.0


def test_leaving_early_ends_the_reading_thread():
    import threading

    before = threading.active_count()
    for _ in batches().steps(0, 100):
        break
    assert threading.active_count() == before


def test_an_error_while_reading_ahead_reaches_the_caller():
    class Broken(Source):
        def images(self, indices):
            if 3 in indices:
                raise ValueError("image 3 is broken")
            return super().images(indices)

    with pytest.raises(ValueError, match="image 3 is broken"):
        list(batches(source=Broken()).steps(0, 3))


def flips(made, step):
    """Which examples of a step are mirrored: their bright half is on the right."""
    x = made.batch(step)[1]["x"]
    return (x[:, 0, 0, 3] > x[:, 0, 0, 0]).tolist()


def test_half_of_the_examples_are_mirrored_by_their_own_address():
    made = batches(size=100, random_flip=True)
    drawn = [flips(made, step) for step in range(10)]
    share = np.mean(drawn)
    assert 0.43 < share < 0.57  # standard deviation 0.016
    assert drawn[0] != drawn[1]
    assert flips(batches(size=100, random_flip=True), 7) == drawn[7]
    assert flips(batches(size=100, random_flip=True, seed=1), 7) != drawn[7]
    assert not any(flips(batches(size=100), 0))


def test_mirroring_keeps_rows_and_colors():
    class Corner(Source):
        def images(self, indices):
            images = np.zeros((len(indices), 4, 4, 3), dtype=np.uint8)
            images[:, 0, 0, 1] = 255
            return images

    x = batches(size=50, source=Corner(), random_flip=True, rescaled=False).batch(0)[1]["x"]
    places = {tuple(place) for place in x.nonzero()[:, 1:].tolist()}
    assert places == {(1, 0, 0), (1, 0, 3)}
    assert x.sum() == 50


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_dequantization_is_drawn_for_every_example_and_step(kind):
    def noise_of(step, size=100, seed=0):
        noisy = batches(size, seed, rescaled=False, **{f"{kind}_dequantization": True})
        x = noisy.batch(step)[1]["x"]
        plain = batches(size, seed, rescaled=False).batch(step)[1]["x"]
        return x * 256 - plain * 255 if kind == "uniform" else (x - plain) * 100

    z = torch.cat([noise_of(step) for step in range(8)])
    if kind == "uniform":
        assert z.min() > -1e-3
        assert z.max() < 1 + 1e-3
        assert abs(z.mean() - 0.5) < 0.005
    else:
        assert abs(z.mean()) < 0.02
        assert abs(z.std() - 1) < 0.02
    assert len(torch.unique(z[:50].flatten().round(decimals=2))) > 50
    assert torch.equal(noise_of(3), noise_of(3))
    assert not torch.equal(noise_of(3), noise_of(3, seed=1))


def test_balance_by_family():
    assert batches().order.epoch_size == COUNT
    assert batches(balance="family").order.epoch_size == COUNT // 2


def test_a_source_without_labels():
    class Bare(Source):
        labels = None

    assert set(batches(source=Bare()).batch(0)[1]) == {"x"}


def test_classes_that_are_not_flipped():
    """Of three classes those of the group "b" keep their brighter left half."""
    source = Source()
    source.classes = ("a/x", "b/x", "b/y")
    made = batches(size=200, source=source, random_flip=True, unflipped=("b",))
    _, batch = made.batch(0)
    flipped = batch["x"][:, 0, 0, -1] > batch["x"][:, 0, 0, 0]
    assert not flipped[batch["label"] > 0].any()
    assert 20 < flipped[batch["label"] == 0].sum() < 60
    every = batches(size=200, source=source, random_flip=True).batch(0)[1]["x"]
    own = batch["label"] == 0
    assert torch.equal(every[own], batch["x"][own])
