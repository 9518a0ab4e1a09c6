"""DDIM inversion: its rows, its order, and that decoding undoes it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ddimx.errors import UsageError
from ddimx.noise import Noise
from ddimx.solvers.executor import Draw, execute
from ddimx.solvers.inversion import ddim_inversion
from ddimx.solvers.timesteps import spaced
from tests.solvers.exact import ALPHA_BARS, SCHEDULE, Mixture, Solver, mix_output, network

MIXTURE = Mixture(np.array([0.3, 0.7]), np.array([-0.7, 0.5]), np.array([0.2, 0.3]))
DATA = torch.linspace(-1, 1, 21, dtype=torch.float64)[None]
DRAW = Draw(Noise(0), torch.arange(1))


def run(plan, x, times, prediction="epsilon"):
    evaluate = network(MIXTURE, np.append(times, 0.0), prediction)
    *_, last = execute(plan, evaluate, x, DRAW)
    return last.y


def round_trip(steps, refine, prediction="epsilon"):
    """The largest error of decode(encode(x))."""
    times = spaced("trailing", 1000, steps)
    up = ddim_inversion(SCHEDULE, times, prediction=prediction, refine=refine)
    latent = run(up, DATA, times, prediction)
    back = run(Solver("ddim", 0.0).plan(times, prediction), latent, times, prediction)
    return float((back - DATA).abs().max())


def test_the_rows_lead_upwards_and_the_networks_time_is_its_own():
    plan = ddim_inversion(SCHEDULE, np.array([99.0, 499.0]), refine=1)
    assert plan.t.tolist() == [0.0, 99.0, 99.0, 499.0]
    assert plan.t_from.tolist() == [-1.0, -1.0, 99.0, 99.0]
    assert plan.t_to.tolist() == [-1.0, 99.0, 99.0, 499.0]
    assert plan.nfe == 4
    explicit = ddim_inversion(SCHEDULE, np.array([99.0, 499.0]), refine=0)
    assert explicit.t.tolist() == [0.0, 99.0]
    assert explicit.t_to.tolist() == [99.0, 499.0]
    assert not explicit.noisy


def test_an_explicit_step_is_ddims_formula_upwards():
    """x' = sqrt(ab') (x - sqrt(1 - ab) eps) / sqrt(ab) + sqrt(1 - ab') eps, from t = 99 to 499."""
    plan = ddim_inversion(SCHEDULE, np.array([99.0, 499.0]), refine=0)
    ab, above = ALPHA_BARS[100], ALPHA_BARS[500]
    x, eps = 0.7, -0.3
    expected = np.sqrt(above) * (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab) + np.sqrt(1 - above) * eps
    assert plan.a[1] * x + plan.b[1, 0] * eps == pytest.approx(expected, rel=1e-12)


def test_a_corrected_step_solves_the_samplers_step():
    """After many corrections the sampler's own step leads back to where the step began."""
    times = np.array([29.0])
    up = run(ddim_inversion(SCHEDULE, times, refine=60), DATA, times)
    down = run(Solver("ddim", 0.0).plan(times), up, times)
    assert (down - DATA).abs().max() < 1e-12  # the iteration has converged to rounding


@pytest.mark.parametrize("refine", [0, 1, 2])
def test_more_steps_make_a_smaller_error(refine):
    errors = [round_trip(steps, refine) for steps in (25, 50, 100, 200)]
    # Explicit steps are of first order: twice the steps, half the error. Every correction takes
    # the error of a step to a higher order.
    assert all(after < 0.65 * before for before, after in itertools.pairwise(errors))


def test_every_correction_makes_a_smaller_error():
    errors = [round_trip(50, refine) for refine in (0, 1, 2, 4)]
    assert all(after < 0.25 * before for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_parametrisation_does_not_matter(prediction):
    # The same exact model says the same in each of its forms; rounding grows over 50 steps.
    assert round_trip(50, 2, prediction) == pytest.approx(round_trip(50, 2), rel=1e-6)


def test_coefficients_belong_to_the_time_of_evaluation():
    for prediction in ("epsilon", "x0", "v"):
        plan = ddim_inversion(SCHEDULE, np.array([99.0, 499.0]), prediction=prediction, refine=2)
        for row, t in enumerate(plan.t):
            ab = ALPHA_BARS[int(t) + 1]
            x0, eps = 0.4, -1.3
            y, out = np.sqrt(ab) * x0 + np.sqrt(1 - ab) * eps, mix_output(ab, x0, eps, prediction)
            assert plan.r[row] * y + plan.s[row] * out == pytest.approx(x0, abs=1e-9)
            assert plan.u[row] * y + plan.v[row] * out == pytest.approx(eps, abs=1e-9)


def test_a_negative_number_of_corrections_is_refused():
    with pytest.raises(UsageError, match="refine must be at least 0, got -1"):
        ddim_inversion(SCHEDULE, np.array([5.0]), refine=-1)
