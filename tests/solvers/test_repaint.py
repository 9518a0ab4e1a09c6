"""RePaint's plan: its order, its jumps, and the statistics of what it paints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddimx.errors import UsageError
from ddimx.noise import Noise
from ddimx.solvers.executor import Draw, Known, execute
from ddimx.solvers.repaint import default_jump, repaint, walk
from ddimx.solvers.timesteps import spaced
from tests.solvers.exact import ALPHA_BARS, SCHEDULE, Gaussian, Solver, network

TIMES = [9.0, 199.0, 399.0, 599.0, 999.0]


def test_the_order_of_rows_and_jumps():
    """Five rows between states 4 3 2 1 0 and clean; jumps of two lead from 2 and from 0."""
    expected = [0, 1, 5 + 1, 0, 1, 2, 3, 5 + 3, 2, 3, 4]
    assert walk(5, 2, 2).tolist() == expected
    assert walk(5, 5, 3).tolist() == walk(5, 2, 1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("rows", "jump", "resample"), [(250, 10, 10), (50, 5, 5), (7, 3, 2)])
def test_the_number_of_network_calls(rows, jump, resample):
    order = walk(rows, jump, resample)
    jumps = len(range(0, rows - jump, jump)) * (resample - 1)
    assert (order >= rows).sum() == jumps
    assert (order < rows).sum() == rows + jumps * jump
    assert set(range(rows)) <= set(order.tolist())


def test_a_jump_is_the_forward_process():
    plan = repaint(Solver("ddim", 0.5).plan(TIMES), SCHEDULE, 2, 2)
    jumps = np.isnan(plan.t)
    assert plan.t_from[jumps].tolist() == [399.0, 9.0]
    assert plan.t_to[jumps].tolist() == [999.0, 399.0]
    assert plan.nfe == len(plan) - 2 == 9
    for row, (low, high) in zip(np.flatnonzero(jumps), [(399, 999), (9, 399)], strict=True):
        ratio = ALPHA_BARS[high + 1] / ALPHA_BARS[low + 1]
        assert plan.a[row] == pytest.approx(np.sqrt(ratio), rel=1e-12)
        assert plan.c[row] == pytest.approx(np.sqrt(1 - ratio), rel=1e-12)
        assert plan.known_signal[row] ** 2 == pytest.approx(ALPHA_BARS[high + 1], rel=1e-12)
        assert plan.known_sigma[row] ** 2 == pytest.approx(1 - ALPHA_BARS[high + 1], rel=1e-12)
        assert (plan.w[row], plan.b[row].any(), plan.p[row], plan.q[row].any()) == (0, 0, 1, 0)
    assert (plan.known_signal[-1], plan.known_sigma[-1], plan.t_to[-1]) == (1.0, 0.0, -1.0)
    assert "RePaint with jumps of 2 and 2 passes" in plan.label


def test_one_pass_is_the_plan_itself():
    plan = Solver("ddim", 0.0).plan(TIMES)
    assert repaint(plan, SCHEDULE, 3, 1) is plan


def test_the_default_jump_fits_every_plan():
    assert [default_jump(rows) for rows in (1, 4, 10, 25, 1000)] == [1, 1, 2, 5, 5]
    for rows in range(2, 30):
        times = np.arange(rows, dtype=np.float64)
        assert repaint(Solver("ddim", 0.0).plan(times), SCHEDULE, default_jump(rows), 2).nfe > rows


@pytest.mark.parametrize(
    ("jump", "resample", "message"),
    [
        (0, 2, "at least 1, got 0 and 2"),
        (1, 0, "at least 1, got 1 and 0"),
        (5, 2, "a jump of 5 steps needs more than 5 steps, the plan has 5"),
    ],
)
def test_jumps_that_do_not_fit_are_refused(jump, resample, message):
    with pytest.raises(UsageError, match=message):
        repaint(Solver("ddim", 0.0).plan(TIMES), SCHEDULE, jump, resample)


def test_a_solver_with_a_memory_is_refused():
    plan = Solver("ddim", 0.0).plan(TIMES)
    zeros = np.zeros((5, 2))
    deep = replace(plan, b=zeros, q=zeros)
    with pytest.raises(UsageError, match="remembers earlier steps"):
        repaint(deep, SCHEDULE, 2, 2)
    springboard = replace(plan, p=np.full(5, 0.5))
    with pytest.raises(UsageError, match="remembers earlier steps"):
        repaint(springboard, SCHEDULE, 2, 2)


def painted(eta: float, resample: int, count: int = 4000) -> np.ndarray:
    """The second of two correlated numbers, painted where the first is known to be 1."""
    law = Gaussian(np.array([0.3, -0.2]), np.array([[0.5, 0.45], [0.45, 0.5]]))
    times = spaced("trailing", 1000, 25)
    plan = repaint(Solver("ddim", eta).plan(times), SCHEDULE, 3, resample)
    ones = torch.ones(count, 2, dtype=torch.float64)
    known = Known(ones, torch.tensor([1.0, 0.0], dtype=torch.float64).expand(count, 2))
    start = torch.from_numpy(np.random.default_rng(0).normal(size=(count, 2)))
    draw = Draw(Noise(1), torch.arange(count))
    *_, last = execute(plan, network(law, times, "epsilon"), start, draw, known=known)
    assert (last.y[:, 0] == 1).all()
    return last.y[:, 1].numpy()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_resampling_comes_closer_to_the_conditional_distribution(eta):
    """Given x = 1, y is normal with mean -0.2 + 0.9 (1 - 0.3) = 0.43, variance 0.5 (1 - 0.81).

    Replacement draws y as if what is known were only partly so: its mean stays near the
    prior's -0.2. Measured: errors of the mean 0.24 (eta 1) and 0.31 (eta 0) for replacement, 0.13
    and 0.15 for 5 passes; a mean of 4000 has a standard error of 0.006, so that 0.7 lies five
    standard errors away from both ratios.
    """
    exact_mean, exact_variance = 0.43, 0.095
    replaced, resampled = painted(eta, 1), painted(eta, 5)
    error = [abs(y.mean() - exact_mean) for y in (replaced, resampled)]
    assert error[1] < 0.7 * error[0]
    spread = [abs(y.var() - exact_variance) for y in (replaced, resampled)]
    assert spread[1] < spread[0]
