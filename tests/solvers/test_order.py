"""Order of convergence on the exact score of a mixture, at real-valued times."""

import numpy as np
import pytest
import torch

from ddimx.noise import Noise
from ddimx.solvers.dpmpp import dpmpp
from ddimx.solvers.executor import Draw, execute
from ddimx.solvers.registry import SolverChoice, make_plan
from tests.solvers.exact import ALPHA_BARS, SCHEDULE, alpha_bar, network
from tests.solvers.test_mixture import FIRST, LAST, LAW, STARTS, probability_flow

EXACT = probability_flow()
LOG = np.log(ALPHA_BARS)


def time_of(log_alpha_bar):
    """Return the time at a level: log alpha_bar is linear between whole times, and so is this."""
    return np.interp(log_alpha_bar, LOG[::-1], np.arange(999, -2, -1.0))


def levels(steps, order):
    """Return the falling times of ``steps`` equal intervals in lambda.

    The first interval of a multistep solver has order 1, so that an error of its length squared
    stays. For order 3 it is cut at length^1.5: then the start errs as little as all the rest.
    """
    first, last = (0.5 * np.log(ab / (1 - ab)) for ab in (alpha_bar(FIRST), alpha_bar(LAST)))
    lam = np.linspace(first, last, steps + 1)
    if order > 2:
        lam = np.insert(lam, 1, first + ((last - first) / steps) ** 1.5 / 2)
    return -np.log1p(np.exp(-2 * lam))


def error(make, steps, order):
    times = time_of(levels(steps, order))
    times[0], times[len(times) - 1] = FIRST, LAST
    times = np.append(times, [6.0, 4.0, 2.0])[::-1]  # what the last rows' lower orders fall on
    plan = make(times)
    draw = Draw(Noise(0), torch.arange(len(STARTS)))
    start = torch.from_numpy(STARTS)[:, None]
    run = execute(plan, network(LAW, times, "epsilon"), start, draw)
    (end,) = [step.x for step in run if step.t_to == LAST]
    return np.sqrt(np.mean((end[:, 0].numpy() - EXACT) ** 2))


def named(name):
    return lambda times: make_plan(SolverChoice(name), SCHEDULE, times, "epsilon")


def slopes(make, order):
    """Return the local orders; the numbers of intervals suit the hops of every PFDiff."""
    steps = np.array([61, 121, 253, 505])
    return -np.diff(np.log([error(make, n, order) for n in steps])) / np.diff(np.log(steps))


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("ddim", 1),
        ("pfdiff:2,1", 1),
        ("pfdiff:1,1", 2),  # the future score lies in the middle of the hop: the midpoint rule
        ("pfdiff:3,2", 2),
        ("dpm++:1", 1),
        ("dpm++:2", 2),
        ("dpm++:3", 3),
        ("unipc:1", 2),  # the corrector adds an order
        ("unipc:2", 3),
        ("ipndm:1", 1),
        ("ipndm:2", 2),
        ("ipndm:4", 2),  # its weights are those of equal steps, and these are not
    ],
)
def test_order(name, order):
    """Errors are C n^-p (1 + c / n + ...), so that local orders are p + O(1/n): extrapolated, p."""
    found = slopes(named(name), order)
    assert abs(found[-1] - order) < 0.1, found
    assert abs(2 * found[-1] - found[-2] - order) < 0.06, found


def test_the_published_third_order_is_of_the_second():
    """Half of the second derivative is missing there, whence the factor in dpm++:3."""
    found = slopes(lambda times: dpmpp(SCHEDULE, times, order=3, third="published"), 3)
    assert abs(found[-1] - 2) < 0.1
