"""The loop that runs token plans: calls, steps, batches, and what it refuses."""

import numpy as np
import pytest
import torch

from ddimx.discrete.cells import Cells, children, octrees, root
from ddimx.discrete.executor import TokenRaw, execute, sample_levels
from ddimx.discrete.solvers import make_token_plan
from ddimx.errors import DdimxError, UsageError
from ddimx.noise import Noise
from ddimx.solvers.schedule import Schedule, betas

LINEAR = Schedule(betas("jsd", 0, 0, 1000))
WEIGHTS = torch.randn(64, 256, generator=torch.Generator().manual_seed(4))
PLANS = {
    "absorbing": {},
    "absorbing, eta": {"eta": 0.7, "temperature": (1.0, 0.3)},
    "uniform": {"transition": "uniform", "eta": 0.5},
    "uniform, pfdiff": {"transition": "uniform", "pfdiff": (2, 2)},
    "confidence": {"routing": "confidence", "gumbel": 1.0},
    "confidence, remasking": {"routing": "confidence", "eta": 0.4, "pfdiff": (1, 1)},
    "uniform, confidence": {"transition": "uniform", "routing": "confidence", "eta": 0.4},
}

BY_ENTROPY = {
    "entropy": {"routing": "entropy", "entropy_bound": 9.0, "temperature": (0.8, 0.4)},
    "uniform, entropy": {"transition": "uniform", "routing": "entropy", "redraw": 1},
}


def mixing(cells, ids, t, coarser):
    """A network in which every token depends on its own sample's tokens and levels above."""
    total = torch.zeros(len(cells.counts), dtype=torch.int64)
    total.index_add_(0, cells.sample, ids.long() * (1 + cells.keys % 5))
    for level in coarser:
        total.index_add_(0, level.cells.sample, level.ids.long())
    state = (total[cells.sample] * 7 + cells.keys * 3 + ids.long() + int(t) + cells.level) % 64
    return TokenRaw(WEIGHTS[state], WEIGHTS[(state + 1) % 64])


def trees(plan, samples, **options):
    steps = execute(plan, mixing, samples, Noise(2**63 + 9), guidance=1.5, **options)
    return octrees(sample_levels(steps))


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.masks, other.masks, strict=True))


@pytest.mark.parametrize("name", [*PLANS, *BY_ENTROPY])
def test_a_sample_is_the_same_alone_and_in_any_batch(name):
    plan = make_token_plan(LINEAR, 3, steps=5, **(PLANS | BY_ENTROPY)[name])
    whole = trees(plan, [3, 0, 2**32 - 1, 8, 5])
    assert not same(whole[0], whole[1])
    for index, tree in zip((8, 2**32 - 1), (whole[3], whole[2]), strict=True):
        assert same(trees(plan, [index])[0], tree)
    pair = trees(plan, torch.tensor([5, 3]), want_x0=False)
    assert same(pair[0], whole[4])
    assert same(pair[1], whole[0])


@pytest.mark.parametrize("name", PLANS)
def test_steps_are_the_plans_rows(name):
    plan = make_token_plan(LINEAR, 3, steps=4, **PLANS[name])
    calls = []

    def counted(cells, ids, t, coarser):
        calls.append((cells.level, t, len(coarser)))
        assert ids.dtype == torch.uint8
        return mixing(cells, ids, t, coarser)

    steps = list(execute(plan, counted, range(3), Noise(1)))
    assert [step.row for step in steps] == list(range(len(plan)))
    assert [step.t for step in steps] == plan.t.tolist()
    assert [step.t_to for step in steps] == plan.t_to.tolist()
    assert [step.called for step in steps] == plan.calls.tolist()
    asked = np.flatnonzero(plan.calls)
    assert calls == [(plan.level[i], plan.t[i], plan.level[i]) for i in asked]
    assert len(calls) == plan.nfe
    for step in steps:
        assert (step.level, step.cells.level) == (plan.level[step.row],) * 2
        assert step.finished == (step.row + 1 in (1, 1 + 4, 1 + 4 + 4))
        assert len(step.levels) == step.level + step.finished
        assert (step.x0 > 0).all()
        assert (step.ids > 0).all() or (plan.transition == "absorbing" and not step.finished)
        assert step.confidence.shape == step.ids.shape == (len(step.cells),)


def test_levels_follow_from_each_other():
    plan = make_token_plan(LINEAR, 3, steps=2)
    levels = sample_levels(execute(plan, mixing, range(4), Noise(1)))
    assert torch.equal(levels[0].cells.keys, root(4).keys)
    for above, below in ((0, 1), (1, 2)):
        expected: Cells = children(levels[above])
        assert torch.equal(levels[below].cells.keys, expected.keys)
        assert torch.equal(levels[below].cells.offsets, expected.offsets)


