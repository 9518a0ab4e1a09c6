"""SDE-DPM-Solver++ and SA-Solver: their law on Gaussian data, their limits, and diffusers' own."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, SASolverScheduler

from ddimx.noise import Noise
from ddimx.solvers.ddim import ddim
from ddimx.solvers.dpmpp import dpmpp, sde_dpmpp
from ddimx.solvers.executor import Draw, Raw, execute
from ddimx.solvers.registry import SolverChoice, make_plan
from ddimx.solvers.sa import adams, sa
from ddimx.solvers.schedule import Schedule
from ddimx.solvers.unipc import unipc
from tests.solvers.exact import BETAS, SCHEDULE, alpha_bar, network
from tests.solvers.test_diffusers import PREDICTIONS, START, Kept, toy, with_exact_levels
from tests.solvers.test_gaussian_exact import LAW, run_laws
from tests.solvers.test_mixture import FIRST, LAST
from tests.solvers.test_order import levels, time_of

TIMES = np.linspace(10, 990, 20)


def columns(plan):
    return [getattr(plan, name) for name in ("a", "w", "c", "b")]


def error(make, steps):
    """Return how far the covariance at LAST is from the data's, from the exact law at FIRST."""
    times = time_of(levels(steps, 2))
    times[0], times[-1] = FIRST, LAST
    times = np.append(times, [6.0, 4.0, 2.0])[::-1]  # what the last rows' lower orders fall on
    plan = make(times)
    laws = run_laws(plan, network(LAW, times, "epsilon"), *LAW.marginal(alpha_bar(FIRST)))
    mean, cov = LAW.marginal(alpha_bar(LAST))
    (found,) = [law for law, t_to in zip(laws, plan.t_to, strict=True) if t_to == LAST]
    np.testing.assert_allclose(found[0], mean, rtol=0, atol=1e-13)
    return np.abs(found[1] - cov).max()


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda t: ddim(SCHEDULE, t, eta=1.0), 1),
        (lambda t: sde_dpmpp(SCHEDULE, t, order=1), 1),
        (lambda t: sde_dpmpp(SCHEDULE, t, order=2), 2),
        (lambda t: sde_dpmpp(SCHEDULE, t, order=2, eta=0.5), 2),
        (lambda t: sa(SCHEDULE, t, order=1, corrector=0), 1),
        (lambda t: sa(SCHEDULE, t, order=1), 2),  # the corrector adds an order
        (lambda t: sa(SCHEDULE, t, order=2, corrector=0), 2),
        (lambda t: sa(SCHEDULE, t, order=2, corrector=0, eta=0.5), 2),
        (lambda t: sa(SCHEDULE, t, order=2), 3),  # so here, at eta 1
        (lambda t: sa(SCHEDULE, t, order=3), 2),
        (lambda t: sa(SCHEDULE, t, order=2, corrector=3, eta=0.0), 3),
    ],
)
def test_the_laws_order(make, order):
    """The mean is exact in every step, for posterior means average to the mean.

    A step errs by its noise between the ends, whose variance is h^3, and by its polynomial; what a
    prediction lacks of its own step's noise, the next step's extrapolation makes up for.
    """
    steps = np.array([31, 61, 121])
    found = -np.diff(np.log([error(make, n) for n in steps])) / np.diff(np.log(steps))
    assert abs(2 * found[1] - found[0] - order) < 0.13, found


