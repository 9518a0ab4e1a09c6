"""The variational bound, where data are normal and the network is exact."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erfc
from scipy.stats import norm

from ddimx.config import DataConfig
from ddimx.evaluation.likelihood import bound
from ddimx.evaluation.likelihood.bits import levels
from ddimx.noise import Noise
from ddimx.solvers.schedule import Schedule
from tests.solvers.exact import ALPHA_BARS, BETAS, SCHEDULE

MEAN, DEVIATION = -0.2, 0.3
DATA = DataConfig(dataset="NPZ", image_size=16, channels=3)


def exact_x0(x, t):
    """E[x0 | x_t] of N(MEAN, DEVIATION^2), from the reference's own table of alpha_bar."""
    ab = torch.from_numpy(ALPHA_BARS[t.long().numpy() + 1]).view(-1, 1, 1, 1)
    gain = ab.sqrt() * DEVIATION**2 / (ab * DEVIATION**2 + 1 - ab)
    return MEAN + gain * (x - ab.sqrt() * MEAN)


def eight_bit(count, seed=0):
    """Images of independent normal pixels, rounded to 8 bits: uint8 [N, 16, 16, 3]."""
    values = np.random.default_rng(seed).normal(MEAN, DEVIATION, (count, 16, 16, 3))
    return torch.from_numpy(np.clip(np.rint((values + 1) * 127.5), 0, 255).astype(np.uint8))


def entropy_of_a_pixel():
    """Bits of one rounded pixel, summed over its 256 levels."""
    edges = (np.arange(257) - 0.5) / 127.5 - 1
    edges[[0, -1]] = -np.inf, np.inf
    mass = np.diff(norm.cdf(edges, MEAN, DEVIATION))
    return -(mass * np.log2(np.maximum(mass, 1e-300))).sum()


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("t", [1, 2, 10, 100, 500, 999])
def test_each_term_is_the_closed_form(variance, t):
    """KL of two normals, with the posterior's variance of x0 as the mean square of the error."""
    count = 200
    x0 = torch.from_numpy(np.random.default_rng(1).normal(MEAN, DEVIATION, (count, 3, 16, 16)))
    images, times = torch.arange(count), torch.full((count,), t)
    state = bound.noisy_state(SCHEDULE, x0, Noise(0), images, times)
    weights = bound.weights(SCHEDULE, variance)
    found = bound.middle_term(weights, x0, exact_x0(state, times.double()), times.numpy())
    now, before, beta = ALPHA_BARS[t + 1], ALPHA_BARS[t], BETAS[t]
    q = beta * (1 - before) / (1 - now)
    s = beta if variance == "large" else q
    spread = DEVIATION**2 * (1 - now) / (now * DEVIATION**2 + 1 - now)
    kl = 0.5 * (math.log(s / q) + q / s - 1)
    error = before * (beta / (1 - now)) ** 2 * spread / (2 * s)
    # The error is a sum of n squared normals, of relative deviation sqrt(2 / n); five of them.
    n = x0.numel()
    assert found.mean() / (n / count) == pytest.approx(kl + error, abs=5 * error * (2 / n) ** 0.5)


def test_the_priors_term_is_the_closed_form():
    x0 = torch.tensor([[[[0.5, -1.0]]], [[[0.0, 0.25]]]], dtype=torch.float64)
    schedule = Schedule(np.full(10, 0.3))
    ab = 0.7**10
    expected = [
        sum(0.5 * (ab * x * x + (1 - ab) - 1 - math.log(1 - ab)) for x in row)
        for row in ((0.5, -1.0), (0.0, 0.25))
    ]
    np.testing.assert_allclose(bound.prior_term(schedule, x0), expected, rtol=1e-13)


def test_the_decoder_is_a_distribution_over_the_levels():
    """The masses of the 256 levels add up to one, however far the mean is outside."""
    pixels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    batch = levels(pixels, DataConfig(dataset="NPZ", image_size=1, channels=1))
    for mean in (-3.0, -1.0, 0.1234, 1.0):
        log = bound.discretized_log_likelihood(batch, torch.tensor(mean, dtype=torch.float64), 1e-4)
        assert np.exp(log).sum() == pytest.approx(1, abs=256 * 2**-52)