def test_rows_that_reuse_logits_use_those_of_the_last_call():
    """A network that would say something else every time is asked once a group."""
    answers = iter(range(1, 100))

    def other_each_time(cells, ids, t, coarser):
        logits = torch.full((len(ids), 256), -50.0)
        logits[:, next(answers)] = 50.0
        return TokenRaw(logits)

    plan = make_token_plan(
        LINEAR, 1, steps=(7,), transition="uniform", routing="confidence", pfdiff=(2, 1)
    )
    drawn = [int(step.x0[0]) for step in execute(plan, other_each_time, [0], Noise(1))]
    assert drawn == [1, 1, 2, 2, 2, 3, 3]


def test_confidence_routing_reveals_the_plans_share_of_each_sample():
    plan = make_token_plan(LINEAR, 3, steps=(1, 1, 6), routing="confidence", gumbel=2.0)
    for step in execute(plan, mixing, range(5), Noise(1)):
        if step.level == 2:
            clean = torch.zeros(5).index_add_(0, step.cells.sample, (step.ids != 0).float())
            wanted = torch.ceil(plan.reveal[step.row] * step.cells.counts - 1e-6)
            assert torch.equal(clean, wanted.float())


def test_entropy_routing_settles_by_the_bound_and_then_asks_no_more():
    """Tokens that are sure settle in the first row; one of two even ids has ln 2 nats."""

    def certain(cells, ids, t, coarser):
        logits = torch.full((len(ids), 256), -torch.inf)
        logits[:, 255] = 0.0
        if cells.level == 2:
            logits[cells.keys % 8 >= 4, 254] = 0.0  # half of the 64 cells of a level
        return TokenRaw(logits)

    shares = {}
    for bound in (0.0, 2.0, 100.0):  # of ln 2 = 0.69 nats each: none before, two, all
        plan = make_token_plan(LINEAR, 3, steps=(1, 3, 3), routing="entropy", entropy_bound=bound)
        steps = list(execute(plan, certain, range(2), Noise(1)))
        assert [step.called for step in steps if step.level == 1] == [True, False, False]
        own = [step for step in steps if step.level == 2]
        shares[bound] = [int((step.ids != 0).sum()) // 2 for step in own]
        assert own[1].called == (bound < 100)
    assert shares == {0.0: [33, 34, 64], 2.0: [35, 38, 64], 100.0: [64, 64, 64]}


def test_absorbing_without_eta_never_changes_a_clean_token():
    for routing in ("random", "confidence"):
        plan = make_token_plan(LINEAR, 2, steps=(1, 8), routing=routing)
        before = None
        for step in execute(plan, mixing, range(20), Noise(1)):
            if step.level == 1:
                if before is not None:
                    assert (step.ids[before != 0] == before[before != 0]).all()
                before = step.ids


def test_noise_at_the_start_does_not_depend_on_the_number_of_steps():
    seen = []

    def first(cells, ids, t, coarser):
        seen.append(ids.clone())
        return mixing(cells, ids, t, coarser)

    for steps in (2, 5):
        plan = make_token_plan(LINEAR, 1, steps=(steps,), transition="uniform")
        next(execute(plan, first, range(1000), Noise(1)))
    assert torch.equal(seen[0], seen[1])
    assert len(seen[0].unique()) > 200
    assert seen[0].min() >= 1


def test_guidance_is_off_at_1_and_changes_the_draws_elsewhere():
    plan = make_token_plan(LINEAR, 2, steps=2)

    def without(*arguments):
        return TokenRaw(mixing(*arguments).logits)

    def tree_of(network, **options):
        return octrees(sample_levels(execute(plan, network, [1], Noise(1), **options)))[0]

    assert same(tree_of(mixing), tree_of(without))
    assert not same(tree_of(mixing, guidance=3.0), tree_of(without, guidance=3.0))


@pytest.mark.parametrize("name", PLANS)
def test_logits_that_are_not_numbers_stop_the_run(name):
    plan = make_token_plan(LINEAR, 2, steps=3, **PLANS[name])

    def broken(cells, ids, t, coarser):
        raw = mixing(cells, ids, t, coarser)
        return TokenRaw(torch.where(cells.sample[:, None] == 1, torch.nan, raw.logits))

    with pytest.raises(DdimxError, match="level 0: the network gave 1 of 3 tokens no id"):
        list(execute(plan, broken, range(3), Noise(1)))


def test_broken_logits_of_the_last_level_are_noticed_too():
    plan = make_token_plan(LINEAR, 1)
    bad = lambda cells, *_: TokenRaw(torch.full((len(cells), 256), torch.nan))  # noqa: E731
    with pytest.raises(DdimxError, match="level 0"):
        list(execute(plan, bad, [0], Noise(1)))


def test_no_samples_and_wrong_logits_are_refused():
    plan = make_token_plan(LINEAR, 1)
    with pytest.raises(UsageError, match="at least one"):
        list(execute(plan, mixing, [], Noise(1)))
    wrong = lambda cells, *_: TokenRaw(torch.zeros(len(cells), 255))  # noqa: E731
    with pytest.raises(ValueError, match="logits are"):
        list(execute(plan, wrong, [0], Noise(1)))
