"""The discrete process in training: what is corrupted, what counts, and which draws decide."""

import numpy as np
import pytest
import torch
from torch import nn

from ddimx.config_file import load_config, override
from ddimx.data.shapes.batches import packed
from ddimx.errors import DdimxError, UsageError
from ddimx.models.gaussian import GaussianProcess
from ddimx.models.octree.process import DiscreteProcess
from ddimx.models.octree.sampler import clean_logits
from ddimx.models.octree.tokens import MASK, Layout
from ddimx.models.process import Draws, Given
from ddimx.noise import Noise
from ddimx.octree.tree import Octree
from ddimx.options import Options
from ddimx.solvers.executor import Known
from ddimx.solvers.schedule import Schedule

from .small import DEPTH, network, octree_config, tokens_of, tree, trees

T = 50


def process_of(**given):
    config = octree_config(diffusion=given.pop("diffusion", {}), training=given)
    return DiscreteProcess.from_config(config)


def draws(positions, step=3, batch_size=None):
    positions = torch.as_tensor(positions)
    return Draws(Noise(7), positions, step, batch_size or len(positions))


def batch_of(shapes, labels=None):
    label = torch.zeros(len(shapes), dtype=torch.int64) if labels is None else labels
    return packed(shapes) | {"label": label}


class Spy(nn.Module):
    """A network that remembers what it was shown and answers with given logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, noised, clean, condition):
        self.noised, self.clean, self.condition = noised, clean, condition
        return self.logits


def spied(process, shapes, logits=None, at=None, labels=None):
    count = sum(len(m) for shape in shapes for m in shape.masks)
    spy = Spy(torch.zeros(count, 256) if logits is None else logits)
    loss = process.loss(spy, batch_of(shapes, labels), at or draws(range(len(shapes))))
    return loss, spy


def test_what_training_shows_is_drawn_once_whatever_the_models_default():
    process = DiscreteProcess.from_config(load_config("furniture"))
    assert process.plan(Options()).redraw == 4
    assert process.plan(process.preview).redraw == 0


# --- the schedule -------------------------------------------------------------------------------


def test_a_schedule_that_leaves_tokens_clean_is_rescaled_until_it_leaves_none():
    seed = {
        "beta_schedule": "sigmoid",
        "beta_start": 0.0001,
        "beta_end": 0.01,
        "num_diffusion_timesteps": 200,
    }
    config = octree_config(diffusion=seed)
    given = Schedule.from_config(config.diffusion)
    # The sigmoid of -6..6 has the mean 1/2, so that log alpha_T is about -200 times 0.00505.
    assert given.alpha_bars[-1] == pytest.approx(np.exp(-200 * 0.00505), rel=5e-3)
    made = DiscreteProcess.from_config(config).schedule
    assert made.alpha_bars[-1] == 0.0
    assert (np.diff(made.alpha_bars) < 0).all()
    assert made.num_timesteps == 200
    # arXiv 2305.08891, algorithm 1: sqrt(alpha_bar) shifted and scaled, its first value kept.
    root = np.sqrt(given.alpha_bars[1:])
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert np.abs(made.alpha_bars[1:] - expected**2).max() < 1e-12


def test_a_schedule_that_ends_in_noise_is_taken_as_it_is():
    made = process_of().schedule
    assert np.array_equal(
        made.alpha_bars, Schedule.from_config(octree_config().diffusion).alpha_bars
    )
    assert np.abs(made.alpha_bars - (1 - np.arange(T + 1) / T)).max() < 1e-12  # linear


# --- the loss -----------------------------------------------------------------------------------


def test_masked_noise_counts_masked_tokens_over_the_number_expected_by_hand():
    shapes = [tree(1, 40), tree(2, 5)]
    count = sum(len(m) for shape in shapes for m in shape.masks)
    logits = torch.randn(count, 256, generator=torch.Generator().manual_seed(0))
    process = process_of()
    loss, spy = spied(process, shapes, logits)
    nats = -torch.log_softmax(logits[:, 1:].double(), dim=1)  # column 0 is out of the question
    start, expected = 0, []
    for i, shape in enumerate(shapes):
        terms, weights = [], []
        for level, masks in enumerate(shape.masks):
            t = int(spy.noised.t[i, level])
            assert 0 <= t < T
            share = (t + 1) / T  # of jsd's alpha_bar: 1 - alpha_bar at the t-th time
            total = 0.0
            for j, mask in enumerate(masks):
                hidden = spy.noised.ids[start + j] == MASK
                assert hidden or spy.noised.ids[start + j] == mask
                total += float(nats[start + j, mask - 1]) if hidden else 0.0
            start += len(masks)
            terms.append(total / max(1.0, len(masks) * share))
            weights.append(len(masks) ** 0.5)
        expected.append(np.dot(terms, weights) / np.sum(weights))
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)
    assert (spy.noised.ids == MASK).any()
    assert (spy.noised.ids != MASK).any()


def test_uniform_noise_counts_every_token():
    shapes = [tree(1, 40), tree(2, 5)]
    loss, spy = spied(process_of(diffusion={"transitions": ["uniform"]}), shapes)
    assert (spy.noised.ids != MASK).all()
    assert spy.condition.transition.tolist() == [1, 1]
    assert loss.tolist() == pytest.approx([np.log(255)] * 2)


def test_over_times_masked_noise_weighs_every_level_and_time_alike():
    """With logits that know nothing the mean loss is log 255, but for tokens hidden at no time."""
    shape = tree(9, 400)
    process = process_of()
    found = []
    for step in range(60):
        loss, _ = spied(process, [shape] * 8, at=draws(range(8), step))
        found += loss.tolist()
    # The root counts for share and not 1, as its expected number is below 1: half of its weight.
    sizes = np.array([len(m) for m in shape.masks], dtype=float)
    weights = np.sqrt(sizes) / np.sqrt(sizes).sum()
    expected = np.log(255) * (1 - weights[0] * (0.5 - 0.5 / T))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 4 * error
    assert error < 0.05


def test_the_loss_is_finite_and_reaches_every_weight():
    net = network(classes=2).requires_grad_(True)
    loss = process_of().loss(net, batch_of(trees()), draws(range(3)))
    assert loss.shape == (3,)
    assert loss.isfinite().all()
    loss.sum().backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_what_is_shown_clean_is_all_but_the_finest_level():
    shapes = trees()
    _, spy = spied(process_of(), shapes)
    expected = tokens_of([shape.coarser(DEPTH - 1) for shape in shapes])
    assert torch.equal(spy.clean.ids, expected.ids)
    assert torch.equal(spy.clean.layout.keys, expected.layout.keys)
    assert np.array_equal(spy.clean.layout.counts, expected.layout.counts)
    assert spy.clean.t is None


# --- parent corruption ----------------------------------------------------------------------------


def test_parents_are_misread_at_the_rate_asked_for_by_one_bit_and_never_to_none():
    rate, shapes = 0.25, [tree(i, 400) for i in range(8)]
    process = process_of(parent_corruption=rate)
    expected = tokens_of([shape.coarser(DEPTH - 1) for shape in shapes]).ids
    flips, ones = [], []
    for step in range(20):
        _, spy = spied(process, shapes, at=draws(range(8), step))
        shown = spy.clean.ids
        assert (shown != MASK).all()
        bits = (shown ^ expected)[:, None] >> torch.arange(8) & 1
        assert (bits.sum(1) <= 1).all()
        single = (expected & (expected - 1)) == 0  # with one bit a flip may leave none
        flips.append(bits[~single])
        ones.append(bits[single])
    flips, ones = torch.cat(flips), torch.cat(ones)
    n = len(flips)
    assert abs(flips.sum() / n - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    # Every bit alike, and of eight flips of a single bit seven are done.
    each = flips.sum(0) / n
    assert (abs(each - rate / 8) < 4 * (rate / 8 / n) ** 0.5).all()
    if len(ones):
        n = len(ones)
        assert abs(ones.sum() / n - rate * 7 / 8) < 4 * (rate / n) ** 0.5


def test_single_bits_stay_where_a_flip_would_leave_none():
    chain = Octree((np.array([1], np.uint8),) * 6)
    process = process_of(parent_corruption=0.999)
    process = DiscreteProcess(process.schedule, 6, parent_corruption=0.999)
    kept = 0
    for step in range(50):
        _, spy = spied(process, [chain], at=draws([0], step))
        assert (spy.clean.ids != MASK).all()
        kept += int((spy.clean.ids == 1).sum())
    # 250 tokens, each keeps its 1 with chance 1/8 (it is to lose it) + 0.001.
    assert abs(kept - 250 / 8) < 4 * (250 * 7 / 64) ** 0.5


def test_the_noised_stream_is_made_from_the_true_tokens():
    shapes = trees()
    misread = process_of(parent_corruption=0.9)
    (_, a), (_, b) = (spied(p, shapes) for p in (misread, process_of()))
    assert torch.equal(a.noised.ids, b.noised.ids)
    assert not torch.equal(a.clean.ids, b.clean.ids)


# --- drawn parents --------------------------------------------------------------------------------


class Stub(nn.Module):
    """A network that is sure of one id for every token, and keeps every call's arguments."""

    def __init__(self, drawn):
        super().__init__()
        self.drawn, self.calls = drawn, []

    def forward(self, noised, clean, condition):
        self.calls.append((noised, clean, condition, self.training, torch.is_grad_enabled()))
        logits = torch.zeros(len(noised.ids), 256)
        logits[:, self.drawn] = 100.0
        return logits


