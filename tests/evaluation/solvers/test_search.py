"""Searched plans: exact where a mixture can be, no worse than what they start from elsewhere."""

import dataclasses

import numpy as np
import pytest
import torch

from ddimx.errors import UsageError
from ddimx.evaluation.solvers.reference import fine_plan, rmse, run_plan
from ddimx.evaluation.solvers.search import DEPTH, Search, follow
from ddimx.solvers.plan_file import check_fits
from ddimx.weights.model import load_model
from tests.evaluation.likelihood.known import exact_end, normal_pixels, settings_of

EVALUATIONS = 40


@pytest.fixture(scope="module")
def plain(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def search_of(model, seed=1, count=3):
    settings = settings_of(model, seed, count)
    return Search(model, settings, follow(model, settings, EVALUATIONS))


@pytest.fixture(scope="module")
def search(plain):
    return search_of(plain)


def test_trajectories_hold_every_state(plain):
    settings = settings_of(plain)
    along = follow(plain, settings, EVALUATIONS)
    assert along.times.tolist() == np.linspace(0, 999, EVALUATIONS)[1:].tolist()
    assert set(along.states) == set(along.times.tolist())
    index = torch.tensor(list(settings.indices))
    start = settings.noise.normal(index, plain.process.shape)
    assert torch.equal(along.states[999.0], start)
    assert all(state.shape == start.shape for state in along.states.values())


@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_normal_data_is_solved_exactly(plain, nfe):
    """There the flow is affine in x, and x0 and x together span every affine map of a pixel."""
    model = normal_pixels(plain)
    found = search_of(model)
    plan = found.plan(found.best(nfe, trials=20))
    assert (plan.nfe, plan.depth, plan.history) == (nfe, DEPTH, "x0")
    check_fits(plan, model.process.schedule, "v")
    fresh = settings_of(model, seed=77, count=4)
    due = run_plan(model, fresh, fine_plan(model, EVALUATIONS))  # what the search followed
    # Elements are at most 4: the ridge, 1e-7, and float32's rounding in a few rows are left.
    assert (run_plan(model, fresh, plan) - due).abs().max() < 1e-4
    assert rmse(due, exact_end(model, fresh)) < 0.02


def test_the_plan_does_what_the_fit_did(plain, search):
    """Run by the executor, on the search's own samples, it errs as the search says."""
    fit = search.best(4, trials=30)
    settings = settings_of(plain, seed=1)
    end = run_plan(plain, settings, search.plan(fit))
    error = rmse(end, follow(plain, settings, EVALUATIONS).x0)
    assert error == pytest.approx(fit.rmse, rel=1e-3)


def test_fitted_rows_are_least_squares(search):
    """No small change of a weight brings the row nearer to its target."""
    times = [999.0, *search._along.times[[25, 10]].tolist()]
    fit = search.fit(times)
    row, target = fit.rows[1], search._along.states[times[2]]
    basis = torch.stack([t.flatten().double() for t in (row.y, *row.history)])
    residual = target.flatten().double() - torch.from_numpy(row.weights) @ basis
    slope = basis @ residual / basis.norm(dim=1) / target.double().norm()
    assert slope.abs().max() < 1e-4  # the ridge's share


def test_a_search_never_ends_behind_its_start(search):
    seen = []
    best = search.best(5, trials=40, tried=lambda fit: seen.append(fit.rmse))
    assert best.rmse == min(seen) < seen[0]
    assert len(seen) <= 40
    assert best.times[0] == 999
    assert list(best.times) == sorted(set(best.times), reverse=True)


def test_a_changed_time_reuses_the_rows_before_it(search):
    """With the rows of the list it came from, a fit is the fit from scratch."""
    grid = search._along.times
    base = search.fit([999.0, *grid[[30, 20, 10, 3]].tolist()])
    for i in range(1, 5):
        times = list(base.times)
        times[i] = float(grid[[0, 28, 22, 8, 1][i]])
        again, fresh = search.fit(times, base, i), search.fit(times)
        assert again.rmse == fresh.rmse
        for a, b in zip(again.rows, fresh.rows, strict=True):
            assert np.array_equal(a.weights, b.weights)
    assert all(a is not b for a, b in zip(again.rows[:3], base.rows[:3], strict=True))


def test_a_search_needs_times_to_choose_from(search):
    with pytest.raises(UsageError, match="needs a finer --reference"):
        search.best(EVALUATIONS, trials=1)


def test_guidance_enters_the_fit(plain):
    settings = dataclasses.replace(settings_of(plain, seed=1), guidance=2.5)
    found = Search(plain, settings, follow(plain, settings, EVALUATIONS))
    fit = found.fit([999.0, *found._along.times[[20, 5]].tolist()])
    end = run_plan(plain, settings, found.plan(fit))
    assert rmse(end, found._along.x0) == pytest.approx(fit.rmse, rel=1e-3)
