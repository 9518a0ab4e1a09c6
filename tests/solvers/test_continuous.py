"""Rectified flow and EDM: their papers' formulas, own Euler steps, and every solver's order.

The exact networks are those of normal data, whose posterior means and flow have closed forms.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from ddimx.models.denoiser import Denoiser
from ddimx.noise import Noise
from ddimx.solvers.continuous import EdmSchedule, FlowSchedule
from ddimx.solvers.executor import Draw, execute
from ddimx.solvers.registry import SolverChoice, make_plan
from ddimx.solvers.timesteps import spaced

MEAN, STD = 0.3, 0.4
START = torch.linspace(-2.5, 2.5, 7, dtype=torch.float64)[:, None]
FLOW, EDM = FlowSchedule.of(1024), EdmSchedule.of(1024)
SCHEDULES = {"flow": FLOW, "edm": EDM}


class Exact(nn.Module):
    """The network of normal data in the terms of its own paper: z and its own time."""

    def __init__(self, prediction, toward_data=False, sigma_data=0.5, time_scale=None):
        super().__init__()
        self.dtype = nn.Parameter(torch.zeros((), dtype=torch.float64))  # what it computes in
        self.prediction, self.toward_data, self.sigma_data = prediction, toward_data, sigma_data
        self.time_scale = time_scale or {"flow": 1000.0, "edm": 1.0}[prediction]
        self.asked = []

    def forward(self, z, t, labels=None):
        time = float(t[0]) / self.time_scale
        self.asked.append(time)
        if self.prediction == "flow":
            tau = 1 - time if self.toward_data else time
            x0, eps = self.posterior(z, 1 - tau, tau)
            return x0 - eps if self.toward_data else eps - x0
        sigma, data = np.exp(4 * time), self.sigma_data
        noisy = z * np.sqrt(sigma**2 + data**2)  # undo c_in
        x0, _ = self.posterior(noisy, 1.0, sigma)
        c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / np.hypot(sigma, data)
        return (x0 - c_skip * noisy) / c_out

    def posterior(self, z, signal, sigma):
        """Return E[x0 | z] and E[eps | z] for z = signal x0 + sigma eps."""
        pull = (z - signal * MEAN) / ((signal * STD) ** 2 + sigma**2)
        return MEAN + signal * STD**2 * pull, sigma * pull


def run(network, schedule, plan):
    draw = Draw(Noise(0), torch.arange(len(START)))
    return list(execute(plan, Denoiser(network, schedule=schedule), START, draw))


def result(network, schedule, times, solver="ddim"):
    plan = make_plan(SolverChoice(solver), schedule, times, network.prediction)
    return run(network, schedule, plan)[-1].y


# --- the processes --------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flows_levels(shift):
    schedule = FlowSchedule.of(10, shift)
    u = np.arange(11) / 10
    tau = shift * u / (1 + (shift - 1) * u)
    np.testing.assert_allclose(
        schedule.alpha_bars, (1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2), rtol=1e-14
    )
    np.testing.assert_allclose(np.cumprod(1 - schedule.betas), schedule.alpha_bars[1:], atol=1e-14)
    t = torch.arange(10.0)
    np.testing.assert_allclose(schedule.network_time(t), 1000 * tau[1:], rtol=1e-6)
    np.testing.assert_allclose(schedule.input_scale(t), np.hypot(1 - tau, tau)[1:], rtol=1e-6)


def test_edms_levels_are_equation_5():
    sigma = EdmSchedule.of(18).sigma(np.arange(18.0))
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    i = np.arange(18)
    np.testing.assert_allclose(sigma[::-1], (high + i / 17 * (low - high)) ** 7, rtol=1e-12)
    np.testing.assert_allclose(EDM.alpha_bar(0.0), 1 / (1 + 0.002**2), rtol=1e-15)
    assert EDM.alpha_bars[0] == 1


@pytest.mark.parametrize("schedule", [FLOW, FlowSchedule.of(50, 3.0), EDM], ids=str)
def test_the_time_of_a_level(schedule):
    last = schedule.num_timesteps - 1
    for t in (0.0, 0.3, 1.0, last / 3, last - 0.001, last):
        assert schedule.time_of(float(schedule.alpha_bar(t))) == pytest.approx(t, abs=1e-6)
    with pytest.raises(ValueError, match="must lie in"):
        schedule.alpha_bar(last + 0.5)


# --- their own Euler steps ------------------------------------------------------------------------


@pytest.mark.parametrize("toward_data", [False, True])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_on_a_flow_is_euler(shift, toward_data):
    """x0 = z - t v and eps = z + (1 - t) v, so that (1 - t') x0 + t' eps = z + (t' - t) v."""
    steps, scale = 8, 256.0
    schedule = FlowSchedule.of(1024, shift, toward_data=toward_data, time_scale=scale)
    network = Exact("flow", toward_data, time_scale=scale)
    u = np.linspace(1, 0, steps + 1)
    tau = shift * u / (1 + (shift - 1) * u)
    z, sign = START, -1 if toward_data else 1
    for t, t_to in pairwise(tau):
        time = torch.tensor([scale * (1 - t if toward_data else t)])
        z = z + sign * (t_to - t) * network(z, time)
    found = result(network, schedule, spaced("trailing", 1024, steps))
    # Times and the scale of the input are float32; at shift 1 they are binary fractions.
    torch.testing.assert_close(found, z, rtol=1e-6, atol=1e-6)


def test_a_shifted_flow_is_diffusers():
    scheduling = pytest.importorskip("diffusers")
    scheduler = scheduling.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 20, 20))
    network, z = Exact("flow"), START.float()
    for t in scheduler.timesteps:
        z = scheduler.step(network(z.double(), t[None]).float(), t, z).prev_sample
    found = result(Exact("flow"), FlowSchedule.of(1000, 3.0), spaced("trailing", 1000, 20))
    torch.testing.assert_close(found, z.double(), rtol=2e-5, atol=2e-5)  # float32 there


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_ddim_on_edm_is_algorithm_1_without_its_correction(sigma_data):
    schedule = EdmSchedule.of(18, sigma_data=sigma_data)
    network = Exact("edm", sigma_data=sigma_data)
    sigma = np.append(schedule.sigma(np.arange(17.0, -1, -1)), 0.0)
    z = START * np.hypot(1, sigma[0])  # the state of unit variance, as EDM has it
    for now, then in pairwise(sigma):
        x0, _ = network.posterior(z, 1.0, now)
        z = z + (then - now) * (z - x0) / now
    found = result(network, schedule, spaced("linspace", 18, 18))
    # c_noise in float32: 1e-7 of a time of 1.5, four times that in sigma.
    torch.testing.assert_close(found, z, rtol=1e-5, atol=1e-5)


