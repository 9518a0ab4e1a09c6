"""The package in Python, on the tiny model."""

import gc

import pytest
import torch

import ddimx
from ddimx.errors import UsageError


@pytest.fixture(scope="module")
def model(tiny_model):
    return ddimx.load_model(tiny_model, device="cpu", dtype="fp32")


def test_samples_have_the_models_shape(model):
    images = ddimx.sample(model, steps=3, count=5)
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()


def test_a_sample_is_its_index_whatever_the_batch(model):
    together = ddimx.sample(model, steps=4, count=6, seed=3, eta=1.0)
    alone = ddimx.sample(model, steps=4, count=1, seed=3, eta=1.0, start_index=4)
    assert (together[4:5] - alone).abs().max() < 1e-5
    split = ddimx.sample(model, steps=4, count=6, seed=3, eta=1.0, batch_size=4)
    assert (together - split).abs().max() < 1e-5
    assert (together[4] - together[5]).abs().max() > 0.1


def test_invariant_samples_are_bit_identical(model):
    options = {"steps": 3, "count": 6, "invariant": True}
    first, second = (ddimx.sample(model, batch_size=b, **options) for b in (6, 1))
    assert torch.equal(first, second)


def test_a_stream_ends_with_the_samples(model):
    steps = list(ddimx.stream(model, steps=4, count=2, seed=1))
    assert [step.row for step in steps] == [0, 1, 2, 3]
    assert [step.t for step in steps] == [999, 749, 499, 249]
    assert steps[-1].t_to == -1
    assert torch.equal(steps[-1].y, ddimx.sample(model, steps=4, count=2, seed=1))
    assert all(step.x0.shape == (2, 3, 8, 8) for step in steps)


def test_a_given_start_replaces_the_drawn_one(model):
    index = torch.arange(2)
    drawn = model.process.prior(ddimx.noise.Noise(7), index, model.device)
    given = ddimx.sample(model, steps=3, count=2, seed=7, start=drawn)
    assert torch.equal(given, ddimx.sample(model, steps=3, count=2, seed=7))
    other = ddimx.sample(model, steps=3, count=2, seed=7, start=drawn.flip(0))
    assert (given - other).abs().max() > 0.1


def test_a_start_of_another_shape_is_refused(model):
    with pytest.raises(UsageError, match="start has shape"):
        ddimx.sample(model, steps=3, count=2, start=torch.zeros(3, 3, 8, 8))


def test_a_stream_keeps_nothing(model):
    def living(steps):
        most = 0
        for _ in ddimx.stream(model, steps=steps, count=2, eta=1.0):
            gc.collect()
            sizes = [o.numel() for o in gc.get_objects() if type(o) is torch.Tensor]
            most = max(most, sizes.count(2 * 3 * 8 * 8))
        return most

    assert living(40) <= living(5)


@pytest.mark.parametrize("options", [{"steps": 0}, {"eta": 2.0}, {"count": 0}, {"solver": "euler"}])
def test_options_out_of_range_are_refused(model, options):
    with pytest.raises(UsageError):
        ddimx.sample(model, **options)


def test_an_unknown_option_is_a_type_error(model):
    with pytest.raises(TypeError, match="stepz"):
        ddimx.sample(model, stepz=3)
