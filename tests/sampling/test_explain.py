"""Plans and costs, before anything is computed."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from ddimx.models.factory import build
from ddimx.options import Options
from ddimx.sampling.explain import costs, plan_table
from ddimx.sampling.memory import bytes_per_sample, weight_bytes
from ddimx.sampling.settings import resolve
from ddimx.weights.model import load_model
from tests.sampling import counted_calls


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def lines_of(plan):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(plan_table(plan))
    return [line.split() for line in captured.get().splitlines()]


def test_the_table_holds_the_plans_numbers(model):
    plan = resolve(Options(timesteps=[700, 300.5, 2], eta=1.0), model).plan
    title, header, *rows = lines_of(plan)
    assert " ".join(title) == "ddim, eta 1; 3 rows, 3 network calls"
    assert header == ["row", "t", "t_to", "r", "s", "u", "v", "w", "c", "b0"]  # a and q are idle
    assert len(rows) == 3
    assert [row[:3] for row in rows] == [
        ["0", "700", "300.500000"],
        ["1", "300.500000", "2"],
        ["2", "2", "-1"],
    ]
    for i, row in enumerate(rows):
        for name, text in zip(header[3:], row[3:], strict=True):
            value = plan.b[i, 0] if name == "b0" else getattr(plan, name)[i]
            assert float(text) == pytest.approx(value, abs=5e-7)


def test_columns_that_say_nothing_are_left_out(model):
    assert "c" not in lines_of(resolve(Options(steps=2), model).plan)[1]
    header = lines_of(resolve(Options(steps=2, solver="ddpm"), model).plan)[1]
    assert "a" in header
    assert "b0" not in header


def test_a_row_that_calls_no_network_has_no_time(model):
    plan = resolve(Options(steps=2), model).plan
    jump = dataclasses.replace(plan, t=np.array([plan.t[0], np.nan]))
    title, _, _, row = lines_of(jump)
    assert " ".join(title).endswith("2 rows, 1 network call")
    assert row[:3] == ["1", "-", "-1"]


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 3), (1.5, 6)])
def test_costs(model, guidance, passes):
    settings = resolve(Options(steps=3, guidance=guidance, count=100, batch_size=10), model)
    spent = costs(model, settings)
    assert (spent["nfe"], spent["forward_passes_per_sample"]) == (3, passes)
    assert (spent["count"], spent["batch_size"]) == (100, 10)
    each = bytes_per_sample(model, guidance)
    assert spent["memory_bytes"] == weight_bytes(model) + 10 * each
    assert spent["estimated_seconds"] > 0


def test_invariant_costs_the_memory_of_its_own_batch(model):
    spent = costs(model, resolve(Options(steps=1, count=2, invariant=True), model))
    assert spent["memory_bytes"] == weight_bytes(model) + 8 * bytes_per_sample(model, 1.0)


def test_images_whose_bytes_cannot_be_counted_fit_nowhere(model):
    with torch.device("meta"):
        network, _ = build(model.config)
    huge = replace(model.process, shape=(model.process.shape[0], 2**29, 2**29))
    assert huge.bytes_per_sample(lambda: network, 1.0) >= 2**62


@pytest.mark.parametrize("steps", [1, 2, 500])
def test_the_estimate_of_the_time_runs_a_few_rows_only(model, steps, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("ddimx.sampling.explain.time.perf_counter", lambda: 1.0 * next(clock))
    settings = resolve(Options(steps=steps, count=8, batch_size=8), model)
    with counted_calls() as calls:
        spent = costs(model, settings)
    timed = {1: 1, 2: 1, 500: 2}[steps]  # rows after the warm-up, in what the clock says is 1 s
    assert calls == [4] * (1 + timed)
    assert spent["estimated_seconds"] == round(1.0 / timed / 4 * steps * 8, 2)
