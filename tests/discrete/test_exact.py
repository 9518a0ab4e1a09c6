"""Sampling with a perfect network against enumeration of what the plan must give."""

import numpy as np
import pytest

from ddimx.discrete.cells import octrees
from ddimx.discrete.executor import execute, sample_levels
from ddimx.discrete.solvers import make_token_plan
from ddimx.noise import Noise
from ddimx.solvers.schedule import Schedule, betas
from tests.discrete.exact import KIDS, PAIRS, PRIOR, ROOTS, SINGLE, K, Network, sampled_pairs

LINEAR = Schedule(betas("jsd", 0, 0, 1000))
N = 5000


def close(counts, exact):
    """Whether shares of N are those of a multinomial: five standard deviations in every cell."""
    total = counts.sum()
    bound = 5 * np.sqrt(exact * (1 - exact) / total) + 1e-9
    return (np.abs(counts / total - exact) <= bound).all()


def sampled(plan, seed=11):
    """Sample N trees; return how often each root, each pair, and each single child came."""
    levels = sample_levels(execute(plan, Network(LINEAR, plan.transition), range(N), Noise(seed)))
    roots, pairs, single = np.zeros(K), np.zeros((2, K, K)), np.zeros(K)
    for tree in octrees(levels):
        r = ROOTS.index(tree.masks[0][0])
        kids = [KIDS.index(mask) for mask in tree.masks[1]]
        roots[r] += 1
        if r == 2:
            single[kids[0]] += 1
        else:
            pairs[r, kids[0], kids[1]] += 1
    return roots, pairs, single


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"steps": 4},
        {"steps": (3, 4), "eta": 0.6},
        {"steps": (1, 7), "pfdiff": (2, 1)},
        {"steps": 1, "transition": "uniform"},
        {"steps": (2, 5), "transition": "uniform"},
        {"steps": (3, 5), "transition": "uniform", "eta": 1.0},
        {"steps": (1, 7), "transition": "uniform", "pfdiff": (2, 2), "eta": 0.3},
    ],
)
def test_trees_have_the_distribution_that_the_plan_must_give(options):
    plan = make_token_plan(LINEAR, 2, **options)
    roots, pairs, single = sampled(plan)
    assert close(roots, PRIOR)  # one token: every plan is exact
    assert close(single, SINGLE)
    for r in range(2):
        exact = sampled_pairs(plan, PAIRS[r], LINEAR)
        assert exact.sum() == pytest.approx(1, abs=1e-9)
        assert close(pairs[r], exact)


@pytest.mark.parametrize(
    ("transition", "eta"), [("absorbing", 0.0), ("absorbing", 1.0), ("uniform", 1.0)]
)
def test_many_steps_give_the_data(transition, eta):
    """All that is lost comes from drawing two tokens at once, and vanishes with many steps."""

    def variation(steps):
        plan = make_token_plan(LINEAR, 2, steps=(1, steps), transition=transition, eta=eta)
        return np.abs(sampled_pairs(plan, PAIRS[0], LINEAR) - PAIRS[0]).sum() / 2

    assert variation(1) > 0.2
    assert variation(64) < variation(8) / (4 if eta == 0 else 2.5)  # as 1/steps without noise
    assert variation(64) < 0.03


def test_one_absorbing_step_draws_tokens_independently():
    for joint in PAIRS:
        found = sampled_pairs(make_token_plan(LINEAR, 2, steps=1), joint, LINEAR)
        assert np.allclose(found, np.outer(joint.sum(axis=1), joint.sum(axis=0)), atol=1e-12)


def test_absorbing_with_s_steps_reveals_both_at_once_one_time_in_s():
    for steps in (2, 5):
        plan = make_token_plan(LINEAR, 2, steps=(1, steps))
        apart = np.outer(PAIRS[0].sum(axis=1), PAIRS[0].sum(axis=0))
        exact = (1 - 1 / steps) * PAIRS[0] + apart / steps
        assert np.allclose(sampled_pairs(plan, PAIRS[0], LINEAR), exact, atol=1e-9)


def surer_first(joint):
    """Return the pairs when both are drawn, the surer one stays, and the other is drawn anew."""
    left, right = joint.sum(axis=1), joint.sum(axis=0)
    result = np.zeros((K, K))
    for a in range(K):
        for b in range(K):
            if left[a] >= right[b]:  # equal confidences fall to the lower key
                result[a] += left[a] * right[b] * joint[a] / left[a]
            else:
                result[:, b] += left[a] * right[b] * joint[:, b] / right[b]
    return result


def test_confidence_reveals_the_surer_token_first():
    plan = make_token_plan(LINEAR, 2, steps=(1, 2), routing="confidence", spacing="linear")
    assert plan.reveal.tolist() == pytest.approx([1, 0.5, 1], rel=1e-12)
    roots, pairs, single = sampled(plan)
    assert close(roots, PRIOR)
    assert close(single, SINGLE)
    for r in range(2):
        assert close(pairs[r], surer_first(PAIRS[r]))
    # The order matters for what is drawn, or this would be no test of it.
    assert not close(pairs[1], PAIRS[1])


def test_strong_gumbel_noise_makes_the_order_random():
    """With noise far above every difference in confidence, either token is first half the time."""
    plan = make_token_plan(
        LINEAR, 2, steps=(1, 2), routing="confidence", spacing="linear", gumbel=1e5
    )
    _, pairs, _ = sampled(plan)
    for r in range(2):
        assert close(pairs[r], PAIRS[r])