def test_the_decoders_mass_is_exact_far_from_the_mean():
    """Eighty deviations away, where a difference of two distribution functions is 0 - 0."""
    batch = levels(torch.tensor([200], dtype=torch.uint8).view(1, 1, 1, 1), DATA)
    center, half = 200 / 127.5 - 1, 1 / 255
    for sign in (1, -1):
        deviation = 0.01
        mean = center - sign * 0.3
        a, b = (0.3 - half) / deviation, (0.3 + half) / deviation
        expected = math.log(0.5 * (erfc(a / 2**0.5) - erfc(b / 2**0.5)))
        found = bound.discretized_log_likelihood(
            batch, torch.tensor(mean, dtype=torch.float64), deviation**2
        )
        assert found[0] == pytest.approx(expected, rel=1e-12)
    far = bound.discretized_log_likelihood(batch, torch.tensor(-1.0), 1e-4)
    assert -20000 < far[0] < -10000  # about (1.57 / 0.01)^2 / 2, and finite


def test_the_bound_lies_above_the_entropy_and_near_it():
    """The excess is the decoder's: it takes the variance of t = 1 for one of nearly beta_0."""
    count = 24
    batch, images = levels(eight_bit(count), DATA), torch.arange(count)
    found = bound.variational_bound(
        exact_x0, SCHEDULE, batch, Noise(0), images, variance="large", terms=10**6
    )
    bits = found.total / (math.log(2) * 768)
    entropy = entropy_of_a_pixel()
    standard_error = bits.std(ddof=1) / count**0.5
    posterior = BETAS[1] * (1 - ALPHA_BARS[1]) / (1 - ALPHA_BARS[2])
    ratio = BETAS[0] / posterior
    excess = (ratio - 1 - math.log(ratio)) / 2 / math.log(2)
    assert abs(bits.mean() - entropy - excess / 2) < excess / 2 + 3 * standard_error
    np.testing.assert_array_equal(found.total, found.prior + found.middle + found.decoder)


def test_fewer_terms_estimate_the_same_sum():
    count = 24
    batch, images = levels(eight_bit(count), DATA), torch.arange(count)
    arguments = (exact_x0, SCHEDULE, batch, Noise(0), images)
    whole = bound.variational_bound(*arguments).middle
    few = bound.variational_bound(*arguments, terms=60).middle
    difference = few - whole
    assert 0 < abs(difference.mean()) < 4 * difference.std(ddof=1) / count**0.5
    assert difference.std() < 0.02 * whole.mean()  # strata, not plain sampling


@pytest.mark.parametrize("terms", [1, 2, 7, 100, 998, 999, 5000])
def test_strata_hold_every_middle_time_once(terms):
    edges = bound.strata(1000, terms)
    assert (edges[0], edges[-1]) == (1, 1000)
    assert (np.diff(edges) >= 1).all()
    assert len(edges) - 1 == min(terms, 999)


def test_an_images_bound_is_its_own():
    pixels = eight_bit(5)
    images = torch.tensor([3, 14, 15, 92, 65])
    arguments = {"terms": 30, "clip": 1.0}
    together = bound.variational_bound(
        exact_x0, SCHEDULE, levels(pixels, DATA), Noise(7), images, **arguments
    )
    alone = bound.variational_bound(
        exact_x0, SCHEDULE, levels(pixels[2:3], DATA), Noise(7), images[2:3], **arguments
    )
    # The same sums of 768 elements in another order.
    np.testing.assert_allclose(alone.total[0], together.total[2], rtol=1e-12)


def test_a_clip_bounds_the_prediction():
    batch, images = levels(eight_bit(2), DATA), torch.arange(2)
    far = bound.variational_bound(
        lambda x, t: torch.full_like(x, 50.0), SCHEDULE, batch, Noise(0), images, terms=5, clip=1.0
    )
    near = bound.variational_bound(
        lambda x, t: torch.ones_like(x), SCHEDULE, batch, Noise(0), images, terms=5
    )
    np.testing.assert_array_equal(far.total, near.total)
