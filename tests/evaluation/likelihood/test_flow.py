"""The probability flow's likelihood against closed forms."""

import math

import numpy as np
import pytest
import torch

from ddimx.evaluation.likelihood.bits import rademacher
from ddimx.evaluation.likelihood.flow import Angles, Hutchinson, flow_log_density
from ddimx.noise import Noise
from ddimx.solvers.schedule import Schedule
from tests.solvers.exact import ALPHA_BARS, SCHEDULE, Gaussian, alpha_bar

ANGLES = Angles(SCHEDULE)
LAW = Gaussian(
    np.array([0.3, -0.5, 0.1]),
    np.array([[0.25, 0.1, 0.0], [0.1, 0.09, -0.02], [0.0, -0.02, 0.01]]),
)
DATA = torch.from_numpy(np.random.default_rng(0).multivariate_normal(LAW.mean, LAW.cov, 6))


def exact_divergence(v, x):
    """The trace of dv/dx, float64 [B], by one backward pass per dimension."""
    flat = v.flatten(1)
    total = torch.zeros(len(x), dtype=torch.float64)
    for i in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)
        total += row.flatten(1)[:, i]
    return total


def velocity(x, theta):
    """v = alpha eps - sigma x0 of LAW's exact posterior means, differentiable."""
    ab = math.cos(theta) ** 2
    (to_x0, x0), (to_eps, eps) = (tuple(map(torch.from_numpy, pair)) for pair in LAW.affine(ab))
    return math.cos(theta) * (x @ to_eps.T + eps) - math.sin(theta) * (x @ to_x0.T + x0)


def exact(data):
    """The flow maps one normal to another: whiten at t = 0, color at T - 1, standard normal."""
    (mean, cov), (mean_T, cov_T) = LAW.marginal(ALPHA_BARS[1]), LAW.marginal(ALPHA_BARS[-1])
    signal = math.sqrt(ALPHA_BARS[1])
    # Covariances at all times share LAW's eigenvectors, along which the flow only stretches.
    values, vectors = np.linalg.eigh(cov)
    stretch = np.sqrt(np.diag(vectors.T @ cov_T @ vectors) / values)
    end = mean_T + ((signal * data.numpy() - mean) @ vectors * stretch) @ vectors.T
    normal = -0.5 * (end**2).sum(1) - 1.5 * math.log(2 * math.pi)
    return normal + np.log(stretch).sum() + 3 * math.log(signal)


def test_the_flow_has_the_closed_forms_likelihood():
    found = flow_log_density(velocity, exact_divergence, DATA, ANGLES, 400)
    # 400 steps leave 1e-9 (fourth order, see below); a prior other than N(0, 1) would be seen.
    np.testing.assert_allclose(found, exact(DATA), atol=1e-7, rtol=0)


def test_it_is_the_datas_density_where_the_noise_is_small():
    """Up to the noise of t = 0 and the mean left at T - 1, log p is the normal's own."""
    wide = Gaussian(np.zeros(3), np.eye(3))

    def still(x, theta):
        ab = math.cos(theta) ** 2
        x0, eps = wide.affine(ab)[0][0], wide.affine(ab)[1][0]
        return math.cos(theta) * x @ torch.from_numpy(eps).T - math.sin(theta) * (
            x @ torch.from_numpy(x0).T
        )

    found = flow_log_density(still, exact_divergence, DATA, ANGLES, 5)
    # Standard normal data are standard normal at every time: v is 0 and nothing is integrated.
    y = math.sqrt(ALPHA_BARS[1]) * DATA.numpy()
    own = -0.5 * (y**2).sum(1) - 1.5 * math.log(2 * math.pi) + 1.5 * math.log(ALPHA_BARS[1])
    np.testing.assert_allclose(found, own, rtol=1e-13)


def test_the_error_falls_with_the_fourth_power_of_the_step():
    errors = [
        np.abs(flow_log_density(velocity, exact_divergence, DATA, ANGLES, n) - exact(DATA)).max()
        for n in (20, 40, 80)
    ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 3.5).all()
    assert (orders < 4.6).all()


def test_hutchinsons_mean_is_the_trace():
    """Over all 2^3 sign vectors the estimate's mean is the trace itself."""
    x = DATA.clone().requires_grad_()
    v = velocity(x, 0.7)
    signs = torch.tensor([[1 - 2 * (i >> k & 1) for k in range(3)] for i in range(8)])
    estimate = Hutchinson([row.expand(len(x), 3) for row in signs])(v, x)
    expected = exact_divergence(velocity(x, 0.7), x)
    np.testing.assert_allclose(estimate.numpy(), expected.numpy(), rtol=1e-13)
    one = Hutchinson([signs[1].expand(len(x), 3)])(velocity(x, 0.7), x)
    assert (one - expected).abs().min() > 1e-3  # off the diagonal there is something to average


def test_probes_are_signs_that_belong_to_the_image():
    noise, images = Noise(3), torch.tensor([5, 900])
    probe = rademacher(noise, images, (4, 100), 0)
    assert set(probe.unique().tolist()) == {-1.0, 1.0}
    assert abs(probe.mean()) < 5 / 800**0.5
    torch.testing.assert_close(probe[1:], rademacher(noise, images[1:], (4, 100), 0))
    assert not torch.equal(probe, rademacher(noise, images, (4, 100), 1))


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0, 499.5, 998.999, 999.0])
def test_the_time_of_an_angle(t):
    theta = math.acos(math.sqrt(alpha_bar(t)))
    # alpha_bar changes by at least 1e-4 of itself per step, and acos costs digits near 1.
    assert ANGLES.time(theta) == pytest.approx(t, abs=1e-9)


def test_times_and_angles_of_a_schedule_without_signal_at_its_end():
    angles = Angles(Schedule(np.array([0.1, 0.5, 1.0])))
    assert angles.highest == math.pi / 2
    assert angles.time(angles.highest) == pytest.approx(2, abs=1e-12)
    assert angles.time(math.acos(math.sqrt(0.225))) == pytest.approx(1.5)  # linear there
    assert angles.time(angles.lowest) == pytest.approx(0, abs=1e-12)