def test_without_noise_they_are_the_deterministic_ones():
    for order in (1, 2):
        ode = make_plan(SolverChoice(f"sde-dpm++:{order}", eta=0.0), SCHEDULE, TIMES, "v")
        for ours, theirs in zip(
            columns(ode), columns(dpmpp(SCHEDULE, TIMES, order=order)), strict=True
        ):
            assert np.array_equal(ours, theirs)
    plan = sa(SCHEDULE, TIMES, order=1, corrector=0, eta=0.0)
    for ours, theirs in zip(columns(plan), columns(dpmpp(SCHEDULE, TIMES, order=1)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_the_third_order_without_noise_is_unipcs():
    """UniPC keeps the corrected state, and a row of SA-Solver the predictor's result.

    y_i = p x_{i-1} + q m is UniPC's point and SA-Solver's state. Once the orders have risen both
    take the polynomial through the same nodes, which B(h) does not change.
    """
    ours = sa(SCHEDULE, TIMES, order=3, corrector=4, eta=0.0)
    theirs = unipc(SCHEDULE, TIMES, order=3)
    for i in range(4, len(TIMES) - 4):
        weights = theirs.q[i] + theirs.p[i] * theirs.b[i]
        weights[1:] -= theirs.p[i] * theirs.q[i - 1][:-1]
        assert ours.a[i] == pytest.approx(theirs.p[i], rel=1e-13)
        np.testing.assert_allclose(ours.b[i], weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [sde_dpmpp, lambda *a, **k: sa(*a, corrector=0, **k)])
def test_the_first_order_is_ddim_with_eta_one(make):
    """A step of DDIM is w x0 + b eps + c z with eps = (x - alpha x0) / sigma."""
    due, plan = ddim(SCHEDULE, TIMES, eta=1.0), make(SCHEDULE, TIMES, order=1)
    ab = np.array([alpha_bar(t) for t in TIMES[::-1]])
    on_x = due.b[:, 0] / np.sqrt(1 - ab)
    np.testing.assert_allclose(plan.c, due.c, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(plan.a, on_x, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(plan.b[:, 0], due.w - on_x * np.sqrt(ab), rtol=1e-11)


@pytest.mark.parametrize("kappa", [1.0, 1.25, 2.0])
@pytest.mark.parametrize("h", [1e-6, 1e-2, 0.49, 0.51, 0.99, 1.01, 7.0])
def test_adams_weights_integrate_polynomials(kappa, h):
    """By Gauss and Legendre's rule of 60 nodes, exact to rounding for these smooth functions."""
    nodes = 2.0 - h * np.array([0.0, 1.0, 1.7, 3.1])
    points, rule = np.polynomial.legendre.leggauss(60)
    u = h * (1 + points) / 2  # from the end
    for count in (1, 2, 3, 4):
        weights = adams(2.0 - h, 2.0, nodes[:count], kappa)
        for degree in range(count):
            value = ((2.0 - u - 2.0) / h) ** degree
            exact = h / 2 * rule @ (kappa * np.exp(-kappa * u) * value)
            due = weights @ ((nodes[:count] - 2.0) / h) ** degree
            # A system of powers up to 3.1^3, whose condition is below 1e4.
            assert due == pytest.approx(exact, rel=1e-11)


def test_a_start_without_signal():
    """alpha_bar = 0: an infinite interval. The first time is no node, x' is its x0 and noise."""
    zero = Schedule(np.append(BETAS[:-1], 1.0))
    times = np.array([50.0, 400.0, 700.0, 999.0])
    for make in (sde_dpmpp, sa):
        noisy, still = make(zero, times, prediction="v"), make(zero, times, prediction="v", eta=0.0)
        for plan in (noisy, still):
            assert np.isfinite(plan.table()).all()
            assert plan.b[0, 0] == pytest.approx(np.sqrt(zero.alpha_bar(700.0)))
            assert not plan.b[0, 1:].any()
        sigma = np.sqrt(1 - zero.alpha_bar(700.0))
        assert (noisy.a[0], noisy.c[0]) == (0, pytest.approx(sigma))
        assert (still.a[0], still.c[0]) == (pytest.approx(sigma), 0)
        assert (noisy.a[-1], *noisy.b[-1, :2], noisy.c[-1]) == (0, 1, 0, 0)


def states(plan, noise):
    draw = Draw(Noise(0), torch.arange(len(START)), lambda row: noise[row])
    return [step.y for step in execute(plan, lambda y, t: Raw(toy(y, t), None), START, draw)]


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("order", "steps"), [(1, 5), (2, 3), (2, 10), (2, 20)])
def test_sde_dpm_solver_is_diffusers(order, steps, prediction):
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=BETAS,
        solver_order=order,
        algorithm_type="sde-dpmsolver++",
        prediction_type=PREDICTIONS[prediction],
    )
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.double().numpy()[::-1]
    with_exact_levels(scheduler, times)
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(steps, *START.shape, generator=generator, dtype=torch.float64)
    x = START.as_subclass(Kept)
    for t, z in zip(scheduler.timesteps, noise, strict=True):
        out = toy(x, torch.full((len(x),), float(t), dtype=torch.float32))
        x = scheduler.step(out, t, x, variance_noise=z.as_subclass(Kept), return_dict=False)[0]
    plan = sde_dpmpp(SCHEDULE, times, order=order, prediction=prediction)
    expected = states(plan, noise)[-1]
    assert (x - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_sa_solver_is_diffusers(eta, monkeypatch):
    """Order 1 with its corrector as a run, whose weights they do not change; see the module.

    Of the higher orders the weights themselves. They integrate exp(kappa lambda) over lambda.
    """
    scheduler = SASolverScheduler(
        trained_betas=BETAS, predictor_order=1, corrector_order=1, tau_func=lambda _: eta
    )
    scheduler.set_timesteps(12)
    times = scheduler.timesteps.double().numpy()[::-1]
    ab = np.array([alpha_bar(t) for t in times[::-1]])
    assert np.abs(scheduler.sigmas[:-1].numpy() / np.sqrt((1 - ab) / ab) - 1).max() < 1e-5
    scheduler.sigmas = torch.from_numpy(np.append(np.sqrt((1 - ab) / ab), 0.01))
    noise = torch.randn(12, *START.shape, generator=torch.Generator().manual_seed(4)).double()
    draws = iter(noise)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_sasolver.randn_tensor", lambda *_, **__: next(draws)
    )
    x = START
    for t in scheduler.timesteps[:-1]:  # the last one does not go to clean data
        out = toy(x, torch.full((len(x),), float(t), dtype=torch.float32))
        x = scheduler.step(out, t, x, return_dict=False)[0]
    expected = states(sa(SCHEDULE, times, order=1, corrector=1, eta=eta), noise)[-2]
    assert (x - expected).abs().max() < 1e-12 * expected.abs().max()

    lam = torch.tensor([0.3, -0.2, -1.0, -1.3], dtype=torch.float64)
    start, end, kappa = lam[0], torch.tensor(0.9, dtype=torch.float64), 1 + eta**2
    for order in (1, 2, 3, 4):
        tau = torch.tensor(eta, dtype=torch.float64)
        theirs = scheduler.get_coefficients_fn(order, start, end, [*lam[:order]], tau)
        due = np.array([float(c) for c in theirs]) * kappa * np.exp(-kappa * float(end))
        ours = adams(float(start), float(end), lam[:order].numpy(), kappa)
        np.testing.assert_allclose(ours, due, rtol=0, atol=1e-12)
