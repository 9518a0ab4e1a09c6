"""Drawing octrees: with and without a cache, alone and in company, counted calls."""

import numpy as np
import pytest
import torch
from torch import nn

from ddimx.discrete.cells import levels_of, octrees
from ddimx.discrete.executor import execute, sample_levels
from ddimx.discrete.solvers import make_token_plan
from ddimx.errors import DdimxError, UsageError
from ddimx.models.octree.plans import TRANSITIONS
from ddimx.models.octree.process import DiscreteProcess
from ddimx.models.octree.sampler import TokenDenoiser, joined
from ddimx.noise import Noise
from ddimx.octree.tree import from_tokens

from .small import DEPTH, network, octree_config, tokens_of, trees

CLOSE = {"rtol": 0.0, "atol": 1e-5}  # sums in another order; see test_network


def process_of(classes=("a", "b", "c"), depth=DEPTH):
    model = {"classes": list(classes)}
    return DiscreteProcess.from_config(octree_config(model=model, data={"max_depth": depth}))


def plan_of(process, **given):
    return make_token_plan(process.schedule, process.depth, **({"steps": 2} | given))


def drawn(net, process, samples, *, labels=None, plan=None, seed=0, **given):
    index = torch.tensor(samples)
    labels = index % 3 if labels is None else labels
    steps = process.run(net, plan or plan_of(process), index, Noise(seed), labels=labels, **given)
    return octrees(sample_levels(steps))


def drawn_without_cache(net, samples, plan):
    """The same as ``drawn``, with the finished levels encoded anew at each call."""
    index = torch.tensor(samples)
    kind = torch.full_like(index, TRANSITIONS.index(plan.transition))
    ask = TokenDenoiser(net, transition=kind, labels=index % 3, cached=False)
    return octrees(sample_levels(execute(plan, ask, index, Noise(0))))


def same(a, b):
    return a.depth == b.depth and all(
        np.array_equal(x, y) for x, y in zip(a.masks, b.masks, strict=True)
    )


class Recorder(nn.Module):
    """A network that passes on and keeps the logits it gave."""

    def __init__(self, net):
        super().__init__()
        self.net, self.outs = net, []
        self.encode = net.encode

    def forward(self, *arguments):
        out = self.net(*arguments)
        self.outs.append(out)
        return out


# --- the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("window", [4, 128])
def test_cached_and_uncached_logits_agree(window, guidance):
    net, levels = network(window=window), levels_of(trees())
    logits = {}
    for cached in (True, False):
        denoiser = TokenDenoiser(
            net,
            transition=torch.zeros(3, dtype=torch.int64),
            labels=torch.tensor([0, 1, 2]),
            null_label=3,
            guidance=guidance,
            cached=cached,
        )
        logits[cached] = [
            denoiser(level.cells, level.ids, t, tuple(levels[:d]))
            for d, level in enumerate(levels)
            for t in (40.0, 7.0)
        ]
    for a, b in zip(logits[True], logits[False], strict=True):
        torch.testing.assert_close(a.logits, b.logits, **CLOSE)
        assert (a.uncond is None) == (b.uncond is None) == (guidance == 1.0)
        if guidance != 1.0:
            torch.testing.assert_close(a.uncond, b.uncond, **CLOSE)
            assert not torch.equal(a.uncond, a.logits)


def test_every_finished_level_is_encoded_once():
    net = network()
    seen, encode = [], net.encode

    def counted(clean, condition, cache):
        seen.append((list(clean.layout.levels), None if cache is None else cache.counts.shape[1]))
        return encode(clean, condition, cache)

    net.encode = counted
    process = process_of()
    drawn(net, process, [0, 1], plan=plan_of(process, steps=4))
    assert seen == [([0], None), ([1], 1)]  # the finest is for nobody


def test_the_network_is_given_the_time_and_what_is_finished():
    process = process_of()
    plan = plan_of(process, steps=3)
    recorded = []
    net = network()
    net.register_forward_pre_hook(lambda _, a: recorded.append((a[0], a[2], a[3])))
    index = torch.tensor([4, 5])
    steps = list(process.run(net, plan, index, Noise(0), labels=torch.tensor([2, 0])))
    assert len(recorded) == plan.nfe == len(steps) == 7  # 1 + 3 + 3
    for (noised, condition, cache), step in zip(recorded, steps, strict=True):
        assert noised.t.tolist() == [[pytest.approx(step.t)]] * 2
        assert noised.layout.first == step.level
        assert condition.label.tolist() == [2, 0]
        assert condition.transition.tolist() == [0, 0]
        assert (cache is None) == (step.level == 0)
        assert cache is None or cache.counts.shape == (2, step.level)


