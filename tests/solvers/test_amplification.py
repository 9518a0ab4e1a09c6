"""What a row may take from predictions made elsewhere: all solvers pass, naive Heun does not."""

import numpy as np
import pytest

from ddimx.errors import UsageError
from ddimx.solvers.continuous import FlowSchedule
from ddimx.solvers.plan import MOST_AMPLIFIED, amplification
from ddimx.solvers.registry import SolverChoice, all_names, make_plan
from ddimx.solvers.rows import Rows, half_log_snr
from ddimx.solvers.schedule import CLEAN, Schedule, betas, zero_terminal_snr
from ddimx.solvers.timesteps import spaced, times_of

LINEAR = betas("linear", 1e-4, 0.02, 1000)
COSINE = Schedule(betas("cosine", 0, 0, 1000))
PROCESSES = [COSINE, Schedule(zero_terminal_snr(LINEAR)), FlowSchedule.of(1000, 3.0)]


def heun(schedule, times, space):
    """Return Heun's method in rows of two evaluations each, the last interval by DDIM.

    The first row of a pair predicts the point at its end and leaves the state, the second one moves
    the state by the mean of both slopes. In ``space`` "epsilon" that is the exact step's weights of
    x and eps, in "x0" those of x and x0.
    """
    down = np.append(times[::-1], CLEAN)
    t = np.append(np.stack([down[:-2], down[1:-1]], axis=1), down[-2])
    t_from = np.append(np.repeat(down[:-2], 2), down[-2])
    t_to = np.append(np.stack([down[:-2], down[1:-1]], axis=1), CLEAN)
    rows = Rows(schedule, t, t_from, t_to, "v")
    ab, ab_to = (schedule.alpha_bar(np.repeat(x, 2)) for x in (down[:-2], down[1:-1]))
    if space == "epsilon":
        on_x = np.sqrt(ab_to / ab)
        weight = np.sqrt(1 - ab_to) - on_x * np.sqrt(1 - ab)
    else:
        on_x = np.sqrt((1 - ab_to) / (1 - ab))
        weight = np.sqrt(ab_to) * -np.expm1(half_log_snr(ab) - half_log_snr(ab_to))
    first = np.arange(len(on_x)) % 2 == 0
    end = {"epsilon": (0.0, 0.0, 1.0), "x0": (0.0, 1.0, 0.0)}[space]
    b = np.where(first, 0.0, weight / 2)
    return rows.plan(
        label="heun",
        history=space,
        a=np.append(np.where(first, 1.0, on_x), end[0]),
        b=np.append(np.stack([b, b], axis=1), [[end[1], 0.0]], axis=0),
        w=np.append(np.zeros(len(on_x)), end[2]),
        p=np.append(np.where(first, on_x, 1.0), 1.0),
        q=np.append(np.stack([np.where(first, weight, 0), 0 * weight], axis=1), [[0, 0]], axis=0),
    )


def test_a_naive_heun_row_is_refused_and_named():
    times = spaced("trailing", 1000, 10)
    with pytest.raises(UsageError, match="heun: row 1, from t = 999 to 899, enlarges the errors"):
        heun(COSINE, times, "epsilon")
    plan = heun(COSINE, times, "x0")
    assert amplification(plan, COSINE.alpha_bar(plan.t)).max() < 1


def test_it_is_the_weights_times_what_is_uncertain():
    """dpm++:2 by hand: the older x0 has the weight |b_1|, and errs by the sigma it was made at."""
    times = np.array([100.0, 500.0, 900.0])
    plan = make_plan(SolverChoice("dpm++:2"), COSINE, times, "v")
    sizes = amplification(plan, COSINE.alpha_bar(plan.t))
    sigma = np.sqrt(1 - COSINE.alpha_bar(times[::-1]))
    assert sizes.tolist() == [0, abs(plan.b[1, 1]) * sigma[0], 0]
    plan = make_plan(SolverChoice("pfdiff:2,1"), COSINE, np.linspace(9, 909, 7), "v")
    foreign = plan.t != plan.t_from
    sizes = amplification(plan, COSINE.alpha_bar(plan.t))
    alpha = np.sqrt(COSINE.alpha_bar(plan.t))
    np.testing.assert_allclose(sizes, np.where(foreign, np.abs(plan.b[:, 0]) * alpha, 0))


@pytest.mark.parametrize("name", all_names())
def test_all_solvers_pass_at_usual_times(name):
    for schedule in PROCESSES:
        prediction = "flow" if isinstance(schedule, FlowSchedule) else "v"
        for spacing in ("trailing", "linspace"):
            for steps in (6, 15):
                times = spaced(spacing, 1000, steps)
                plan = make_plan(SolverChoice(name), schedule, times, prediction)
                sizes = amplification(plan, schedule.alpha_bar(plan.t))
                free = name.startswith(("pfdiff", "dpm++:3"))
                assert sizes.max() < (MOST_AMPLIFIED if free else 8)


def test_a_hop_out_of_pure_noise_by_an_epsilon_from_ahead_is_refused():
    schedule = PROCESSES[1]
    with pytest.raises(UsageError, match="pfdiff:2,1: row 1, from t = 998 to -1, enlarges"):
        make_plan(SolverChoice("pfdiff:2,1"), schedule, times_of("logsnr", schedule, 3), "v")
