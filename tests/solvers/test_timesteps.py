"""The spacings against the programs they are named after, written out here; explicit lists."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import UsageError
from ddimx.solvers.continuous import EdmSchedule, FlowSchedule
from ddimx.solvers.schedule import Schedule, betas, zero_terminal_snr
from ddimx.solvers.timesteps import BY_LEVEL, SPACINGS, explicit, spaced, times_of

TOTALS = (1000, 200, 97)


def ermon_uniform(total, steps):
    return list(range(0, total, total // steps))


def ermon_quad(total, steps):
    squares = np.linspace(0, np.sqrt(total * 0.8), steps) ** 2
    return [int(s) for s in list(squares)]


def diffusers_linspace(total, steps):
    return np.linspace(0, total - 1, steps).round()


def diffusers_leading(total, steps):
    return np.arange(steps) * (total // steps)


def diffusers_trailing(total, steps):
    return (np.round(np.arange(total, 0, -total / steps)) - 1)[::-1]


def test_the_names():
    assert set(SPACINGS) == {"ddim", "leading", "linspace", "trailing", "quad"}


@pytest.mark.parametrize("total", TOTALS)
def test_ddim_is_the_range_of_the_papers_code(total):
    for steps in range(1, total + 1):
        assert spaced("ddim", total, steps).tolist() == ermon_uniform(total, steps)


@pytest.mark.parametrize(
    ("steps", "count"),
    [(3, 4), (7, 8), (30, 31), (150, 167), (300, 334), (999, 1000), (10, 10), (1000, 1000)],
)
def test_ddim_reports_the_true_count(steps, count):
    assert len(spaced("ddim", 1000, steps)) == count


@pytest.mark.parametrize(
    ("steps", "count"), [(10, 10), (20, 20), (50, 49), (100, 96), (200, 187), (1000, 688)]
)
def test_quad_drops_repeats(steps, count):
    times = spaced("quad", 1000, steps)
    assert len(times) == count
    assert times.tolist() == sorted(set(ermon_quad(1000, steps)))


@pytest.mark.parametrize("total", TOTALS)
def test_linspace_is_diffusers(total):
    for steps in range(2, total + 1):  # among them steps with halves to round: 27 of 1000
        times = spaced("linspace", total, steps)
        assert np.array_equal(times, diffusers_linspace(total, steps)), steps


@pytest.mark.parametrize("total", TOTALS)
def test_leading_is_diffusers(total):
    for steps in range(1, total + 1):
        assert np.array_equal(spaced("leading", total, steps), diffusers_leading(total, steps)), (
            steps
        )


@pytest.mark.parametrize("total", TOTALS)
def test_trailing_is_diffusers_without_its_extra_entry(total):
    surplus = 0
    for steps in range(1, total + 1):
        theirs = diffusers_trailing(total, steps)
        if len(theirs) > steps:  # arange overshot: one entry too many, at t = -1
            assert theirs[0] == -1
            theirs = theirs[1:]
            surplus += 1
        assert np.array_equal(spaced("trailing", total, steps), theirs), steps
    assert surplus or total != 1000


def test_one_step():
    first = {name: spaced(name, 1000, 1).tolist() for name in SPACINGS}
    assert first == {
        "ddim": [0],
        "leading": [0],
        "linspace": [999],  # where diffusers has 0, from which nothing can be drawn
        "trailing": [999],
        "quad": [0],
    }


@pytest.mark.parametrize("spacing", ["ddim", "leading", "linspace", "trailing"])
@pytest.mark.parametrize("total", [1, 2, *TOTALS])
def test_as_many_steps_as_times(spacing, total):
    assert spaced(spacing, total, total).tolist() == list(range(total))


@given(spacing=st.sampled_from(sorted(SPACINGS)), total=st.integers(1, 5000), data=st.data())
def test_every_spacing_rises_strictly_inside_the_range(spacing, total, data):
    steps = data.draw(st.integers(1, total))
    times = spaced(spacing, total, steps)
    assert times.dtype == np.float64
    assert (np.diff(times) > 0).all()
    assert times[0] >= 0
    assert times[-1] <= total - 1
    assert np.array_equal(times, np.rint(times))
    if spacing == "ddim":
        assert len(times) == math.ceil(total / (total // steps))
    elif spacing == "quad":
        assert 1 <= len(times) <= steps
    else:
        assert len(times) == steps


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_outside_the_range_are_refused(steps):
    for spacing in SPACINGS:
        with pytest.raises(UsageError, match=rf"1\.\.1000.*got {steps}"):
            spaced(spacing, 1000, steps)


def test_an_unknown_spacing_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match=r"'quadratic'; did you mean 'quad'\?"):
        spaced("quadratic", 1000, 10)


def test_explicit_times_come_back_ascending():
    assert explicit([0, 12.5, 999], 1000).tolist() == [0, 12.5, 999]
    assert explicit([999, 12.5, 0], 1000).tolist() == [0, 12.5, 999]
    assert explicit([7], 1000).tolist() == [7]
    assert explicit((3, 1), 4).dtype == np.float64


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "empty"),
        ([0, 1000], r"1000 lies outside 0\.\.999"),
        ([-1, 5], r"-1 lies outside 0\.\.999"),
        ([math.nan], "nan lies outside"),
        ([3, 3], "strictly"),
        ([1, 5, 3], "strictly"),
        ([5, 3, 3, 1], "strictly"),
    ],
)
def test_lists_that_are_no_path_are_refused(times, message):
    with pytest.raises(UsageError, match=message):
        explicit(times, 1000)


LINEAR = betas("linear", 1e-4, 0.02, 1000)
PROCESSES = {
    "linear": Schedule(LINEAR),
    "cosine": Schedule(betas("cosine", 0, 0, 1000)),
    "zero terminal": Schedule(zero_terminal_snr(LINEAR)),
    "flow": FlowSchedule.of(1000, 3.0),
    "edm": EdmSchedule.of(1000),
}


def sigmas(schedule, times):
    ab = schedule.alpha_bar(times)
    return np.sqrt((1 - ab) / ab)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("spacing", ["logsnr", "karras", "karras:3"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_even_in_the_noise_level(spacing, name, steps):
    schedule = PROCESSES[name]
    times = times_of(spacing, schedule, steps)
    assert len(times) == steps
    assert times[-1] == 999
    assert (np.diff(times) > 0).all()
    assert np.array_equal(times, times.astype(np.float32))
    if steps == 1:
        return
    assert times[0] == 0
    if name in ("zero terminal", "flow"):  # pure noise comes first, and counts no more
        times = times[:-1]
        assert steps == 2 or times[-1] == 998
    values = sigmas(schedule, times)
    rho = 7.0 if spacing == "karras" else 3.0
    values = np.log(values) if spacing == "logsnr" else values ** (1 / rho)
    # Times are rounded to float32, by up to 2^-24 of them, and sigma's slope is up to 1 / time.
    if len(values) > 1:
        even = np.linspace(values[0], values[-1], len(values))
        assert np.abs(values - even).max() < 1e-4 * np.abs(values[-1] - values[0])


def test_karras_times_of_edm_are_its_own_list():
    """EDM's times are even in sigma^(1 / rho) already, as ``linspace`` visits them."""
    schedule = EdmSchedule.of(18, rho=7.0)
    due = spaced("linspace", 18, 18)
    np.testing.assert_allclose(times_of("karras", schedule, 18), due, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spacing", ["karras:0.5", "karras:", "karras:101", "logsnr:3", "karras:x"])
def test_a_rho_that_is_none(spacing):
    with pytest.raises(UsageError, match="with a rho from 1 to 100, karras:5"):
        times_of(spacing, PROCESSES["linear"], 5)


def test_any_spacing_is_known_by_its_name():
    for spacing in SPACINGS:
        assert np.array_equal(times_of(spacing, PROCESSES["linear"], 7), spaced(spacing, 1000, 7))
    for spacing in BY_LEVEL:
        with pytest.raises(UsageError, match=r"steps must lie in 1\.\.1000"):
            times_of(spacing, PROCESSES["linear"], 1001)
    with pytest.raises(UsageError, match=r"unknown spacing 'quadratic'; .* ddim, karras, leading"):
        times_of("quadratic", PROCESSES["linear"], 5)
