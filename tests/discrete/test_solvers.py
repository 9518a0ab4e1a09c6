"""Token plans: their steps, times, routes, temperatures and calls."""

import numpy as np
import pytest

from ddimx.discrete.solvers import make_token_plan, steps_per_level, time_of
from ddimx.discrete.transition import route
from ddimx.errors import UsageError
from ddimx.solvers.pfdiff import pfdiff
from ddimx.solvers.schedule import Schedule, betas
from ddimx.solvers.timesteps import spaced

LINEAR = Schedule(betas("jsd", 0, 0, 1000))
COSINE = Schedule(betas("cosine", 0, 0, 100))
STOPS_SHORT = Schedule(betas("sigmoid", 1e-4, 0.01, 200))  # the seed project's: ends at 0.36


def level(plan, d):
    rows = plan.rows_of(d)
    return slice(rows.start, rows.stop)


def test_no_level_has_more_rows_than_it_can_have_cells():
    assert steps_per_level(8, 4) == (1, 8, 8, 8)
    assert steps_per_level(100, 4) == (1, 8, 64, 100)
    assert steps_per_level(1, 3) == (1, 1, 1)
    assert steps_per_level((3, 20, 5), 3) == (3, 20, 5)


@pytest.mark.parametrize(
    ("steps", "depth", "message"),
    [
        (8, 0, r"depth must lie in 1\.\.11, got 0"),
        (8, 12, r"depth must lie in 1\.\.11, got 12"),
        ((1, 2), 3, "2 numbers of steps for 3 levels"),
        (0, 3, "at least 1 step, got 0"),
        ((1, -2, 3), 3, "at least 1 step, got -2"),
    ],
)
def test_steps_that_do_not_fit_are_refused(steps, depth, message):
    with pytest.raises(UsageError, match=message):
        steps_per_level(steps, depth)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, STOPS_SHORT])
@pytest.mark.parametrize("spacing", ["linear", "cosine"])
@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_every_level_goes_from_noise_to_data(schedule, spacing, eta):
    plan = make_token_plan(schedule, 4, steps=7, spacing=spacing, eta=eta)
    for d in range(4):
        at = level(plan, d)
        assert plan.alpha_from[at][0] == 0
        assert plan.alpha_to[at][-1] == 1
        assert plan.t[at][0] == schedule.num_timesteps - 1
        assert plan.t_to[at][-1] == -1
        assert (np.diff(plan.t[at]) < 0).all() or spacing == "cosine"
        # Between the ends the share of clean tokens is the schedule's at the row's time.
        reached = plan.alpha_from[at][1:] >= schedule.alpha_bars[-1]
        exact = schedule.alpha_bar(plan.t[at][1:])
        assert np.allclose(plan.alpha_from[at][1:][reached], exact[reached], rtol=1e-9)
        weights = route(plan.alpha_from[at], plan.alpha_to[at], eta)
        for name, exact in zip(("keep", "clean", "noise"), weights, strict=True):
            assert (getattr(plan, name)[at] == exact).all()


def test_linear_times_and_cosine_shares():
    plan = make_token_plan(LINEAR, 2, steps=(1, 4))
    assert plan.t[1:].tolist() == [999, 749, 499, 249]
    assert np.allclose(plan.alpha_to[1:], [0.25, 0.5, 0.75, 1])
    plan = make_token_plan(LINEAR, 2, steps=(1, 3), routing="confidence")
    assert np.allclose(plan.reveal[1:], [1 - 3**0.5 / 2, 0.5, 1], rtol=1e-15)
    assert (plan.reveal == plan.alpha_to).all()
    # Within a step of the schedule log alpha is linear, which is linear to a thousandth here.
    assert np.allclose(plan.t[1:], [999, 1000 * 3**0.5 / 2 - 1, 499], rtol=0, atol=1e-3)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, STOPS_SHORT])
