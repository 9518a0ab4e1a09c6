"""PFDiff beside its published algorithm, written as the loop that it is."""

import numpy as np
import pytest
import torch

from ddimx.errors import UsageError
from ddimx.noise import Noise
from ddimx.solvers.executor import Draw, Raw, execute
from ddimx.solvers.pfdiff import pfdiff
from ddimx.solvers.registry import evaluations, most_times
from tests.solvers.exact import SCHEDULE, alpha_bar, mix_output

VARIANTS = [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]
START = np.linspace(-2, 2, 9)[:, None]


def eps(x, t):
    """A smooth network that is nobody's exact score."""
    return np.tanh(1.5 * x - 0.3) * (0.6 + t / 2000) + 0.2 * x


def step(e, x, t, t_to):
    ab, ab_to = alpha_bar(t), alpha_bar(t_to)
    x0 = (x - np.sqrt(1 - ab) * e) / np.sqrt(ab)
    return np.sqrt(ab_to) * x0 + np.sqrt(1 - ab_to) * e


def reference(down, k, h):
    """Run the loop of the authors' code over falling times, eta = 0; return x and the times asked.

    The first interval is plain DDIM. A past score places the springboard, the future score found
    there moves the state from where it was.
    """
    ts, n = [*down, -1.0], len(down)
    asked = [ts[0]]
    e = eps(START, ts[0])
    x = step(e, START, ts[0], ts[1])
    i = 1
    while i < n:
        hop = min(k + 1, n - i)
        if hop == 1:
            asked.append(ts[i])
            x = step(eps(x, ts[i]), x, ts[i], ts[i + 1])
            break
        s = h if hop == k + 1 else 1
        springboard = step(e, x, ts[i], ts[i + s])
        asked.append(ts[i + s])
        e = eps(springboard, ts[i + s])
        x = step(e, x, ts[i], ts[i + hop])
        i += hop
    return x, asked


def run(plan, prediction="epsilon"):
    asked = []

    def network(y, t):
        time = plan.t[np.abs(plan.t - float(t[0])).argmin()]
        asked.append(time)
        ab, e = alpha_bar(time), eps(y.numpy(), time)
        x0 = (y.numpy() - np.sqrt(1 - ab) * e) / np.sqrt(ab)
        return Raw(torch.from_numpy(mix_output(ab, x0, e, prediction)), None)

    draw = Draw(Noise(0), torch.arange(len(START)))
    last = [s.y for s in execute(plan, network, torch.from_numpy(START), draw)][-1]
    return last.numpy(), asked


def test_the_default_is_2_1():
    times = np.arange(0.0, 900.0, 90.0)
    assert pfdiff(SCHEDULE, times).label == pfdiff(SCHEDULE, times, k=2, h=1).label == "pfdiff:2,1"


@pytest.mark.parametrize(("k", "h"), VARIANTS)
def test_results_and_calls_are_those_of_the_published_loop(k, h):
    for n in range(1, 41):
        for times in (
            np.linspace(0, 999, n).astype(int).astype(float),
            np.unique((np.linspace(0, 800**0.5, n) ** 2).astype(int)).astype(float),
        ):
            expected, calls = reference(times[::-1], k, h)
            result, asked = run(pfdiff(SCHEDULE, times, k=k, h=h))
            assert asked == calls
            # Each of the up to 40 steps divides by sqrt(ab), which is 158 at t = 999.
            np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize(("k", "h"), VARIANTS)
def test_other_predictions(k, h, prediction):
    times = np.linspace(0, 999, 13).round()
    expected, _ = reference(times[::-1], k, h)
    result, _ = run(pfdiff(SCHEDULE, times, k=k, h=h, prediction=prediction), prediction)
    np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("k", "h", "calls"),
    [
        (1, 1, [999, 666, 333, 0]),
        (2, 1, [999, 777, 444, 111]),
        (2, 2, [999, 666, 333, 0]),
        (3, 1, [999, 832, 499, 166]),
        (3, 2, [999, 749, 416, 83]),
        (3, 3, [999, 666, 333, 0]),
    ],
)
def test_four_evaluations_of_the_authors_code(k, h, calls):
    """As their scripts choose N for 4 evaluations; times of the code itself, int(linspace)."""
    n = most_times(f"pfdiff:{k},{h}", 4)
    plan = pfdiff(SCHEDULE, np.linspace(0, 999, n).astype(int).astype(float), k=k, h=h)
    assert plan.t.tolist() == calls
    assert plan.notes == ()


@pytest.mark.parametrize(("k", "h"), VARIANTS)
def test_the_count_of_evaluations(k, h):
    for n in range(1, 41):
        times = np.linspace(0, 999, n).round()
        plan = pfdiff(SCHEDULE, times, k=k, h=h)
        assert plan.nfe == evaluations(f"pfdiff:{k},{h}", n) == len(reference(times[::-1], k, h)[1])
        assert bool(plan.notes) == (n > 1 and (n - 1) % (k + 1) > 0)


def test_a_plan_by_hand():
    """k = h = 1 over 3 times: DDIM to t = 500, then both intervals left with the score at 10."""
    plan = pfdiff(SCHEDULE, np.array([10.0, 500.0, 900.0]), k=1, h=1)
    assert plan.t.tolist() == [900, 10]
    assert plan.t_from.tolist() == [900, 500]
    assert plan.t_to.tolist() == [500, -1]
    ab = {t: alpha_bar(t) for t in (900, 500, 10)}
    jump = np.sqrt(ab[10] / ab[500])
    exact = {
        "a": [0, 1 / np.sqrt(ab[500])],
        "w": [np.sqrt(ab[500]), 0],
        "p": [jump, 1],
        "c": [0, 0],
        "r": [ab[900] ** -0.5, ab[10] ** -0.5],
    }
    for name, values in exact.items():
        np.testing.assert_allclose(getattr(plan, name), values, rtol=1e-12)
    to_clean = -np.sqrt(1 - ab[500]) / np.sqrt(ab[500])
    np.testing.assert_allclose(plan.b[:, 0], [np.sqrt(1 - ab[500]), to_clean], rtol=1e-12)
    ahead = np.sqrt(1 - ab[10]) - jump * np.sqrt(1 - ab[500])
    np.testing.assert_allclose(plan.q[:, 0], [ahead, 0], rtol=1e-12)


def test_a_short_tail_is_noted():
    (note,) = pfdiff(SCHEDULE, np.linspace(0, 999, 9).round(), k=2, h=1).notes
    assert "hops 3 intervals at a time; of 9 timesteps the last hop has 2" in note


@pytest.mark.parametrize(("k", "h"), [(0, 0), (1, 2), (4, 1), (2, 0)])
def test_other_variants_are_refused(k, h):
    with pytest.raises(UsageError, match="1 <= h <= k <= 3"):
        pfdiff(SCHEDULE, np.array([0.0, 10.0]), k=k, h=h)
