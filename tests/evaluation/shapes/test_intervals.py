"""Intervals: published values, coverage, and what must not change them."""

import numpy as np
import pytest
from scipy import stats

from ddimx.evaluation.shapes.intervals import Figure, bootstrap, mean_of, share_of, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(right, count, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    found = wilson(right / count, count)
    assert found.value == right / count
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert share_of([True] * right + [False] * (count - right)) == found


@pytest.mark.parametrize("count", [1, 2, 7, 48, 1000])
def test_wilsons_interval_is_scipys(count):
    """SciPy takes whole counts alone; 1-NNA's are worth less than one each."""
    for right in {0, 1, count // 3, count - 1, count}:
        expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
        figure = wilson(right / count, count)
        assert figure.low == pytest.approx(expected.low, rel=1e-13, abs=1e-15)
        assert figure.high == pytest.approx(expected.high, rel=1e-13)


def test_shapes_that_all_agree_are_no_certainty():
    assert share_of([True] * 16) == Figure(1.0, pytest.approx(0.8064, abs=5e-5), 1.0)


def test_a_share_that_is_none_is_refused():
    for share, count in ((1.1, 5), (-0.1, 5), (0.5, 0)):
        with pytest.raises(ValueError, match="a share of"):
            wilson(share, count)


def test_a_bootstraps_interval_is_that_of_the_mean():
    """Of 400 normal values the mean's interval is 1.96 / 20 wide on each side, within 10%.

    The spread of 400 values is itself known to 3.5%, a percentile of 2000 means to about 3%.
    """
    values = np.random.default_rng(0).normal(5.0, 1.0, 400)
    found = bootstrap(values)
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.high - found.value == pytest.approx(0.098 * values.std(), rel=0.1)
    assert found.value - found.low == pytest.approx(0.098 * values.std(), rel=0.1)


def test_a_bootstrap_is_repeatable_and_knows_no_order():
    values = np.random.default_rng(1).random(30)
    assert bootstrap(values, 7) == bootstrap(values[::-1], 7)
    assert bootstrap(values, 7) != bootstrap(values, 8)
    assert bootstrap([0.25] * 5) == Figure(0.25, 0.25, 0.25)


def test_the_mean_over_point_seeds_is_taken_number_by_number():
    found = mean_of([Figure(0.2, 0.1, 0.4), Figure(0.4, 0.3, 0.5)])
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.2, 0.45), rel=1e-15)
