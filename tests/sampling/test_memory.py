"""The memory that a batch needs, counted operator by operator."""

import dataclasses

import pytest
import torch
from torch import nn

from ddimx.config_file import override
from ddimx.device import Precision
from ddimx.errors import UsageError
from ddimx.models.factory import build
from ddimx.models.gaussian import MICRO_BATCH, STATE_COPIES
from ddimx.models.peak_memory import PeakMemory
from ddimx.options import Options
from ddimx.sampling import memory
from ddimx.sampling.memory import (
    bytes_per_sample,
    check_fits,
    free_bytes,
    together,
    weight_bytes,
)
from ddimx.sampling.settings import resolve
from ddimx.weights.model import load_model

STATE = 3 * 8 * 8 * 4 * STATE_COPIES


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_of_a_known_network(device):
    with torch.device(device):
        first, second = nn.Linear(10, 100), nn.Linear(100, 7)
        x = torch.zeros(5, 10)

    def network():
        h = first(x)  # 5 * 100 floats: 2000 bytes
        g = torch.relu(h)  # 2000 more, and here is the peak, for h goes
        del h
        g.view(100, 5)  # shares memory
        g += 1  # allocates nothing
        return second(g)  # 140

    with torch.no_grad(), PeakMemory() as counted:
        out = network()
        assert counted.now == 140
    assert counted.peak == 4000
    assert out.shape == (5, 7)
    del out
    assert counted.now == 0


def test_halves_and_integers_count_by_their_size():
    with PeakMemory() as counted:
        kept = [torch.zeros(10, dtype=torch.float16), torch.zeros(10, dtype=torch.int64)]
    assert counted.peak == counted.now == 20 + 80
    del kept


def test_operators_with_several_results_count_all_of_them():
    x = torch.arange(12.0)
    with PeakMemory() as counted:
        values, indices = x.topk(4)
    assert counted.now == values.numel() * 4 + indices.numel() * 8 == 48


def test_a_sample_needs_its_activations_and_state(model):
    network, process = build(model.config)
    arguments = [torch.zeros(1, *process.shape), torch.zeros(1), torch.zeros(1, dtype=torch.int64)]
    with torch.no_grad(), PeakMemory() as counted:
        network.eval()(*arguments)
    estimate = bytes_per_sample(model, 1.0) - STATE
    assert 0.5 * counted.peak < estimate < 2 * counted.peak
    assert bytes_per_sample(model, 2.0) == 2 * estimate + STATE  # both predictions at once
    half = dataclasses.replace(model, precision=Precision(torch.bfloat16, "asked for"))
    assert bytes_per_sample(half, 1.0) == estimate / 2 + STATE


def test_a_wider_network_needs_more_and_no_data_is_touched(model):
    config = override(model.config, ["model.ch=64"])
    wider = dataclasses.replace(model, config=config, process=build(config)[1])
    assert bytes_per_sample(wider, 1.0) - STATE > 4 * (bytes_per_sample(model, 1.0) - STATE)


def test_a_model_without_classes(model):
    config = override(model.config, ["model.classes=[]"])
    plain = dataclasses.replace(model, config=config, process=build(config)[1])
    assert bytes_per_sample(plain, 1.0) > STATE


def test_the_weights(model):
    numel = sum(tensor.numel() for tensor in model.network.state_dict().values())
    assert weight_bytes(model) == 4 * numel


def test_free_memory():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50


@pytest.mark.parametrize(("invariant", "batch"), [(False, 3), (True, MICRO_BATCH)])
def test_a_batch_fits_or_is_refused(model, monkeypatch, invariant, batch):
    settings = resolve(Options(count=3, batch_size=3, invariant=invariant), model)
    assert together(model, settings) == batch
    monkeypatch.setattr(memory, "bytes_per_sample", lambda *_: 9 * 10**8)
    monkeypatch.setattr(memory, "QUICK", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda _: batch * 10**9)
    check_fits(model, settings)
    monkeypatch.setattr(memory, "free_bytes", lambda _: batch * 10**9 - 10)
    remedy = "omit --invariant" if invariant else "use --batch-size 2 or less"
    with pytest.raises(UsageError) as caught:
        check_fits(model, settings)
    assert str(caught.value) == (
        f"a batch of {batch} needs about {batch * 0.9:.1f} GB and {batch:.1f} GB are free: {remedy}"
    )


def test_the_batch_that_fits_is_never_said_to_be_none(model, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10)
    with pytest.raises(UsageError, match="use --batch-size 1 or less"):
        check_fits(model, resolve(Options(), model))


def test_where_free_memory_is_unknown_or_the_device_says_when_it_is_full(model, monkeypatch):
    settings = resolve(Options(), model)
    monkeypatch.setattr(memory, "bytes_per_sample", lambda *_: 10**18)
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    check_fits(model, settings)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10)
    check_fits(dataclasses.replace(model, device=torch.device("cuda")), settings)


def test_a_small_network_is_run_and_asked_exactly_only_where_it_may_not_fit(model, monkeypatch):
    """Tensors without data are slow to begin with, and real ones tell the same to a factor of 2."""
    settings = resolve(Options(count=3, batch_size=3), model)
    exact = bytes_per_sample(model, 1.0)
    real = model.process.bytes_per_sample(lambda: model.network, 1.0)
    assert exact / 2 < real <= exact
    calls = []
    monkeypatch.setattr(memory, "bytes_per_sample", lambda *_: calls.append(1) or exact)
    for free, expected in ((7 * real, []), (6 * real, [1])):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        check_fits(model, settings)
        assert calls == expected
