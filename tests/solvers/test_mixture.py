"""A mixture of two normals: DDIM against the probability flow, stochastic samplers by moments."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ddimx.noise import Noise, Stream
from ddimx.solvers.executor import Draw, execute
from ddimx.solvers.timesteps import spaced
from tests.solvers.exact import Mixture, Solver, alpha_bar, network, pairs

LAW = Mixture(np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.25, 0.15]))

# One interval for every number of steps; its fractions down to 960 / 512 are exact in float32,
# in which the executor hands times to the network.
FIRST, LAST = 968.0, 8.0
STARTS = np.linspace(-2.5, 2.5, 41)


def scaled_sigma(t):
    return np.sqrt((1 - alpha_bar(t)) / alpha_bar(t))


def probability_flow():
    """Carry STARTS from FIRST to LAST: d(x / sqrt(ab)) = eps ds with s = sqrt((1 - ab) / ab)."""

    def slope(s, x):
        ab = 1 / (1 + s**2)
        return LAW.posterior(np.sqrt(ab) * x, ab)[1]

    span = scaled_sigma(FIRST), scaled_sigma(LAST)
    start = STARTS / np.sqrt(alpha_bar(FIRST))
    flow = solve_ivp(slope, span, start, method="DOP853", rtol=1e-12, atol=1e-12)
    assert flow.success
    return np.sqrt(alpha_bar(LAST)) * flow.y[:, -1]


def ddim_flow(steps):
    times = np.linspace(LAST, FIRST, steps + 1)
    plan = Solver("ddim", 0.0).plan(times)
    draw = Draw(Noise(0), torch.arange(len(STARTS)))
    run = execute(plan, network(LAW, times, "epsilon"), torch.from_numpy(STARTS)[:, None], draw)
    (end,) = [step.x for step in run if step.t_to == LAST]
    return end[:, 0].numpy()


def test_ddim_converges_to_the_probability_flow_at_first_order():
    exact = probability_flow()
    steps = np.array([32, 64, 128, 256, 512])
    ends = [ddim_flow(n) for n in steps]
    error = np.array([np.sqrt(np.mean((end - exact) ** 2)) for end in ends])
    slope, _ = np.polyfit(np.log(steps), np.log(error), 1)
    assert -1.1 < slope < -0.9
    local = np.diff(np.log(error)) / np.log(2)
    assert (np.abs(local + 1) < 0.1).all()
    assert error[-1] < 3e-3
    # Richardson: the first-order term is all that keeps the two finest runs from the exact flow.
    better = 2 * ends[-1] - ends[-2]
    assert np.sqrt(np.mean((better - exact) ** 2)) < error[-1] / 20


def moments_of_the_sampler(solver, times):
    """Return E x^k, k = 1..8, of a run's result, by quadrature over its Markov chain.

    The density of the state is carried from row to row on a grid. The trapezoid rule on a normal
    of width c has an error of exp(-2 (pi c / h)^2). Here c is a row's noise over the slope of its
    mean, which stays below 4: with h a third of the least noise, the error is below 1e-4.
    """
    steps = [solver.step(alpha_bar(t), alpha_bar(t_to)) for t, t_to in pairs(times)]
    h = min(on_z for *_, on_z in steps[:-1]) / 3
    x = np.arange(-6, 6, h)
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    for (t, _), (on_x, on_x0, on_eps, on_z) in zip(pairs(times), steps, strict=True):
        x0, eps = LAW.posterior(x, alpha_bar(t))
        mean = on_x * x + on_x0 * x0 + on_eps * eps
        if on_z:
            kernel = np.exp(-0.5 * ((x[:, None] - mean) / on_z) ** 2)
            density = kernel @ density * h / (on_z * np.sqrt(2 * np.pi))
    assert density.sum() * h == pytest.approx(1, abs=1e-7)
    return np.array([(mean**k * density).sum() * h for k in range(1, 9)])


def sample(solver, times, count, width):
    """Return count * width numbers of the sampler: every element of a state is its own sample."""
    noise, index = Noise(2024), torch.arange(count)
    start = noise.normal(index, (width,), stream=Stream.INIT, dtype=torch.float64)
    run = execute(solver.plan(times), network(LAW, times, "epsilon"), start, Draw(noise, index))
    return [step.y for step in run][-1].numpy().ravel()


@pytest.mark.parametrize("solver", [Solver("ddim", 1.0), Solver("ddpm", "large")], ids=str)
def test_sampled_moments(solver):
    """Sampling error is judged alone, for the bias of finitely many steps is computed."""
    few, many = spaced("trailing", 1000, 10), spaced("trailing", 1000, 50)
    law, data = moments_of_the_sampler(solver, many), LAW.moments()
    x = sample(solver, many, 150, 40)
    sampled = np.array([np.mean(x**k) for k in range(1, 5)])
    standard_error = np.sqrt((law[1::2] - law[:4] ** 2) / len(x))
    bias = np.abs(law[:4] - data)
    assert (np.abs(sampled - law[:4]) < 5 * standard_error).all()
    assert (np.abs(sampled - data) < 5 * standard_error + bias).all()
    assert (bias < np.abs(moments_of_the_sampler(solver, few)[:4] - data) / 2).all()
