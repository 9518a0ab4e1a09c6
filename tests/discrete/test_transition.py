"""The weights of a reverse step, the forward process, and the words behind both."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.discrete.draws import location_codes, token_words, uniform_ids
from ddimx.discrete.transition import corrupt, route
from ddimx.errors import UsageError
from ddimx.kernels.philox import philox_words
from ddimx.noise import Noise, Stream

SHARE = st.floats(0, 1, allow_subnormal=False)
EPSILON = np.finfo(np.float64).eps


def test_weights_of_the_worked_example():
    """K = 8, a_t = 0.3, a_s = 0.55: 0.45/0.7 and 0.25/0.7 at eta 0; x_t forgotten at eta 1."""
    found = np.array([route(0.3, 0.55, eta) for eta in (0.0, 1.0)])
    exact = [[0.45 / 0.7, 0.25 / 0.7, 0.0], [0.0, 0.55, 0.45]]
    assert np.allclose(found, exact, rtol=1e-15)


@given(a=SHARE, b=SHARE, eta=SHARE)
def test_weights_are_a_distribution_and_keep_the_marginal(a, b, eta):
    """x_t is clean with a_t, so x_s is with keep a_t + clean, which must be a_s."""
    a_t, a_s = min(a, b), max(a, b)
    keep, clean, noise = route(a_t, a_s, eta)
    assert min(keep, clean, noise) >= 0
    assert abs(keep + clean + noise - 1) <= 8 * EPSILON
    assert abs(keep * a_t + clean - a_s) <= 8 * EPSILON
    assert noise == eta * (1 - a_s)


@given(a=SHARE, b=SHARE, eta=SHARE)
def test_absorbing_weights_are_remdms(a, b, eta):
    """ReMDM (arXiv 2503.00307, eq. 4) with sigma = eta (1 - a_s) is the same row."""
    a_t, a_s = min(a, b), max(a, b)
    if a_t == 1:
        return
    keep, clean, noise = route(a_t, a_s, eta)
    sigma = eta * (1 - a_s)
    assert sigma <= min(1, (1 - a_s) / a_t if a_t else 1) + EPSILON  # ReMDM's largest
    # An unmasked token keeps its id or takes its own estimate, which is its id.
    assert keep + clean == pytest.approx(1 - sigma, abs=8 * EPSILON)
    assert noise == pytest.approx(sigma, abs=8 * EPSILON)
    # A masked one takes x_0, or stays masked by keeping [MASK] or by noise.
    unmask = (a_s - (1 - sigma) * a_t) / (1 - a_t)
    stay = (1 - a_s - sigma * a_t) / (1 - a_t)
    tolerance = 8 * EPSILON / (1 - a_t)  # theirs subtracts nearly equal numbers
    assert clean == pytest.approx(unmask, abs=tolerance)
    assert keep + noise == pytest.approx(stay, abs=tolerance)


def test_the_ends_are_exact():
    assert [float(w) for w in route(0.0, 0.0, 0.0)] == [1, 0, 0]
    assert [float(w) for w in route(0.0, 1.0, 0.7)] == [0, 1, 0]
    assert [float(w) for w in route(0.4, 1.0, 0.7)] == [0, 1, 0]
    assert [float(w) for w in route(1.0, 1.0, 0.0)] == [1, 0, 0]
    assert [float(w) for w in route(1.0, 1.0, 1.0)] == [0, 1, 0]
    near, at = route(1 - 1e-12, 1 - 1e-12, 0.25), route(1.0, 1.0, 0.25)
    assert np.allclose(near, at, atol=1e-11)
    keep, _, _ = route([0.0, 0.2, 0.4], [0.2, 0.4, 1.0], 0.0)
    assert np.allclose(keep, [0.8, 0.75, 0.0], rtol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 0.2, 1.01), r"eta must lie in \[0, 1\]"),
        ((0.1, 0.2, float("nan")), "eta must lie"),
        ((0.3, 0.2, 0.0), "0 <= alpha_from <= alpha_to <= 1"),
        ((-0.1, 0.2, 0.0), "alpha_from"),
        ((0.1, 1.2, 0.0), "alpha_from"),
        ((float("nan"), 0.5, 0.0), "alpha_from"),
    ],
)
def test_weights_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        route(*arguments)


# --- the forward process ------------------------------------------------------------------------

N = 20_000
KEYS = torch.arange(N) % 5000
SAMPLES = torch.arange(N) // 5000
CLEAN = torch.full((N,), 51, dtype=torch.uint8)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_a_share_of_alpha_stays(alpha):
    """Six standard deviations of a binomial."""
    masked = corrupt(CLEAN, alpha, "absorbing", Noise(1), SAMPLES, KEYS)
    assert set(masked.unique().tolist()) == {0, 51}
    bound = 6 * (alpha * (1 - alpha) / N) ** 0.5
    assert abs((masked == 51).double().mean().item() - alpha) <= bound
    noised = corrupt(CLEAN, alpha, "uniform", Noise(1), SAMPLES, KEYS)
    # The same tokens stay; the others are any of the 255 ids, the clean one included.
    assert (noised[masked == 51] == 51).all()
    others = noised[masked == 0].double()
    assert others.min() >= 1
    assert len(others.unique()) == 255
    deviation = (255**2 - 1) ** 0.5 / 12**0.5 / len(others) ** 0.5
    assert abs(others.mean().item() - 128) <= 6 * deviation


def test_alpha_0_and_1_are_noise_and_data():
    assert (corrupt(CLEAN, 0.0, "absorbing", Noise(1), SAMPLES, KEYS) == 0).all()
    for transition in ("absorbing", "uniform"):
        assert torch.equal(corrupt(CLEAN, 1.0, transition, Noise(1), SAMPLES, KEYS), CLEAN)


def test_alpha_of_each_token_and_rows_of_each_token():
    alpha = torch.where(SAMPLES == 1, 1.0, 0.0)
    found = corrupt(CLEAN, alpha, "absorbing", Noise(1), SAMPLES, KEYS)
    assert torch.equal(found == 51, SAMPLES == 1)
    rows = torch.where(SAMPLES < 2, 7, 9)
    both = corrupt(CLEAN, 0.5, "uniform", Noise(1), SAMPLES, KEYS, row=rows)
    for row, flags in ((7, SAMPLES < 2), (9, SAMPLES >= 2)):
        part = corrupt(CLEAN[flags], 0.5, "uniform", Noise(1), SAMPLES[flags], KEYS[flags], row=row)
        assert torch.equal(both[flags], part)


def test_draws_are_keyed_by_seed_sample_key_row_and_stream():
    def drawn(seed=1, samples=SAMPLES, keys=KEYS, **where):
        return corrupt(CLEAN, 0.5, "absorbing", Noise(seed), samples, keys, **where)

    first = drawn()
    assert torch.equal(first, drawn(row=0, stream=Stream.TRAIN_NOISE))
    for other in (
        drawn(seed=2),
        drawn(samples=SAMPLES + 4),
        drawn(keys=KEYS + 5000),
        drawn(row=1),
        drawn(stream=Stream.EVALUATE),
    ):
        assert abs((other == first).double().mean().item() - 0.5) < 6 * 0.5 / N**0.5


def test_words_are_philoxs_with_the_key_first():
    found = token_words(Noise(2**63 + 5), KEYS[:3], SAMPLES[:3], 17, Stream.TOKEN)
    exact = philox_words(2**63 + 5, KEYS[:3], SAMPLES[:3], 17, 3)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))
    bits = philox_words(Noise(2**63 + 5).key_bits(), KEYS[:3], SAMPLES[:3], 17, 3)
    assert all(torch.equal(a, b) for a, b in zip(bits, exact, strict=True))


def test_uniform_ids_reach_both_ends():
    assert uniform_ids(torch.tensor([0, 2**31, 2**32 - 1])).tolist() == [1, 128, 255]


def test_no_two_cells_of_a_tree_share_a_location_code():
    codes = torch.cat([location_codes(d, torch.arange(8**d)) for d in range(5)])
    assert len(codes.unique()) == len(codes)
    last = location_codes(10, torch.tensor([8**10 - 1]))
    assert int(last) < 2**32
    levels = torch.tensor([0, 1, 1, 4])
    keys = torch.tensor([0, 0, 7, 4095])
    assert location_codes(levels, keys).tolist() == [1, 8, 15, 8191]
    with pytest.raises(UsageError, match=r"level 11 is outside 0\.\.10"):
        location_codes(11, keys)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_between_clean_times_divides_by_nothing(eta):
    """From alpha 1 to alpha 1 every token keeps its id, or its clean one: they are the same."""
    with np.errstate(all="raise"):
        keep, clean, noise = (float(part) for part in route(1.0, 1.0, eta))
    assert (keep, clean, noise) == (1 - eta, eta, 0.0)


def test_eta_ends_at_one():
    for eta in (np.nextafter(1.0, 2.0), -np.nextafter(0.0, 1.0)):
        with pytest.raises(UsageError, match="eta must lie in"):
            route(0.5, 0.6, eta)