def test_edms_network_is_asked_at_its_c_noise():
    network = Exact("edm", time_scale=2.0)
    schedule = EdmSchedule.of(5, time_scale=2.0)
    result(network, schedule, np.arange(5.0))
    np.testing.assert_allclose(
        network.asked, np.log(schedule.sigma(np.arange(4.0, -1, -1))) / 4, rtol=1e-6
    )


# --- convergence ----------------------------------------------------------------------------------

FIRST, LAST = -3.0, 2.0  # in half the log of the signal-to-noise ratio


def marginal(alpha_bar):
    return np.sqrt(alpha_bar) * MEAN, np.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)


def error(prediction, solver, steps):
    """Return the error at LAST of a run from FIRST over equal steps of lambda, float64."""
    schedule = SCHEDULES[prediction]
    lam = np.linspace(FIRST, LAST, steps + 1)
    if solver.endswith(":3") or solver == "unipc:2":  # a start of first order errs by its square
        lam = np.insert(lam, 1, FIRST + ((LAST - FIRST) / steps) ** 1.5 / 2)
    times = [schedule.time_of(1 / (1 + np.exp(-2 * value))) for value in lam]
    # All times in float32, as the executor hands them over: no error of their own then.
    times = np.float32([*times, *(times[-1] * np.array([0.9, 0.8, 0.7]))]).astype(np.float64)
    plan = make_plan(SolverChoice(solver), schedule, times[::-1], prediction)
    (end,) = [step.x for step in run(Exact(prediction), schedule, plan) if step.t_to == times[-4]]
    (mean, std), (mean_to, std_to) = (
        marginal(float(schedule.alpha_bar(t))) for t in (times[0], times[-4])
    )
    exact = mean_to + std_to * (START - mean) / std
    return float((end - exact).square().mean().sqrt())


@pytest.mark.parametrize("prediction", ["flow", "edm"])
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        ("ddim", 1),
        ("pfdiff:2,1", 1),
        ("pfdiff:1,1", 2),
        ("dpm++:1", 1),
        ("dpm++:2", 2),
        ("dpm++:3", 3),
        ("unipc:1", 2),
        ("unipc:2", 3),
        ("ipndm:2", 2),
    ],
)
def test_every_solver_keeps_its_order(prediction, solver, order):
    counts = (61, 121)  # which suit the hops of PFDiff
    errors = [error(prediction, solver, count) for count in counts]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    assert errors[1] < 0.02