def test_time_of_undoes_the_schedule(schedule):
    t = np.concatenate([[-1, 0, 1], np.random.default_rng(0).uniform(-1, 98, 200)])
    assert np.allclose(time_of(schedule, schedule.alpha_bar(t)), t, rtol=0, atol=1e-8)
    last = schedule.num_timesteps - 1
    assert (time_of(schedule, np.array([0.0, schedule.alpha_bars[-1]])) == last).all()


@pytest.mark.parametrize(("k", "h"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 12, 13])
def test_tokens_are_asked_where_pfdiff_asks(k, h, n):
    """The rows that call are those at whose times PFDiff evaluates, over as many intervals."""
    plan = make_token_plan(LINEAR, 1, steps=(n,), pfdiff=(k, h))
    continuous = pfdiff(COSINE, spaced("trailing", 100, n), k=k, h=h)
    assert plan.nfe == continuous.nfe == 1 + -(-(n - 1) // (k + 1))
    down = np.append(spaced("trailing", 100, n)[::-1], -1)
    assert np.flatnonzero(plan.calls).tolist() == np.searchsorted(-down, -continuous.t).tolist()
    assert bool(plan.notes) == (n > 1 and (n - 1) % (k + 1) > 0)


def test_each_call_is_shared_by_k_plus_1_rows():
    calls = make_token_plan(LINEAR, 1, steps=(10,), pfdiff=(2, 2)).calls
    assert np.flatnonzero(calls).tolist() == [0, 3, 6, 9]
    calls = make_token_plan(LINEAR, 1, steps=(10,), pfdiff=(2, 1)).calls
    assert np.flatnonzero(calls).tolist() == [0, 2, 5, 8]
    assert make_token_plan(LINEAR, 3, steps=7, pfdiff=(2, 1)).nfe == 1 + 3 + 3


def test_temperature_and_gumbel_fall_within_each_level():
    plan = make_token_plan(
        LINEAR, 3, steps=(1, 2, 3), temperature=(1.0, 0.5), gumbel=4.0, routing="confidence"
    )
    assert plan.temperature.tolist() == [1, 1, 0.5, 1, 0.75, 0.5]
    assert plan.gumbel.tolist() == [0, 4, 0, 4, 2, 0]
    assert (make_token_plan(LINEAR, 2, temperature=0.3).temperature == 0.3).all()
    by_level = make_token_plan(LINEAR, 2, steps=(2, 3), temperature=((0.9, 0.7), (1.0, 0.0)))
    assert by_level.temperature.tolist() == [0.9, 0.7, 1, 0.5, 0]


def test_labels_say_what_runs():
    plan = make_token_plan(LINEAR, 2, transition="uniform", eta=0.25)
    assert plan.label == "ddim on uniform tokens, random routing, eta 0.25"
    plan = make_token_plan(LINEAR, 2, steps=(1, 3), routing="confidence", pfdiff=(2, 1))
    assert plan.label == "pfdiff:2,1 on absorbing tokens, confidence routing, eta 0"
    assert plan.notes == (
        "pfdiff with k = 2 shares a call among 3 rows; on level(s) 1 the last group is shorter",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": "liner"}, "unknown spacing of tokens 'liner'; did you mean 'linear'"),
        ({"routing": "sure"}, "unknown routing 'sure'"),
        ({"routing": "entropy", "eta": 0.5}, "eta must be 0"),
        ({"routing": "entropy", "entropy_bound": -1.0}, "a bound from 0 on, got -1.0"),
        ({"gumbel": 1.0}, "random routing has none"),
        ({"gumbel": -1.0, "routing": "confidence"}, "gumbel must not be negative"),
        ({"temperature": -0.1}, "temperature must not be negative"),
        ({"temperature": ((1.0, 1.0),) * 3}, "3 temperatures for 2 levels"),
        ({"temperature": (1.0, float("nan"))}, "temperature must not be negative"),
        ({"pfdiff": (1, 2)}, "1 <= h <= k <= 3, got pfdiff:1,2"),
        ({"pfdiff": (4, 1)}, "got pfdiff:4,1"),
        ({"eta": 1.5}, "eta must lie"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        make_token_plan(LINEAR, 2, **options)