def with_stub(process, shapes, positions, labels=None, drawn=77):
    stub = Stub(drawn)
    loss = process.loss(stub, batch_of(shapes, labels), draws(positions))
    return loss, stub


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
def test_drawn_parents_are_the_networks_at_noised_places_and_true_elsewhere(transition):
    shapes, labels = [tree(1, 40), tree(2, 300), tree(3, 5)], torch.tensor([1, 0, 1])
    process = process_of(parent_drawing=1.0, diffusion={"transitions": [transition]})
    loss, stub = with_stub(process, shapes, range(3), labels)
    (asked, before, told, dropout, grad), (noised, clean, condition, trains, learns) = stub.calls
    assert (dropout, grad, trains, learns) == (False, False, True, True)
    # The pass that draws is given the levels that have finer ones, with the true ones above.
    assert torch.equal(asked.ids, noised.ids[noised.layout.level < DEPTH - 1])
    assert torch.equal(asked.t, noised.t[:, : DEPTH - 1])
    assert torch.equal(before.ids, tokens_of([s.coarser(DEPTH - 2) for s in shapes]).ids)
    assert torch.equal(told.label, condition.label)
    true = tokens_of([s.coarser(DEPTH - 1) for s in shapes])
    assert torch.equal(clean.layout.keys, true.layout.keys)
    hidden = asked.ids != true.ids
    assert 0 < hidden.sum() < len(hidden)
    assert torch.equal(clean.ids, torch.where(hidden, 77, true.ids))
    # Noise and targets are those of a run without drawing.
    plain = process_of(diffusion={"transitions": [transition]})
    expected, other = with_stub(plain, shapes, range(3), labels)
    assert len(other.calls) == 1
    assert torch.equal(other.calls[0][0].ids, noised.ids)
    assert torch.equal(loss, expected)  # the stub does not look at its parents


