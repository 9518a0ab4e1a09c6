"""``ddimx.load_model``, ``ddimx.sample`` and ``ddimx.stream``: the code that the verbs call."""

import re

import numpy as np
import pytest
import torch

import ddimx
from ddimx.errors import UsageError
from ddimx.models.peak_memory import PeakMemory
from ddimx.noise import Noise
from ddimx.solvers.executor import Step
from tests.sampling import counted_calls, sampled


@pytest.fixture(scope="module")
def model(tiny_model):
    return ddimx.load_model(tiny_model, device="cpu", dtype="fp32")


def test_a_loaded_model_says_what_it_is(model, tiny_model, tiny_config):
    assert isinstance(model, ddimx.Model)
    assert model.config == tiny_config
    assert model.classes == ("round", "square")
    assert (model.device.type, model.precision.name) == ("cpu", "fp32")
    assert model.info == {"step": 0}
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    with pytest.raises(UsageError, match="unknown model 'emojy'"):
        ddimx.load_model("emojy")


def test_a_sample_is_what_the_command_line_writes(model, tiny_model, tmp_path):
    images = ddimx.sample(model, steps=3, count=6, eta=0.5, seed=2, category="square")
    assert (images.shape, images.dtype, images.device.type) == ((6, 3, 8, 8), torch.float32, "cpu")
    options = ("--eta", 0.5, "--seed", 2, "--category", "square", "--format", "npy")
    sampled(tiny_model, "-n", 6, *options, "--out", tmp_path / "a")
    assert np.load(tmp_path / "a" / "samples.npy").tobytes() == images.numpy().tobytes()


def test_sixteen_samples_in_the_models_batches_are_the_default(model):
    with counted_calls() as calls:
        assert len(ddimx.sample(model, steps=1)) == 16
    assert calls == [4, 4, 4, 4]


def test_a_sample_depends_on_its_index_alone(model):
    options = {"steps": 3, "eta": 1.0, "invariant": True}
    many = ddimx.sample(model, count=9, batch_size=9, **options)
    alone = ddimx.sample(model, count=1, start_index=7, **options)
    assert torch.equal(alone[0], many[7])
    del options["invariant"]
    near = ddimx.sample(model, count=9, batch_size=2, **options)
    assert torch.allclose(near, many, atol=1e-5)
    assert not torch.allclose(near[0], many[7], atol=1e-2)


def test_the_start_can_be_given(model):
    start = Noise(4).normal(range(5), (3, 8, 8))
    given = ddimx.sample(model, steps=2, count=5, start=start, batch_size=2, category="round")
    drawn = ddimx.sample(model, steps=2, count=5, seed=4, batch_size=2, category="round")
    assert torch.equal(given, drawn)
    moved = ddimx.sample(
        model, steps=2, count=5, start=start, start_index=3, batch_size=2, category="round"
    )
    assert torch.equal(moved, given)  # the i-th state belongs to the i-th sample
    turned = ddimx.sample(
        model, steps=2, count=5, start=start.flip(0), batch_size=5, category="round"
    )
    assert torch.allclose(turned.flip(0), given, atol=1e-5)
    assert not torch.allclose(turned, given, atol=1e-2)
    *_, last = ddimx.stream(model, steps=2, count=5, start=start.double(), category="round")
    assert torch.allclose(last.y, given, atol=1e-5)
    same = ddimx.sample(model, steps=2, count=5, start=start.numpy(), category="round")
    assert torch.allclose(same, given, atol=1e-5)
    for function in (ddimx.sample, ddimx.stream):
        with pytest.raises(UsageError, match="start must hold finite"):
            function(model, steps=2, count=5, start=start * float("nan"))
        with pytest.raises(UsageError, match="start must be a tensor or an array, got list"):
            function(model, steps=2, count=5, start=[1])
    for wrong in (start[:4], start[:, :2], start[0]):
        for function in (ddimx.sample, ddimx.stream):
            with pytest.raises(UsageError, match=r"start has shape .*, expected \(5, 3, 8, 8\)"):
                function(model, steps=2, count=5, start=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": "a"}, "steps must be a whole number of at least 1, got 'a'"),
        ({"category": ["rund"]}, "did you mean 'round'"),
        ({"eta": 2.0}, "eta must lie in"),
        ({"count": 0}, "count must be at least 1"),
        ({"category": "rund"}, "did you mean 'round'"),
        ({"solver": "ddpm", "eta": 0.0}, "--eta belongs to the solver ddim"),
    ],
)
def test_wrong_options_raise_at_the_call(model, options, message):
    with pytest.raises(UsageError, match=message):
        ddimx.sample(model, **options)
    with pytest.raises(UsageError, match=message):
        ddimx.stream(model, **options)


def test_an_option_that_does_not_exist(model):
    message = "unknown option 'step'; did you mean 'steps'?"
    for function in (ddimx.sample, ddimx.stream):
        with pytest.raises(UsageError, match=re.escape(message)):
            function(model, step=3)
    with pytest.raises(UsageError, match="unknown option 'frobnicate'"):
        ddimx.sample(model, frobnicate=1)


def test_a_stream_yields_every_row(model):
    steps = list(ddimx.stream(model, steps=4, count=2, seed=1))
    assert all(isinstance(step, ddimx.Step) for step in steps)
    assert ddimx.Step is Step
    assert [step.row for step in steps] == [0, 1, 2, 3]
    assert [(step.t, step.t_to) for step in steps] == [
        (999.0, 749.0),
        (749.0, 499.0),
        (499.0, 249.0),
        (249.0, -1.0),
    ]
    for step in steps:
        assert step.x.shape == step.x0.shape == (2, 3, 8, 8)
    assert torch.equal(steps[-1].y, ddimx.sample(model, steps=4, count=2, seed=1))
    assert torch.allclose(steps[-1].x0, steps[-1].y, atol=1e-6)  # the last row goes to clean data
    assert not torch.allclose(steps[0].x0, steps[-1].x0, atol=1e-2)


def test_a_stream_computes_a_row_when_it_is_asked_for(model):
    with counted_calls() as calls:
        steps = ddimx.stream(model, steps=1000, count=2)
        assert calls == []
        next(steps)
        next(steps)
    assert calls == [2, 2]


def test_memory_does_not_grow_with_the_number_of_steps(model):
    def peak(steps: int) -> int:
        with PeakMemory() as memory:
            for step in ddimx.stream(model, steps=steps, count=2, eta=1.0):
                del step
        return memory.peak

    state, rows = 2 * 3 * 8 * 8 * 4, 9
    few = peak(3)
    assert few > state
    assert peak(3 + rows) - few < rows * 100  # only the plan's table has a line for every row

    with PeakMemory() as memory:  # what the test would see if something of every row were kept
        kept = list(ddimx.stream(model, steps=3 + rows, count=2, eta=1.0))
    assert len(kept) == 3 + rows
    assert memory.peak - few > rows * state
