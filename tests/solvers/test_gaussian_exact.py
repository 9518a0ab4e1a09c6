"""Gaussian data, where every sampler is an affine map: its law is compared with the exact one."""

import numpy as np
import pytest
import torch

from ddimx.noise import Noise
from ddimx.solvers.executor import Draw, execute
from ddimx.solvers.timesteps import SPACINGS, spaced
from tests.solvers.exact import SOLVERS, Gaussian, alpha_bar, network, pairs

PREDICTIONS = ("epsilon", "x0", "v")
STEPS = 7  # does not divide 1000, so that "ddim" takes 8
D = 3


def gaussian():
    """Return data of correlated numbers, with standard deviations from 0.3 to 1 on its axes."""
    rng = np.random.default_rng(5)
    axes, _ = np.linalg.qr(rng.normal(size=(D, D)))
    return Gaussian(rng.uniform(-1, 1, D), axes @ np.diag(np.linspace(0.3, 1, D) ** 2) @ axes.T)


LAW = gaussian()


def run_laws(plan, evaluate, mean, cov):
    """Yield the mean and covariance after each row, from N(mean, cov).

    Rows of the batch: the state 0, the d unit states, and state 0 with one unit of noise in one
    element of one row. Differences to the first are the columns of the affine map.
    """
    d = len(mean)
    batch = 1 + d + len(plan) * d
    start = np.zeros((batch, d))
    start[1 : 1 + d] = np.eye(d)

    def z(row):
        noise = torch.zeros(batch, d, dtype=torch.float64)
        noise[1 + d + row * d :][:d] = torch.eye(d, dtype=torch.float64)
        return noise

    draw = Draw(Noise(0), torch.arange(batch), z)
    for step in execute(plan, evaluate, torch.from_numpy(start), draw):
        columns = step.x.numpy() - step.x.numpy()[0]
        linear, noise = columns[1 : 1 + d].T, columns[1 + d :].T
        yield step.x.numpy()[0] + linear @ mean, linear @ cov @ linear.T + noise @ noise.T


def recursion(solver, law, times, mean, cov):
    """Yield the same from the update formulas, the posterior means being affine."""
    for t_from, t_to in pairs(times):
        ab, ab_to = alpha_bar(t_from), alpha_bar(t_to)
        on_x, on_x0, on_eps, on_z = solver.step(ab, ab_to)
        (to_x0, x0), (to_eps, eps) = law.affine(ab)
        linear = on_x * np.eye(len(mean)) + on_x0 * to_x0 + on_eps * to_eps
        mean = linear @ mean + on_x0 * x0 + on_eps * eps
        cov = linear @ cov @ linear.T + on_z**2 * np.eye(len(mean))
        yield mean, cov


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", sorted(SPACINGS))
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_the_law_after_every_row(solver, spacing, prediction):
    times = spaced(spacing, 1000, STEPS)
    plan = solver.plan(times, prediction)
    start = np.zeros(D), np.eye(D)
    ours = list(run_laws(plan, network(LAW, times, prediction), *start))
    exact = list(recursion(solver, LAW, times, *start))
    assert len(ours) == len(exact) == len(times)
    for (mean, cov), (exact_mean, exact_cov) in zip(ours, exact, strict=True):
        np.testing.assert_allclose(mean, exact_mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(cov, exact_cov, rtol=0, atol=1e-12)


def errors(solver, spacing, steps):
    """Return how far mean and covariance are from the data's marginal: half way, worst, last."""
    times = spaced(spacing, 1000, steps)
    plan = solver.plan(times)
    laws = run_laws(plan, network(LAW, times, "epsilon"), *LAW.marginal(alpha_bar(times[-1])))
    found = []
    for (mean, cov), t_to in zip(laws, plan.t_to, strict=True):
        exact_mean, exact_cov = LAW.marginal(alpha_bar(t_to))
        found.append(max(np.abs(mean - exact_mean).max(), np.abs(cov - exact_cov).max()))
    found = np.array(found)
    return np.array([found[plan.t_to >= 300].max(), found.max(), found[-1]])


@pytest.mark.parametrize("spacing", sorted(SPACINGS))
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_the_law_approaches_the_datas(solver, spacing):
    """At first order in the number of steps: four times as many leave a quarter of the error."""
    coarse, medium, fine = (errors(solver, spacing, steps) for steps in (8, 32, 128))
    assert coarse.max() > 0.1  # so that there is something to approach
    assert (medium < coarse).all()
    assert (medium / fine > 2.5).all()
    assert (medium / fine < 5.2).all()
    assert fine.max() < 0.05