def test_the_network_is_told_the_kind_of_noise():
    process, net, seen = process_of(), network(), []
    net.register_forward_pre_hook(lambda _, a: seen.append(a[2].transition.tolist()))
    for transition in ("absorbing", "uniform"):
        drawn(net, process, [0, 1], plan=plan_of(process, transition=transition, steps=1))
    assert seen == [[0, 0]] * 3 + [[1, 1]] * 3


def test_joined_levels_are_sorted_by_shape_and_level():
    expected, found = tokens_of(trees()), joined(levels_of(trees()))
    assert torch.equal(found.ids, expected.ids)
    assert np.array_equal(found.layout.counts, expected.layout.counts)
    for name in ("keys", "level", "shape", "row"):
        assert torch.equal(getattr(found.layout, name), getattr(expected.layout, name)), name


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
@pytest.mark.parametrize("routing", ["random", "confidence"])
def test_samples_are_valid_and_the_same_alone_in_company_and_without_a_cache(transition, routing):
    net, process = network(), process_of()
    plan = plan_of(process, transition=transition, routing=routing, eta=0.3)
    together = drawn(net, process, [3, 4, 9], plan=plan)
    assert len({len(tree.leaves) for tree in together}) > 1
    for tree in together:
        assert same(from_tokens(tree.tokens(), DEPTH), tree)  # raises where it is not an octree
    # Logits agree to 1e-5, not bitwise; a draw that is so near an edge is not among these.
    for index, tree in zip([3, 4, 9], together, strict=True):
        (alone,) = drawn(net, process, [index], plan=plan)
        assert same(alone, tree)
    for a, b in zip(drawn_without_cache(net, [3, 4, 9], plan), together, strict=True):
        assert same(a, b)
    other = drawn(net, process, [3], plan=plan, seed=1)
    assert not same(other[0], together[0])


def test_guidance_calls_twice_and_moves_the_draw():
    net, process = network(), process_of()
    recorder = Recorder(net)
    plan = plan_of(process)
    plain = drawn(recorder, process, [1, 2])
    assert len(recorder.outs) == plan.nfe
    recorder.outs.clear()
    guided = drawn(recorder, process, [1, 2], guidance=4.0)
    assert len(recorder.outs) == 2 * plan.nfe
    assert not same(plain[0], guided[0])
    # Towards no class there is nothing to be guided: both predictions are the same.
    null = torch.full((2,), 3)
    assert same(
        drawn(net, process, [1, 2], labels=null, guidance=4.0)[0],
        drawn(net, process, [1, 2], labels=null)[0],
    )


@pytest.mark.parametrize("kh", [(1, 1), (2, 1)])
def test_pfdiff_calls_the_network_as_often_as_its_plan_says(kh):
    net, process = network(), process_of()
    plan = plan_of(process, steps=6, pfdiff=kh)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    drawn(net, process, [0, 1, 2], plan=plan)
    k, _ = kh
    assert len(calls) == plan.nfe == 1 + 2 * (1 + -(-5 // (k + 1)))
    assert plan.nfe < len(plan)


class Peaked(nn.Module):
    """A network without ``encode`` that is sure of one mask per level."""

    def __init__(self, masks, pair):
        super().__init__()
        self.masks, self.pair, self.seen = masks, pair, []

    def forward(self, noised, clean, condition):
        self.seen.append(clean)
        logits = torch.full((len(noised.layout), 256), -50.0)
        logits[torch.arange(len(logits)), torch.tensor(self.masks)[noised.layout.level]] = 50.0
        logits[:, 0] = 1000.0  # whatever a network says of it, 0 is no token
        return (logits, torch.zeros(3)) if self.pair else logits


@pytest.mark.parametrize("pair", [False, True])
def test_a_network_without_encode_is_given_all_finished_levels(pair):
    net, process = Peaked([0b10000001, 3, 255], pair), process_of(classes=())
    index = torch.tensor([0, 1])
    levels = sample_levels(process.run(net, plan_of(process), index, Noise(0)))
    for tree in octrees(levels):
        assert [set(m.tolist()) for m in tree.masks] == [{0b10000001}, {3}, {255}]
        assert tree.counts == (1, 2, 4, 32)
    assert net.seen[0] is None
    assert [list(c.layout.levels) for c in net.seen[1:]] == [[0], [0], [0, 1], [0, 1]]
    assert torch.equal(net.seen[-1].ids, joined(levels[:2]).ids)


# --- refusals -------------------------------------------------------------------------------------


def test_guidance_needs_classes():
    for given in ({}, {"labels": torch.zeros(1, dtype=torch.int64)}):
        with pytest.raises(UsageError, match="guidance needs a class-conditional model"):
            TokenDenoiser(network(), transition=torch.zeros(1), guidance=2.0, **given)


def test_logits_that_are_nan_are_an_error_and_no_tree():
    net = network()
    net.head.bias.fill_(float("nan"))
    with pytest.raises(DdimxError, match="logits are NaN or infinite"):
        drawn(net, process_of(), [0])
