"""DPM-Solver++, iPNDM and UniPC: weights by hand, limits, exactness where theory promises it."""

import numpy as np
import pytest
import torch

from ddimx.errors import UsageError
from ddimx.noise import Noise
from ddimx.solvers.ddim import ddim
from ddimx.solvers.dpmpp import dpmpp
from ddimx.solvers.executor import Draw, Raw, execute
from ddimx.solvers.ipndm import ipndm
from ddimx.solvers.registry import SolverChoice, make_plan
from ddimx.solvers.schedule import Schedule
from ddimx.solvers.unipc import unipc
from tests.solvers.exact import BETAS, SCHEDULE, Gaussian, alpha_bar, network

NAMES = ("dpm++:1", "dpm++:2", "dpm++:3", "ipndm:1", "ipndm:2", "ipndm:3", "ipndm:4")
NAMES += ("unipc:1", "unipc:2", "unipc:3", "pfdiff:1,1", "pfdiff:2,1", "pfdiff:3,2")
ZERO_TERMINAL = Schedule(np.append(BETAS[:-1], 1.0))
START = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]


def levels(t):
    ab = alpha_bar(t)
    return np.sqrt(ab), np.sqrt(1 - ab), 0.5 * np.log(ab / (1 - ab))


def run(plan, evaluate):
    draw = Draw(Noise(0), torch.arange(len(START)))
    return list(execute(plan, evaluate, START, draw))[-1].y


def test_dpm_solver_by_hand():
    """Rows of 2M over 4 of 20 times, written out; 20, so that orders do not fall early."""
    times = np.linspace(10, 990, 20)
    plan = dpmpp(SCHEDULE, times, order=2)
    for row in (0, 1, 7, 18):
        (_, s0, l0), (a1, s1, l1) = levels(plan.t[row]), levels(plan.t_to[row])
        h, e = l1 - l0, np.exp(l0 - l1)
        assert plan.a[row] == pytest.approx(s1 / s0, rel=1e-12)
        if row == 0:
            exact = [a1 * (1 - e), 0]
        else:
            ratio = h / (l0 - levels(plan.t[row - 1])[2])
            exact = [a1 * (1 - e) * (1 + ratio / 2), -a1 * (1 - e) * ratio / 2]
        np.testing.assert_allclose(plan.b[row], exact, rtol=1e-11)
    assert (plan.a[-1], *plan.b[-1], plan.t_to[-1]) == (0, 1, 0, -1)
    assert plan.history == "x0"
    assert not plan.w.any()


def test_the_third_order_integrates_quadratics_of_lambda():
    """x0 = 1 + l + l^2 in lambda: the integral of exp(l' - l_to) x0(l') has a closed form."""
    times = np.linspace(10, 990, 20)
    plan = dpmpp(SCHEDULE, times, order=3)
    for row in (2, 9, 18):
        m = [1 + levels(plan.t[row - j])[2] + levels(plan.t[row - j])[2] ** 2 for j in range(3)]
        (_, _, l0), (a1, _, l1) = levels(plan.t[row]), levels(plan.t_to[row])
        # The primitive of exp(l) (1 + l + l^2) is exp(l) (l^2 - l + 2).
        exact = a1 * ((l1**2 - l1 + 2) - np.exp(l0 - l1) * (l0**2 - l0 + 2))
        assert plan.b[row] @ m == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("order", "row"), [(1, 0), (2, 1), (3, 2), (4, 3), (4, 9)])
def test_adams_bashforth_integrates_polynomials_over_equal_steps(order, row):
    """In sigma / alpha, where DDIM is Euler: weights of order p are exact for degree p - 1."""
    rho = np.linspace(3, 0.1, 12)  # falling, equal
    table = np.append(1.0, 1 / (1 + rho[::-1] ** 2))
    schedule = Schedule(1 - table[1:] / table[:-1])
    plan = ipndm(schedule, np.arange(12.0), order=order)
    point, to = rho[row], rho[row + 1]
    alpha, alpha_to = (1 / np.sqrt(1 + r**2) for r in (point, to))
    for degree in range(order):
        eps = [(rho[row - j]) ** degree for j in range(order)]
        x = 0.7
        x0 = (x - point * alpha * eps[0]) / alpha
        moved = plan.a[row] * x + plan.w[row] * x0 + plan.b[row, :order] @ eps
        integral = (to ** (degree + 1) - point ** (degree + 1)) / (degree + 1)
        assert moved / alpha_to == pytest.approx(x / alpha + integral, rel=1e-10)


