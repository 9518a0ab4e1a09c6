"""Noise schedules against formulas written out here, and alpha_bar at every kind of time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.config import DiffusionConfig
from ddimx.errors import UsageError
from ddimx.solvers.schedule import CLEAN, Schedule, betas, zero_terminal_snr

START, END = 1e-4, 0.02
LENGTHS = (1000, 37)
ZERO_TERMINAL = np.array([0.1, 0.2, 0.3, 1.0])


def grid(first, last, steps):
    """Return evenly spaced numbers, point by point and without NumPy."""
    return [first + (last - first) * i / (steps - 1) for i in range(steps)]


def cosine(steps):
    def alpha_bar(i):
        return math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - alpha_bar(i + 1) / alpha_bar(i), 0.999) for i in range(steps)]


def expected(name, steps):
    """The betas of ermongroup/ddim (and cosine's of improved DDPM), in plain Python."""
    if name == "cosine":
        return cosine(steps)
    if name == "sigmoid":
        return [START + (END - START) / (1 + math.exp(-g)) for g in grid(-6, 6, steps)]
    if name == "jsd":
        return [1 / (steps - i) for i in range(steps)]
    if name == "const":
        return [END] * steps
    if name == "linear":
        return grid(START, END, steps)
    return [g**2 for g in grid(math.sqrt(START), math.sqrt(END), steps)]


def linear(steps=1000):
    return Schedule(betas("linear", START, END, steps))


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize(
    "name",
    ["linear", "quad", "const", "jsd", "sigmoid", "cosine", "scaled-linear", "scaled_linear"],
)
def test_betas(name, steps):
    table = betas(name, START, END, steps)
    assert table.dtype == np.float64
    np.testing.assert_allclose(table, expected(name, steps), rtol=1e-12, atol=0)
    assert Schedule(table).num_timesteps == steps


def test_the_cosine_schedule_ends_at_its_bound():
    assert betas("cosine", START, END, 1000)[-1] == 0.999


def test_a_schedule_from_a_config():
    config = DiffusionConfig(beta_schedule="sigmoid", beta_end=0.03, num_diffusion_timesteps=50)
    schedule = Schedule.from_config(config)
    assert np.array_equal(schedule.betas, betas("sigmoid", 1e-4, 0.03, 50))


def test_an_unknown_schedule_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match=r"'liner'.*did you mean 'linear'\?.*Allowed: const"):
        betas("liner", START, END, 10)


@pytest.mark.parametrize("bad", [[], [[0.1]], [0.1, 0.0], [0.1, 1.1], [-0.1], [math.nan]])
def test_betas_that_make_no_process_are_refused(bad):
    with pytest.raises((ValueError, UsageError), match="beta"):
        Schedule(np.array(bad))


def test_alpha_bar_is_the_product():
    schedule = linear(60)
    assert schedule.alpha_bar(CLEAN) == 1.0
    for t in range(60):
        product = math.prod(1 - b for b in expected("linear", 60)[: t + 1])
        assert schedule.alpha_bar(t) == pytest.approx(product, rel=1e-13)


@pytest.mark.parametrize("name", ["linear", "cosine", "jsd"])
def test_whole_times_give_the_table_exactly(name):
    schedule = Schedule(betas(name, START, END, 200))
    assert np.array_equal(schedule.alpha_bar(np.arange(-1, 200)), schedule.alpha_bars)
    assert schedule.alpha_bars.shape == (201,)
    assert schedule.alpha_bar(np.array([[3, 5]])).shape == (1, 2)


@given(step=st.integers(0, 999), share=st.floats(0, 1))
def test_between_whole_times_the_logarithm_is_linear(step, share):
    schedule = linear()
    t = step - 1 + share
    share = t - (step - 1)  # what is left of it after rounding
    value = float(schedule.alpha_bar(t))
    log_before = math.fsum(math.log1p(-b) for b in schedule.betas[:step])
    exponent = log_before + share * math.log1p(-schedule.betas[step])
    assert value == pytest.approx(math.exp(exponent), rel=1e-12)


def test_alpha_bar_falls_and_is_continuous():
    schedule = linear(50)
    fine = schedule.alpha_bar(np.linspace(-1, 49, 5001))
    assert (np.diff(fine) < 0).all()
    whole = np.arange(0, 49)
    for side in (-1e-9, 1e-9):
        near = schedule.alpha_bar(whole + side)
        np.testing.assert_allclose(near, schedule.alpha_bars[1:-1], rtol=1e-10)
        assert (near != schedule.alpha_bars[1:-1]).all()


def test_zero_terminal_snr_is_finite_and_continuous():
    schedule = Schedule(ZERO_TERMINAL)
    assert schedule.alpha_bar(3) == 0.0
    fine = schedule.alpha_bar(np.linspace(2, 3, 101))
    assert np.isfinite(fine).all()
    np.testing.assert_allclose(fine, 0.9 * 0.8 * 0.7 * np.linspace(1, 0, 101), atol=1e-15)
    assert schedule.alpha_bar(1.5) == pytest.approx(0.9 * 0.8 * math.sqrt(0.7), rel=1e-14)


def test_a_process_of_one_step():
    schedule = Schedule(np.array([0.25]))
    np.testing.assert_allclose(schedule.alpha_bar([-1, -0.5, 0]), [1, math.sqrt(0.75), 0.75])


@pytest.mark.parametrize("t", [-1.001, 49.001, math.nan, math.inf, [3.0, 50.0]])
def test_a_time_outside_the_process_is_refused(t):
    with pytest.raises(ValueError, match=r"t must lie in \[-1, 49\]"):
        linear(50).alpha_bar(t)


def test_zero_terminal_snr_maps_the_signal_linearly_to_end_at_0():
    """Algorithm 1 of arXiv 2305.08891: sqrt(alpha_bar) keeps its first value and ends at 0."""
    before = Schedule(betas("scaled_linear", 0.00085, 0.012, 1000))
    after = Schedule(zero_terminal_snr(before.betas))
    old, new = np.sqrt(before.alpha_bars[1:]), np.sqrt(after.alpha_bars[1:])
    assert new[-1] == 0
    assert after.betas[-1] == 1
    assert new[0] == pytest.approx(old[0], rel=1e-15)
    # One straight line through all of it: a product of 1000 factors, 1e-13.
    np.testing.assert_allclose(new / new[0], (old - old[-1]) / (old[0] - old[-1]), atol=1e-13)