def test_parents_are_drawn_for_a_share_of_the_shapes_whatever_the_batch():
    shapes = [tree(seed, 30) for seed in range(200)]
    process = process_of(parent_drawing=0.3)
    _, stub = with_stub(process, shapes, range(200))
    share = stub.calls[0][0].layout.batch / 200
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 200) ** 0.5
    shown = []
    for a, b in [(0, 1), (1, 70), (70, 200)]:
        parts = draws(range(a, b), batch_size=200)
        part = Stub(77)
        process.loss(part, batch_of(shapes[a:b]), parts)
        shown.append(part.calls[-1][1].ids)
    assert torch.equal(torch.cat(shown), stub.calls[-1][1].ids)


def test_the_ids_of_drawn_parents_follow_the_networks_probabilities():
    class Fair(Stub):
        def forward(self, noised, clean, condition):
            super().forward(noised, clean, condition)
            logits = torch.full((len(noised.ids), 256), -torch.inf)
            logits[:, 10], logits[:, 20] = np.log(3.0), 0.0
            return logits

    stub, shapes = Fair(0), [tree(seed, 400) for seed in range(16)]
    process_of(parent_drawing=1.0).loss(stub, batch_of(shapes), draws(range(16)))
    hidden = stub.calls[0][0].ids == MASK
    drawn = stub.calls[1][1].ids[hidden]
    assert set(drawn.tolist()) == {10, 20}
    assert abs((drawn == 10).double().mean() - 0.75) < 4 * (0.75 * 0.25 / len(drawn)) ** 0.5


