"""KID on answers that are known by hand, and the subsets of torch-fidelity."""

import numpy as np
import pytest

from ddimx.evaluation.fid.kid import Kid, kid, squared_mmd


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def test_the_estimate_leaves_out_each_vector_with_itself():
    """k(x, y) = (x y + 1)^3: within the sets 1 and 1, between them (1 + 1 + 1 + 27) / 4."""
    x, y = column(0, 1), column(0, 2)
    assert squared_mmd(x, y) == pytest.approx(1 + 1 - 2 * 7.5)
    assert squared_mmd(column(1, 1), column(2, 2)) == pytest.approx(8 + 125 - 2 * 27)


def test_the_kernel_divides_by_the_number_of_features():
    x, y = (np.repeat(column(*values), 5, axis=1) for values in ((0, 1), (0, 2)))
    assert squared_mmd(x, y) == pytest.approx(-13)


def test_sets_may_have_different_numbers_of_images():
    """Within (1, 1, 1): 8; within (0, 0): 1; between them 1."""
    assert squared_mmd(column(1, 1, 1), column(0, 0)) == pytest.approx(8 + 1 - 2)


def test_subsets_are_those_of_torch_fidelity():
    """Its kid_features_to_metric, version 0.4.0, gave these figures for these numbers."""
    random = np.random.default_rng(0)
    a = random.integers(0, 9, (40, 3)).astype(np.float32)
    b = random.integers(1, 10, (30, 3)).astype(np.float32)
    measured = kid(a, b, subsets=5, size=12)
    assert measured.mean == pytest.approx(12225.188103254766, rel=1e-12)
    assert measured.deviation == pytest.approx(10948.48532475011, rel=1e-12)


def test_small_sets_are_taken_whole():
    x, y = column(0, 1), column(0, 2)
    measured = kid(x, y)
    assert measured == Kid(pytest.approx(-13), 0.0, 1, 2)
    assert kid(column(1, 1, 1), column(0, 0)) == Kid(pytest.approx(7), 0.0, 100, 2)


@pytest.mark.parametrize("other", [column(1), np.ones((4, 2), np.float32)])
def test_what_has_no_kid_is_refused(other):
    with pytest.raises(ValueError, match="two images of each set"):
        kid(column(0, 1), other)
