"""The Fréchet distance and the statistics it is taken of, on exactly known answers."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ddimx.errors import DdimxError
from ddimx.evaluation.fid.frechet import (
    Accumulator,
    Statistics,
    frechet_distance,
    merge_statistics,
    read_statistics,
    write_statistics,
)


def normal(mean, covariance):
    return Statistics(np.array(mean, dtype=float), np.array(covariance, dtype=float), 100)


def test_of_numbers_it_is_the_difference_of_means_and_deviations():
    """(1 - 4)^2 + (2 - 5)^2, in one dimension."""
    assert frechet_distance(normal([1], [[4]]), normal([4], [[25]])) == pytest.approx(18)


def test_of_commuting_covariances_it_adds_up_along_the_axes():
    a = normal([0, 1, 2], np.diag([1.0, 4.0, 9.0]))
    b = normal([3, 1, 0], np.diag([16.0, 4.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(9 + 0 + 4 + 9 + 0 + 9)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned = [normal(turn @ s.mean, turn @ s.covariance @ turn.T) for s in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(31)


def test_of_any_covariances_it_is_the_formula():
    random = np.random.default_rng(1)
    roots = [random.normal(size=(6, 6)) for _ in range(2)]
    a, b = (normal(random.normal(size=6), r @ r.T) for r in roots)
    root = sqrtm(a.covariance @ b.covariance).real
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_it_is_nothing_between_equals_even_of_low_rank():
    x = np.random.default_rng(2).normal(size=(5, 40))
    same = normal(x.mean(0), np.cov(x, rowvar=False))
    # A root loses half the digits of what cancels: sqrt(eps) of the trace at the most.
    assert 0 <= frechet_distance(same, same) < 1e-7 * np.trace(same.covariance)


def test_of_fewer_images_than_features_it_is_exact():
    """Of centered features X and Y the root's trace is the sum of the singular values of X Y'.

    Roots of a covariance's zero eigenvalues, 1e-16 of the largest, would add 1e-8 each.
    """
    random = np.random.default_rng(4)
    x, y = (random.normal(size=(n, 200)) for n in (30, 20))
    a, b = (Statistics(s.mean(0), np.cov(s, rowvar=False), len(s)) for s in (x, y))
    centered = [(s - s.mean(0)) / np.sqrt(len(s) - 1) for s in (x, y)]
    overlap = np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    traces = sum((s**2).sum() for s in centered)
    expected = ((a.mean - b.mean) ** 2).sum() + traces - 2 * overlap
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_merged_statistics_are_those_of_all_images():
    random = np.random.default_rng(5)
    sets = [random.normal(100, 1, size=(n, 6)) for n in (9, 2, 30)]
    about = {"network": "n", "preprocessing": "p"}
    made = []
    for name, x in zip("abc", sets, strict=True):
        total = Accumulator()
        total.add(x)
        facts = {"images": name, **about, "parts": 1, "gray": name == "a", "unreadable": 2}
        made.append(replace(total.statistics(facts), features=x.astype(np.float32)))
    merged = merge_statistics(*made)
    every = np.concatenate(sets)
    # Roundings of values of 100 in float64: 1e-14 each.
    np.testing.assert_allclose(merged.mean, every.mean(0), rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, np.cov(every, rowvar=False), atol=1e-11)
    np.testing.assert_array_equal(merged.features, every.astype(np.float32))
    whole = {"images": "a + b + c", **about, "parts": 3, "unreadable": 6}
    assert (merged.count, merged.about) == (41, whole)
    partly = merge_statistics(made[0], replace(made[1], features=None))
    assert partly.features is None
    reference = normal(np.zeros(6), np.eye(6))
    direct = Accumulator()
    direct.add(every)
    expected = frechet_distance(direct.statistics({}), reference)
    assert frechet_distance(merged, reference) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "'b': does not say of how many images it is"),
        ({"about": {"images": "b", "network": "m"}}, "'b': network is 'm', of the first .* 'n'"),
        ({"mean": np.zeros(3)}, "features of 2 and of 3 numbers do not merge"),
    ],
)
def test_statistics_that_do_not_merge(changes, message):
    one = Statistics(np.zeros(2), np.eye(2), 5, {"images": "b", "network": "n"})
    with pytest.raises(DdimxError, match=message):
        merge_statistics(one, replace(one, **changes))
    with pytest.raises(DdimxError, match="no statistics"):
        merge_statistics()


def test_batches_give_the_statistics_of_the_whole():
    x = np.random.default_rng(3).normal(1e4, 1, size=(101, 7))  # a mean that eats digits
    total = Accumulator()
    for part in (x[:1], x[1:50], x[50:]):
        total.add(part)
    found = total.statistics({"images": "x"})
    assert found.count == 101
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
    # float64 of values of 1e4: 1e-12 each, squared deviations of 1.
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), atol=1e-10)


def test_one_image_and_infinite_features_have_no_statistics():
    total = Accumulator()
    total.add(np.ones((1, 2)))
    with pytest.raises(DdimxError, match="somewhere: a covariance needs two images"):
        total.statistics({"images": "somewhere"})
    total.add(np.full((1, 2), np.nan))
    with pytest.raises(DdimxError, match="not finite"):
        total.statistics({})


def test_features_of_other_lengths_do_not_compare():
    with pytest.raises(DdimxError, match="features of 1 and of 2 numbers"):
        frechet_distance(normal([1], [[1]]), normal([1, 2], np.eye(2)))


def test_numbers_without_a_distance_are_refused():
    large = normal([1e200], [[1e300]])
    with pytest.raises(DdimxError, match="too large"):
        frechet_distance(large, normal([-1e200], [[1e300]]))


def test_a_file_keeps_everything(tmp_path):
    features = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
    kept = Statistics(
        np.array([0.1, 0.2]), np.array([[1.5, 0.5], [0.5, 2]]), 7, {"images": "ä"}, features
    )
    write_statistics(tmp_path / "s.npz", kept)
    read = read_statistics(tmp_path / "s.npz")
    np.testing.assert_array_equal(read.mean, kept.mean)
    np.testing.assert_array_equal(read.covariance, kept.covariance)
    np.testing.assert_array_equal(read.features, features)
    assert (read.count, read.about) == (7, {"images": "ä"})
    with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"mu", "sigma", "count", "about", "features"}
    write_statistics(tmp_path / "s.npz", replace(kept, features=None))
    with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"mu", "sigma", "count", "about"}


def test_statistics_of_other_programs_are_read(tmp_path):
    np.savez(tmp_path / "fid.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3))
    read = read_statistics(tmp_path / "fid.npz")
    assert (read.count, read.about, read.mean.dtype) == (0, {}, np.float64)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "holds no 'mu' and 'sigma'"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"mu \[3\] and sigma \[2, 2\]"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, "not finite"),
        ({"mu": np.zeros(2), "sigma": np.array([[1, np.nan], [np.nan, 1]])}, "not finite"),
        ({"mu": np.array([0, np.inf]), "sigma": np.eye(2)}, "not finite"),
        ({"mu": np.zeros(1), "sigma": np.eye(1), "about": np.array("{")}, "damaged"),
        ({"mu": np.zeros(1), "sigma": np.array([[None]])}, "not a readable"),
        (
            {"mu": np.zeros(1), "sigma": np.eye(1), "features": np.zeros((3, 2), np.float32)},
            r"features float32 \[3, 2\], expected float32 \[M, 1\]",
        ),
        (
            {"mu": np.zeros(1), "sigma": np.eye(1), "features": np.full((3, 1), np.inf, "f4")},
            "features are not finite",
        ),
    ],
)
def test_damaged_statistics_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DdimxError, match=message):
        read_statistics(tmp_path / "bad.npz")


def test_what_is_no_archive_is_refused_and_nothing_is_unpickled(tmp_path):
    stream = io.BytesIO()
    pickle.dump({"mu": 1}, stream)
    (tmp_path / "p.npz").write_bytes(stream.getvalue())
    with pytest.raises(DdimxError, match="not a readable"):
        read_statistics(tmp_path / "p.npz")
    np.save(tmp_path / "one.npy", np.eye(2))
    with pytest.raises(DdimxError, match="not a readable"):
        read_statistics((tmp_path / "one.npy").rename(tmp_path / "one.npz"))
    with pytest.raises(DdimxError, match="no such file"):
        read_statistics(tmp_path / "absent.npz")