def test_held_out_losses_are_measured_without_drawn_parents():
    stub = Stub(77).eval()
    process_of(parent_drawing=1.0).loss(stub, batch_of(trees()), draws(range(3)))
    assert [call[3] for call in stub.calls] == [False]
    assert not stub.training


def test_autocast_keeps_every_gradient_beside_a_pass_without():
    net = network(classes=2).requires_grad_(True).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = process_of(parent_drawing=1.0).loss(net, batch_of(trees()), draws(range(3)))
    loss.sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("depth", [1, 2])
def test_shallow_trees_can_be_trained_on_drawn_parents(depth):
    process = DiscreteProcess(process_of().schedule, depth, parent_drawing=1.0)
    stub = Stub(77)
    process.loss(stub, batch_of([tree(1, 5, depth)]), draws([0]))
    assert len(stub.calls) == depth


# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 7])
def test_halves_of_a_batch_have_mirrored_times(size):
    process = process_of()
    t = process._times(draws(range(3 * size, 4 * size), step=5, batch_size=size))
    assert t.shape == (size, DEPTH)
    half = (size + 1) // 2
    assert torch.equal(t[half:], T - 1 - t[: size - half])
    assert len(t[:half].unique(dim=0)) == half
    # Every level has a time of its own.
    assert (t[:, 0] != t[:, 1]).any()
    free = process_of(antithetic=False)._times(draws(range(3 * size, 4 * size), 5, size))
    assert torch.equal(free[:half], t[:half])
    assert not torch.equal(free[half:], t[half:])


def test_times_cover_all_steps_evenly():
    process = process_of()
    t = torch.cat([process._times(draws(range(64), step)) for step in range(50)]).flatten()
    counts = torch.bincount(t, minlength=T).double()
    assert len(counts) == T
    expected = len(t) / T
    # Antithetic pairs halve the number of independent draws.
    assert ((counts - expected) ** 2 / expected).sum() / 2 < T + 4 * (2 * T) ** 0.5


def test_each_example_draws_its_kind_of_noise():
    both = process_of(diffusion={"transitions": ["uniform", "absorbing"]})
    shapes = [tree(1, 30)] * 64
    _, spy = spied(both, shapes)
    kinds = spy.condition.transition
    assert abs(kinds.float().mean() - 0.5) < 4 * 0.5 / 64**0.5
    masked = spy.noised.ids == MASK
    of = kinds[spy.noised.layout.shape]
    assert masked[of == 0].any()
    assert not masked[of == 1].any()
    wrong = (spy.noised.ids != tokens_of(shapes).ids) & ~masked
    assert wrong[of == 1].any()
    assert not wrong[of == 0].any()
    _, again = spied(both, shapes, at=draws(range(64), step=4))
    assert not torch.equal(again.condition.transition, kinds)


