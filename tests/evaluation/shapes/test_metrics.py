"""1-NNA, COV and MMD on matrices whose answers are known, ties included."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ddimx.evaluation.shapes.intervals import wilson
from ddimx.evaluation.shapes.metrics import (
    Matrices,
    coverage,
    minimum_matching,
    one_nna,
    own_kind,
    perfect_one_nna,
)


def of_points(samples, reference):
    a, b = (
        np.asarray(side, dtype=np.float64).reshape(len(side), -1) for side in (samples, reference)
    )
    return Matrices(cdist(a, a), cdist(b, b), cdist(a, b))


def values(matrices):
    return [metric(matrices).value for metric in (one_nna, coverage, minimum_matching)]


def test_a_line_of_points_worked_out_by_hand():
    """On a line: samples 0, 1, 10; references 2.5, 9, 20.

    Nearest: 0-1 own, 1-0 own, 10-9 other; 2.5-1 other, 9-10 other, 20-10 other: 2 of 6 right.
    Samples' nearest references: 2.5, 2.5, 9: 2 of 3. References' nearest samples: 1.5, 1, 10 away.
    """
    found = values(of_points([0, 1, 10], [2.5, 9, 20]))
    assert found == pytest.approx([2 / 6, 2 / 3, 12.5 / 3], rel=1e-15)


def test_shapes_that_are_each_others_nearest_count_as_one_observation():
    """Of the six above 0 and 1, and 9 and 10, are: with variance 1 + 4 / 6 a shape, 3.6 count."""
    found = one_nna(of_points([0, 1, 10], [2.5, 9, 20]))
    expected = wilson(2 / 6, 3.6)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-14)


def test_a_hand_made_matrix_that_is_no_geometry():
    """1-NNA takes each row's least entry outside the diagonal, whatever stands on it."""
    matrices = Matrices(
        samples=np.array([[0.0, 5.0], [5.0, -9.0]]),
        reference=np.array([[0.0, 1.0], [1.0, 0.0]]),
        across=np.array([[4.0, 6.0], [7.0, 3.0]]),
    )
    # Sample 0: 5 | 4, 6 wrong. Sample 1: 5 | 7, 3 wrong. References: 1 is least for both.
    assert values(matrices) == [0.5, 1.0, 3.5]


def test_two_far_clusters_are_told_apart():
    rng = np.random.default_rng(0)
    found = of_points(rng.random((20, 3)), rng.random((20, 3)) + 100)
    figure = one_nna(found)
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert 0.8 < figure.low < 1.0  # 40 shapes that agree are no certainty


def test_a_set_against_itself_is_all_copies():
    points = np.random.default_rng(1).random((9, 3))
    found = of_points(points, points)
    assert values(found) == [0.0, 1.0, 0.0]


def test_ties_are_shared_and_do_not_depend_on_the_order():
    """Four shapes, all at distance 1: each has one of its own kind among three nearest."""
    ones = np.ones((2, 2)) - np.eye(2)
    tied = Matrices(ones, ones, np.ones((2, 2)))
    assert values(tied) == pytest.approx([1 / 3, 1.0, 1.0], rel=1e-15)
    # Every shape twice in either set: one twin of its own kind, two of the other, at distance 0.
    twice = of_points([0, 0, 5, 5], [0, 0, 5, 5])
    assert one_nna(twice).value == pytest.approx(1 / 3, rel=1e-15)
    # A generator that makes one shape only, at the same distance from two references.
    assert coverage(of_points([0, 0], [1, -1])).value == 1.0
    assert coverage(of_points([0, 0], [1, -1.1])).value == 0.5


def test_the_order_of_shapes_does_not_matter():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 3, (5, 2)), rng.integers(0, 3, (5, 2))  # few places, many ties
    expected = values(of_points(a, b))
    for order in itertools.permutations(range(5)):
        moved = list(order)
        assert values(of_points(a[moved], b[moved[::-1]])) == pytest.approx(expected, rel=1e-14)


def test_samples_and_references_play_the_same_part_in_1_nna():
    rng = np.random.default_rng(3)
    a, b = rng.random((12, 3)), rng.random((12, 3)) + 0.3
    assert one_nna(of_points(a, b)) == one_nna(of_points(b, a))


def test_each_shape_is_judged_by_its_own_nearest():
    joint = np.array(
        [
            [np.inf, 1.0, 2.0, 3.0],
            [1.0, np.inf, 0.5, 3.0],
            [2.0, 0.5, np.inf, 0.5],
            [3.0, 3.0, 0.5, np.inf],
        ]
    )
    np.testing.assert_array_equal(own_kind(joint), [1.0, 0.0, 0.5, 1.0])


def test_a_perfect_generators_accuracy_is_that_of_shuffled_shapes():
    """Shapes of one category lie together, those of others far away: 1-NNA averages to it."""
    a, b = ["x"] * 2 + ["y"] * 3 + ["z"], ["x"] * 2 + ["y"] * 2 + ["z"] * 2
    places = {"x": 0.0, "y": 100.0, "z": 200.0}
    rng = np.random.default_rng(5)
    found = []
    for _ in range(2000):
        shapes = [[places[name] + rng.random() for name in names] for names in (a, b)]
        found.append(one_nna(of_points(*shapes)).value)
    expected = perfect_one_nna(a, b)
    assert expected < 0.4
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / 2000**0.5)


def trials(count, n, shift=0.0):
    """Figures of two normal clouds; every trial has points of its own."""
    rng = np.random.default_rng(4)
    for _ in range(count):
        a, b = rng.normal(size=(2, n, 3))
        yield of_points(a, b + shift)


def test_identical_distributions_give_half_and_the_interval_says_how_surely():
    """The mean of 200 trials lies within 4 standard errors of 0.5.

    One trial's is sqrt(0.25 / 2n) times at most sqrt(2), as the nearest are each other's in pairs.
    The expected value is (n - 1) / (2 n - 1), for a shape cannot be its own neighbor.
    """
    n, count = 20, 200
    found = [one_nna(m) for m in trials(count, n)]
    expected = (n - 1) / (2 * n - 1)
    error = np.sqrt(0.25 / (2 * n) * 2 / count)
    assert abs(np.mean([f.value for f in found]) - expected) < 4 * error
    inside = np.mean([f.low <= expected <= f.high for f in found])
    assert inside > 0.95 - 4 * np.sqrt(0.95 * 0.05 / count)


def test_the_interval_of_mmd_counts_the_draw_of_samples_too():
    """Of 200 trials 95% should hold the true value; without the jackknife 74% would."""
    found = [minimum_matching(m) for m in trials(200, 30, shift=0.7)]
    true = np.mean([f.value for f in found])
    inside = np.mean([f.low <= true <= f.high for f in found])
    assert inside > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 200)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3)])
def test_too_few_shapes_or_unequal_sides_are_refused(sizes):
    a, b = sizes
    with pytest.raises(ValueError, match="n >= 2"):
        one_nna(of_points(np.arange(a), np.arange(b)))


def test_nan_is_refused():
    m = of_points([0, 1], [2, np.nan])
    with pytest.raises(ValueError, match="NaN"):
        one_nna(m)
