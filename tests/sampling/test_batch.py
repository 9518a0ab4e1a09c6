"""One batch: the same numbers for a sample, whatever stands beside it."""

import pytest
import torch

from ddimx.errors import DdimxError
from ddimx.models.gaussian import MICRO_BATCH
from ddimx.noise import Noise
from ddimx.options import Options
from ddimx.sampling import batch
from ddimx.sampling.batch import Inputs, finish_all, finish_batch, run_batch
from ddimx.sampling.settings import resolve
from ddimx.weights.model import load_model
from tests.sampling import counted_calls


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def noise_of(model, settings, samples, monkeypatch):
    """What a batch starts from and adds, with the network's part removed."""
    with monkeypatch.context() as patch:
        patch.setattr(model.network, "forward", lambda y, *_: torch.zeros_like(y))
        start = settings.noise.normal(samples, model.process.shape)
        *_, last = run_batch(model, settings, samples)
    return start, last.y


def test_all_noise_is_bit_identical_for_any_split(model, monkeypatch):
    settings = resolve(Options(steps=4, eta=1.0, seed=11, count=16, batch_size=16), model)
    start, end = noise_of(model, settings, list(range(16)), monkeypatch)
    assert torch.equal(start, Noise(11).normal(range(16), model.process.shape))
    assert not torch.allclose(start, end)
    for split in ([[7]], [[0], [1, 2, 3], list(range(4, 16))], [[15, 2, 9]]):
        for samples in split:
            part_start, part_end = noise_of(model, settings, samples, monkeypatch)
            assert torch.equal(part_start, start[samples])
            assert torch.equal(part_end, end[samples])


def test_invariant_bits_do_not_depend_on_the_company(model):
    settings = resolve(Options(steps=3, eta=1.0, invariant=True, guidance=2.0), model)
    together = torch.stack(finish_batch(model, settings, range(MICRO_BATCH + 3)))
    assert together.shape == (MICRO_BATCH + 3, 3, 8, 8)
    for samples in ([10], [10, 0], [4, 10, 0], [9, 1], [7, 8, 6]):
        assert torch.equal(torch.stack(finish_batch(model, settings, samples)), together[samples])


def test_invariant_runs_batches_of_one_size(model):
    settings = resolve(Options(steps=2, invariant=True), model)
    with counted_calls() as calls:
        finish_batch(model, settings, range(MICRO_BATCH + 1))
    assert calls == [MICRO_BATCH] * 4
    settings = resolve(Options(steps=2), model)
    with counted_calls() as calls:
        finish_batch(model, settings, range(MICRO_BATCH + 1))
    assert calls == [MICRO_BATCH + 1] * 2


@pytest.mark.parametrize(("invariant", "seen"), [(False, [9, 9]), (True, [8, 8, 1, 1])])
def test_an_observer_sees_every_row_and_how_many_samples_it_is_of(model, invariant, seen):
    settings = resolve(Options(steps=2, invariant=invariant), model)
    rows = []
    result = finish_batch(
        model, settings, range(9), after_row=lambda step, part: rows.append((step.row, len(part)))
    )
    assert [count for _, count in rows] == seen
    assert [row for row, _ in rows] == [0, 1] * (len(seen) // 2)
    assert len(result) == 9
    assert {(x.dtype, x.device.type) for x in result} == {(torch.float32, "cpu")}


@pytest.mark.parametrize("invariant", [False, True])
def test_the_start_may_come_from_elsewhere(model, invariant):
    settings = resolve(Options(steps=2, invariant=invariant, category="round"), model)
    drawn = torch.stack(finish_batch(model, settings, [3, 4]))
    asked = []

    def start(samples):
        asked.append(list(samples))
        return Noise(0).normal(samples, model.process.shape, dtype=torch.float64)

    again = finish_batch(model, settings, [3, 4], inputs=Inputs(start=start))
    assert torch.equal(torch.stack(again), drawn)
    assert asked == ([[3, 3, 3, 3, 4, 3, 3, 3]] if invariant else [[3, 4]])


def test_an_invariant_sample_stands_where_its_index_says(model, monkeypatch):
    """A product whose rows depend on their place, as MKL's on some CPUs, changes nothing."""
    settings = resolve(Options(steps=2, invariant=True), model)
    forward = model.network.forward

    def uneven(y, *rest):
        place = torch.arange(len(y)).view(-1, 1, 1, 1)
        return forward(y, *rest) + (place >= 6) * 1e-3 * y

    monkeypatch.setattr(model.network, "forward", uneven)
    together = torch.stack(finish_batch(model, settings, range(13)))
    for samples in ([6], [7, 2], [12, 5, 4], [3, 11]):
        seen = []
        parts = finish_batch(
            model, settings, samples, after_row=lambda step, part, to=seen: to.append((step, part))
        )
        parts = torch.stack(parts)
        assert torch.equal(parts, together[samples])
        ends = [(step.y, part) for step, part in seen if step.row == 1]
        assert torch.equal(torch.cat([y for y, _ in ends]), parts)
        assert [i for _, part in ends for i in part] == samples


def test_an_error_of_an_observer_ends_the_batch(model):
    settings = resolve(Options(steps=5), model)

    def stop(step, _):
        if step.row == 1:
            raise InterruptedError

    with counted_calls() as calls, pytest.raises(InterruptedError):
        finish_batch(model, settings, [0], after_row=stop)
    assert len(calls) == 2


def test_many_samples_are_finished_in_batches_that_fit(model, monkeypatch):
    settings = resolve(Options(steps=2, count=7, batch_size=6), model)
    whole, tried = finish_all(model, settings, settings.indices), []

    def limited(model, settings, samples, **rest):
        tried.append(len(samples))
        if len(samples) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return finish_batch(model, settings, samples, **rest)

    monkeypatch.setattr(batch, "finish_batch", limited)
    parts = finish_all(model, settings, settings.indices)
    assert tried == [6, 3, 2, 2, 2, 1]
    # float32, whose products depend on the batch
    assert torch.allclose(torch.stack(parts), torch.stack(whole), atol=1e-5)

    def none(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(batch, "finish_batch", none)
    with pytest.raises(DdimxError, match="not even one sample fits"):
        finish_all(model, settings, settings.indices)
    settings = resolve(Options(steps=2, count=7, invariant=True), model)
    with pytest.raises(DdimxError, match="the 8 samples that --invariant computes together"):
        finish_all(model, settings, settings.indices)