def test_classes_are_dropped_at_the_rate_asked_for():
    labels = torch.arange(400) % 2
    shapes = [tree(1, 1)] * 400
    _, spy = spied(process_of(class_dropout=0.25), shapes, labels=labels)
    dropped = spy.condition.label == 2
    assert abs(dropped.float().mean() - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5
    assert torch.equal(spy.condition.label[~dropped], labels[~dropped])


def test_a_model_without_classes_is_told_none():
    process = DiscreteProcess(Schedule(np.linspace(0.01, 0.999, T)), DEPTH)
    assert process.num_classes == 0
    _, spy = spied(process, [tree(1, 3), tree(2, 5)], labels=torch.tensor([0, 1]))
    assert spy.condition.label is None


def test_an_examples_loss_does_not_depend_on_how_the_batch_is_split():
    net = network(classes=2).train()  # parents are drawn in training alone
    process = process_of(
        parent_corruption=0.2,
        parent_drawing=0.5,
        class_dropout=0.3,
        diffusion={"transitions": ["absorbing", "uniform"]},
    )
    shapes = [*trees(), tree(8, 30)]
    labels = torch.tensor([0, 1, 1, 0])
    whole = process.loss(net, batch_of(shapes, labels), draws(range(8, 12)))
    parts = [
        process.loss(net, batch_of(shapes[a:b], labels[a:b]), draws(range(8 + a, 8 + b), 3, 4))
        for a, b in [(0, 1), (1, 3), (3, 4)]
    ]
    # Equal draws; the products of other shapes differ in their last bits.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)
    other = process.loss(net, batch_of(shapes, labels), draws(range(8, 12), step=4))
    assert (abs(other - whole) > 1e-3).all()


def test_a_tokens_noise_depends_on_its_cell_and_not_on_the_others():
    """The same cell of a larger shape at the same time is corrupted alike."""
    small, large = tree(1, 10), tree(2, 400)
    process = process_of()
    seen = []
    for shape in (small, large):
        layout = Layout.of(packed([shape])["keys"], np.array([shape.counts[:-1]]))
        alpha = torch.full((1, DEPTH), 0.5)
        kinds = torch.zeros(1, dtype=torch.int64)
        ids = process._corrupted(packed([shape])["ids"], layout, alpha, kinds, draws([5]))
        cells = zip(layout.level.tolist(), layout.keys.tolist(), strict=True)
        seen.append(dict(zip(cells, (ids == MASK).tolist(), strict=True)))
    common = [cell for cell in seen[0] if cell in seen[1]]
    assert len(common) > 5
    assert all(seen[0][cell] == seen[1][cell] for cell in common)
    assert len({seen[0][cell] for cell in common}) == 2


# --- what a network may return --------------------------------------------------------------------


def test_logits_alone_or_with_a_score_and_column_0_is_never_drawn():
    logits = torch.zeros(5, 256)
    for out in (logits, (logits, torch.ones(3))):
        found = clean_logits(out, 5)
        assert (found[:, 0] == -torch.inf).all()
        assert (found[:, 1:] == 0).all()
    assert (logits == 0).all()  # the network's own tensor is not written to


@pytest.mark.parametrize(
    ("out", "got"),
    [
        (torch.zeros(5, 255), r"got \(5, 255\)"),
        (torch.zeros(4, 256), r"got \(4, 256\)"),
        (torch.zeros(1, 5, 256), r"got \(1, 5, 256\)"),
        ([torch.zeros(5, 256)], "got list"),
        (None, "got NoneType"),
        ((None, torch.zeros(5, 256)), "got NoneType"),
        ((), "got tuple"),
        (torch.zeros(5, 256, dtype=torch.int64), "got int64"),
    ],
)
def test_another_answer_is_one_clear_error(out, got):
    with pytest.raises(DdimxError, match=rf"must return logits \[5, 256\] or .*{got}"):
        clean_logits(out, 5)


# --- what it is not for ---------------------------------------------------------------------------


def test_nothing_can_be_given():
    process = process_of()
    plan = process.plan(Options(steps=1))
    known = Known(torch.zeros(1), torch.zeros(1))
    for given in (Given(start=torch.zeros(1)), Given(known=known)):
        with pytest.raises(UsageError, match="takes no start and no known part"):
            process.run(nn.Identity(), plan, torch.arange(1), Noise(0), given=given)


def test_work_for_octrees_names_what_the_model_draws():
    process = process_of()
    assert DiscreteProcess.of(process, "this") is process
    images = GaussianProcess(process.schedule, "epsilon", (3, 8, 8))
    with pytest.raises(UsageError, match="this needs a model of octrees, and this one draws image"):
        DiscreteProcess.of(images, "this")


def test_a_depth_is_needed():
    config = override(octree_config(), ["model.name=other:Class", "data.max_depth=null"])
    with pytest.raises(UsageError, match=r"needs data\.max_depth"):
        DiscreteProcess.from_config(config)
