"""The order of training: a function of the seed and the position, and of nothing else."""

import numpy as np
import pytest

from ddimx.data.order import Order, visits_by_class
from ddimx.noise import Noise

FAMILIES = np.array([3, 9, 3, 3, 1, 9, 4])  # sizes 3, 2, 1, 1


def positions(first, last):
    return np.arange(first, last, dtype=np.int64)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_every_epoch_is_a_permutation(size):
    order = Order(Noise(3), size)
    assert order.epoch_size == size
    epochs = [order.indices(positions(e * size, (e + 1) * size)) for e in range(3)]
    for epoch in epochs:
        assert epoch.dtype == np.int64
        assert sorted(epoch.tolist()) == list(range(size))
    assert size < 7 or len({tuple(e) for e in epochs}) == 3


def test_every_family_once_per_epoch_and_every_variant_in_time():
    order = Order(Noise(0), len(FAMILIES), FAMILIES)
    assert order.epoch_size == 4
    drawn = order.indices(positions(0, 4 * 120)).reshape(120, 4)
    assert all(sorted(FAMILIES[epoch]) == [1, 3, 4, 9] for epoch in drawn)
    counts = np.bincount(drawn.ravel(), minlength=7)
    assert counts[[4, 6]].tolist() == [120, 120]
    assert counts[[0, 2, 3]].min() > 19  # 40 expected, standard deviation 5.2
    assert counts[[1, 5]].min() > 38  # 60 expected, standard deviation 5.5
    # The place in the epoch says nothing about the family.
    first = np.bincount(np.searchsorted([1, 3, 4, 9], FAMILIES[drawn[:, 0]]), minlength=4)
    assert first.min() > 11  # 30 expected, standard deviation 4.7


@pytest.mark.parametrize("families", [None, FAMILIES])
def test_only_seed_and_position_matter(families):
    whole = Order(Noise(5), 7, families).indices(positions(0, 40))
    assert np.array_equal(Order(Noise(5), 7, families).indices(positions(23, 40)), whole[23:])
    backwards = Order(Noise(5), 7, families).indices(positions(0, 40)[::-1])
    assert np.array_equal(backwards[::-1], whole)
    one_by_one = Order(Noise(5), 7, families)
    assert [one_by_one.indices(positions(p, p + 1))[0] for p in range(40)] == whole.tolist()
    assert not np.array_equal(Order(Noise(6), 7, families).indices(positions(0, 40)), whole)


def test_the_families_numbers_do_not_matter():
    renamed = np.array([10, 30, 10, 10, 5, 30, 20])  # the same groups in the same order
    a = Order(Noise(0), 7, FAMILIES).indices(positions(0, 20))
    assert np.array_equal(Order(Noise(0), 7, renamed).indices(positions(0, 20)), a)


# Recorded once: a change here changes what a resumed run sees.
RECORDED = [4, 6, 5, 3, 9, 8, 7, 1, 2, 0, 8, 6, 3, 5, 4, 0, 1, 2, 7, 9]
RECORDED_FAMILIES = [5, 2, 6, 4, 1, 4, 3, 6, 3, 1, 4, 6]


def test_recorded_orders():
    order = Order(Noise(0), 10)
    assert order.indices(positions(0, 20)).tolist() == RECORDED
    order = Order(Noise(0), 7, FAMILIES)
    assert order.indices(positions(0, 12)).tolist() == RECORDED_FAMILIES


def test_classes_are_visited_as_samples_draw_them():
    """Groups alike, in a group its classes, in a class its families; variants never count."""
    families = np.array([0, 0, 0, 1, 2, 3, 4, 5])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    visits = visits_by_class(families, labels, ("a/x", "a/y", "b/z"))
    # Shares of the groups 1/2, of the classes 1/4, 1/4, 1/2, of the families 1/8, 1/12, 1/2.
    assert visits.tolist() == [2, 2, 1, 1, 1, 6]
    order = Order(Noise(0), len(families), families, visits)
    assert order.epoch_size == 13
    epoch = families[order.indices(np.arange(13, 26))]
    assert np.bincount(epoch).tolist() == visits.tolist()