def test_unipc_by_hand():
    """Order 1: a predictor of order 1, and a corrector that averages both ends."""
    plan = unipc(SCHEDULE, np.array([50.0, 400.0, 900.0]), order=1)
    assert plan.t.tolist() == [900, 400, 50]
    assert plan.t_from.tolist() == [900, 900, 400]
    assert plan.t_to.tolist() == [900, 400, -1]
    steps = [(900, 400), (400, 50)]
    for row, (t, t_to) in enumerate(steps):
        (_, s0, l0), (a1, s1, l1) = levels(t), levels(t_to)
        weight = a1 * (1 - np.exp(l0 - l1))
        assert plan.p[row] == pytest.approx(s1 / s0, rel=1e-12)
        np.testing.assert_allclose(plan.q[row], [weight, 0], rtol=1e-12)
        if row == 0:
            assert plan.a[1] == plan.p[0]
            np.testing.assert_allclose(plan.b[1], [weight / 2, weight / 2], rtol=1e-12)
    assert (plan.a[0], *plan.b[0]) == (1, 0, 0)  # nothing to correct yet
    assert (plan.a[2], *plan.b[2], plan.p[2], *plan.q[2]) == (0, 1, 0, 1, 0, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_one_step_is_ddims(name, prediction):
    one = np.array([700.0])
    plan = make_plan(SolverChoice(name), SCHEDULE, one, prediction)
    law = Gaussian(np.array([0.3]), np.array([[0.2]]))
    ours = run(plan, network(law, one, prediction))
    due = run(ddim(SCHEDULE, one, prediction=prediction), network(law, one, prediction))
    assert len(plan) == 1
    assert torch.allclose(ours, due, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["dpm++:2", "dpm++:3", "unipc:2", "unipc:3"])
def test_two_steps_of_x0_solvers_start_with_ddim(name):
    """The first and the last row have order 1; UniPC's correction does not reach the end."""
    times = np.array([100.0, 900.0])
    law = Gaussian(np.array([0.3]), np.array([[0.2]]))
    ours = run(make_plan(SolverChoice(name), SCHEDULE, times, "v"), network(law, times, "v"))
    due = run(ddim(SCHEDULE, times, prediction="v"), network(law, times, "v"))
    assert torch.allclose(ours, due, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [2, 3, 8, 20])
def test_a_model_that_knows_the_answer_is_believed(name, n):
    """With x0 the same at all times, eps = (x - alpha x0) / sigma keeps its value: all are exact.

    Between first and last row every weight matters: they must sum to what DDIM's sum to.
    """
    times = np.linspace(5, 990, n)
    truth = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    for prediction in ("x0", "epsilon", "v"):
        plan = make_plan(SolverChoice(name), SCHEDULE, times, prediction)

        def evaluate(y, t, plan=plan, prediction=prediction):
            ab = alpha_bar(plan.t[np.abs(plan.t - float(t[0])).argmin()])
            eps = (y - np.sqrt(ab) * truth) / np.sqrt(1 - ab)
            v = np.sqrt(ab) * eps - np.sqrt(1 - ab) * truth
            return Raw({"x0": truth, "epsilon": eps, "v": v}[prediction], None)

        steps = list(execute(plan, evaluate, START, Draw(Noise(0), torch.arange(9))))
        top = alpha_bar(times[-1])
        noise = (START - np.sqrt(top) * truth) / np.sqrt(1 - top)
        for step in steps:
            ab = alpha_bar(step.t_to)
            due = np.sqrt(ab) * truth + np.sqrt(1 - ab) * noise
            # Divisions by sqrt(ab), 1/150 at t = 990, and by sigma, 0.02 at t = 5.
            assert torch.allclose(step.x, due, rtol=0, atol=1e-10)
        assert torch.allclose(steps[-1].y, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_start_at_pure_noise(name):
    """v-prediction at alpha_bar = 0, lambda = -inf: finite weights, and DDIM's first step."""
    times = np.linspace(99, 999, 10)
    plan = make_plan(SolverChoice(name), ZERO_TERMINAL, times, "v")

    def smooth(y, t):
        return Raw(torch.tanh(y) * (0.5 + t[0].double() / 1500), None)

    draw = Draw(Noise(0), torch.arange(9))
    first = next(iter(execute(plan, smooth, START, draw)))
    due = next(iter(execute(ddim(ZERO_TERMINAL, times, prediction="v"), smooth, START, draw)))
    if name.startswith("unipc"):  # its first row predicts, its second one moves
        assert torch.equal(first.x, START)
        assert torch.allclose(first.y, due.x, rtol=0, atol=1e-14)
    else:
        assert torch.allclose(first.x, due.x, rtol=0, atol=1e-14)


def test_an_infinite_interval_is_no_slope():
    """From lambda = -inf the second row's differences vanish: 2M and UniPC fall back an order."""
    times = np.linspace(99, 999, 20)
    plan = dpmpp(ZERO_TERMINAL, times, order=3, prediction="v")
    assert plan.b[1, 1:].tolist() == [0, 0]
    assert plan.b[2, 2] == 0 != plan.b[2, 1]
    assert unipc(ZERO_TERMINAL, times, order=2, prediction="v").q[1, 1] == 0


@pytest.mark.parametrize("name", NAMES)
def test_epsilon_cannot_start_at_pure_noise(name):
    with pytest.raises(UsageError, match="cannot start at alpha_bar = 0"):
        make_plan(SolverChoice(name), ZERO_TERMINAL, np.array([99.0, 999.0]), "epsilon")


@pytest.mark.parametrize(("solver", "orders"), [(dpmpp, (0, 4)), (unipc, (0, 4)), (ipndm, (0, 5))])
def test_other_orders_are_refused(solver, orders):
    for order in orders:
        with pytest.raises(UsageError, match="order must lie in 1"):
            solver(SCHEDULE, np.array([0.0, 10.0]), order=order)
