"""The multistep solvers beside diffusers' own, on one network, where the definitions coincide.

diffusers computes noise levels in float32, which leaves a few 1e-7, more or less with the machine's
exponentials. With our levels in float64 in their place, and DPM-Solver's state kept from being made
float32, the results agree to rounding.
"""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, IPNDMScheduler, UniPCMultistepScheduler

from ddimx.noise import Noise
from ddimx.solvers.dpmpp import dpmpp
from ddimx.solvers.executor import Draw, Raw, execute
from ddimx.solvers.ipndm import ipndm
from ddimx.solvers.unipc import unipc
from tests.solvers.exact import BETAS, SCHEDULE

START = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


def toy(y, t):
    """A smooth function of state and time that is nobody's exact score."""
    return torch.tanh(1.3 * y + 0.2) * (0.5 + t.to(y.dtype).reshape(-1, 1) / 1500)


def ours(plan):
    draw = Draw(Noise(0), torch.arange(len(START)))
    run = execute(plan, lambda y, t: Raw(toy(y, t), None), START, draw)
    return [step.y for step in run][-1]


class Kept(torch.Tensor):
    """A tensor that stays in float64, though DPM-Solver asks for float32 between its steps."""

    def to(self, *_args, **_kwargs):
        return self


def theirs(scheduler):
    """Run a scheduler's loop as its pipelines do; every state is kept in float64."""
    x = START.as_subclass(Kept)
    for t in scheduler.timesteps:
        out = toy(x, torch.full((len(x),), float(t), dtype=torch.float32))
        x = scheduler.step(out, t, x, return_dict=False)[0]
    assert x.dtype == torch.float64
    return x.as_subclass(torch.Tensor)


def with_exact_levels(scheduler, times):
    """Put float64's sigma / alpha at the times in place of float32's, which must be the same.

    alpha_bar at t is a product of t + 1 factors; float32 rounds it as often, and the factors too.
    Half of its relative error, over 1 - ab, is that of sqrt((1 - ab) / ab). The level of the time
    beside it differs by over 100 times as much.
    """
    times = times[::-1]
    ab = np.array([SCHEDULE.alpha_bar(t) for t in times])
    levels = np.append(np.sqrt((1 - ab) / ab), 0.0)
    error = np.append((times + 2) * 2.0**-24 / (1 - ab), 0.0)
    assert (np.abs(scheduler.sigmas.numpy() - levels) <= error * levels).all()
    scheduler.sigmas = torch.from_numpy(levels)


def compare(make, solver, order, steps, prediction, **options):
    scheduler = make(
        trained_betas=BETAS,
        solver_order=order,
        prediction_type=PREDICTIONS[prediction],
        **options,
    )
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.double().numpy()[::-1]
    with_exact_levels(scheduler, times)
    expected = ours(solver(SCHEDULE, times, order=order, prediction=prediction))
    # Divided differences over h divide rounding by h^2, here at least (10 / 40)^2.
    assert (theirs(scheduler) - expected).abs().max() < 1e-12 * expected.abs().max()


CASES = [
    (order, steps, prediction)
    for order in (1, 2, 3)
    for steps in (1, 2, 3, 10, 14, 15, 40)
    for prediction in ("epsilon", "v")
]


@pytest.mark.parametrize(("order", "steps", "prediction"), [*CASES, (2, 10, "x0"), (3, 20, "x0")])
def test_dpm_solver(order, steps, prediction):
    """Their third order halves a second derivative (tests/solvers/test_order.py); so do we here."""
    solver = partial(dpmpp, third="published")
    compare(DPMSolverMultistepScheduler, solver, order, steps, prediction)


@pytest.mark.parametrize(("order", "steps", "prediction"), [*CASES, (2, 10, "x0"), (3, 20, "x0")])
def test_unipc(order, steps, prediction):
    options = {"final_sigmas_type": "zero", "solver_type": "bh2", "predict_x0": True}
    compare(UniPCMultistepScheduler, unipc, order, steps, prediction, **options)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 12, 50])
def test_ipndm(steps):
    """It knows v-prediction only, and takes sigma itself as "betas": here those of our times."""
    times = np.arange(steps) * (500 // steps) + 1.0
    sigma = np.sqrt(1 - np.array([SCHEDULE.alpha_bar(t) for t in times[::-1]]))
    scheduler = IPNDMScheduler(trained_betas=[*sigma, 0.0])
    scheduler.set_timesteps(steps)
    levels = torch.from_numpy(np.append(sigma, 0.0))
    assert torch.equal(scheduler.betas, levels.float())
    scheduler.betas, scheduler.alphas = levels, (1 - levels**2).sqrt()
    at = dict(zip(scheduler.timesteps.tolist(), times[::-1], strict=True))
    x = START
    for t in scheduler.timesteps:
        out = toy(x, torch.full((len(x),), at[t.item()], dtype=torch.float32))
        x = scheduler.step(out, t, x, return_dict=False)[0]
    expected = ours(ipndm(SCHEDULE, times, order=4, prediction="v"))
    # alpha = sqrt(1 - sigma^2) loses digits near sigma = 1: from t = 500 on, sigma^2 is below 0.93.
    assert (x - expected).abs().max() < 1e-13 * expected.abs().max()
