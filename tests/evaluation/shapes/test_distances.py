"""Distances against brute force, and matrices that do not depend on the threads."""

import itertools
import sys

import numpy as np
import pytest

from ddimx.errors import DdimxError
from ddimx.evaluation.shapes import distances
from ddimx.progress import Progress

RANDOM = np.random.default_rng(0)
CLOUDS = [RANDOM.random((n, 3)) for n in (40, 40, 25, 1)]


def measured(measure, a, b):
    return measure.distance(measure.prepare(a), measure.prepare(b))


def brute_chamfer(a, b):
    squared = ((a[:, None] - b[None, :]) ** 2).sum(axis=-1)
    return squared.min(axis=1).mean() + squared.min(axis=0).mean()


def brute_emd(a, b):
    lengths = np.sqrt(((a[:, None] - b[None, :]) ** 2).sum(axis=-1))
    everyone = range(len(a))
    return min(lengths[everyone, order].mean() for order in itertools.permutations(everyone))


@pytest.mark.parametrize(("i", "j"), list(itertools.combinations_with_replacement(range(4), 2)))
def test_chamfer_is_that_of_brute_force(i, j):
    a, b = CLOUDS[i], CLOUDS[j]
    assert measured(distances.chamfer(), a, b) == pytest.approx(brute_chamfer(a, b), rel=1e-12)


def test_chamfer_worked_out_by_hand():
    """Points 0 and 3 against 1: squares 1 and 4, mean 2.5; back 1."""
    a, b = np.array([[0.0, 0, 0], [3, 0, 0]]), np.array([[1.0, 0, 0]])
    assert measured(distances.chamfer(), a, b) == 3.5
    assert measured(distances.chamfer(), b, a) == 3.5
    assert measured(distances.chamfer(), a, a) == 0.0


def test_emd_is_the_best_of_all_permutations():
    for seed in range(20):
        a, b = np.random.default_rng(seed).random((2, 4, 3))
        assert measured(distances.emd(4), a, b) == pytest.approx(brute_emd(a, b), rel=1e-12)


def test_emd_is_no_nearest_neighbor_and_takes_the_first_points():
    """On a line the best matching is that of the sorted points, here (0 1)(1 5), then all three."""
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[:, 0], b[:, 0] = (0, 1, 99), (1, 5, -99)
    assert measured(distances.emd(2), a, b) == 2.5
    assert measured(distances.emd(3), a, b) == pytest.approx((99 + 0 + 94) / 3)


def test_matrices_hold_every_pair_whatever_the_threads():
    samples, others, reference = CLOUDS[:2], CLOUDS[2:], [CLOUDS[1], CLOUDS[3]]
    sets = {"a": samples, "b": others}
    results = [
        distances.matrices(sets, reference, distances.chamfer(), workers=n) for n in (1, 2, 5)
    ]
    for found in results:
        for name, clouds in sets.items():
            expected = [[brute_chamfer(x, y) for y in reference] for x in clouds]
            np.testing.assert_allclose(found[name].across, expected, rtol=1e-12)
            within = brute_chamfer(*clouds)
            np.testing.assert_allclose(found[name].samples, [[0, within], [within, 0]], rtol=1e-12)
            between = brute_chamfer(*reference)
            np.testing.assert_allclose(found[name].reference, [[0, between], [between, 0]], 1e-12)
            np.testing.assert_array_equal(found[name].across, results[0][name].across)


def test_shapes_are_paired_by_place():
    found = distances.paired(CLOUDS[:2], CLOUDS[2:], distances.chamfer())
    expected = [brute_chamfer(a, b) for a, b in zip(CLOUDS[:2], CLOUDS[2:], strict=True)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_progress_counts_every_pair_once():
    class Counting(Progress):
        counted, total = 0, 0

        def start(self, what, total, done=0):
            self.total += total

        def advance(self, count=1, note=""):
            self.counted += count

    shown = Counting(quiet=True)
    sets = {"a": CLOUDS[:3], "b": CLOUDS[:2]}
    distances.matrices(sets, CLOUDS, distances.chamfer(), workers=1, progress=shown)
    assert shown.counted == shown.total == (3 + 1 + 6) + 3 * 4 + 2 * 4


def test_a_fault_in_a_thread_is_the_callers():
    def broken(a, b):
        raise ZeroDivisionError("in a thread")

    measure = distances.Measure(lambda cloud: cloud, broken)
    with pytest.raises(ZeroDivisionError, match="in a thread"):
        distances.matrices({"a": CLOUDS}, CLOUDS, measure, workers=2)


def test_without_scipy_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    for measure in (distances.chamfer, lambda: distances.emd(4)):
        with pytest.raises(DdimxError, match=r'pip install "ddimx\[3d\]"'):
            measure()
