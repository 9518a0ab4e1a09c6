"""The network: what must not leak, and that a cache changes nothing.

Attention within a level is computed with other levels' tokens in the same matrix products, so that
equal logits are compared bitwise only where the shapes of all products are the same.
"""

import numpy as np
import pytest
import torch

from ddimx.config_file import override
from ddimx.errors import UsageError
from ddimx.models.factory import build
from ddimx.models.octree.layers import LevelDropout, centers, gelu_linear, rotary_table, rotate
from ddimx.models.octree.network import OctreeNet, cut
from ddimx.models.octree.tokens import Layout, Tokens
from ddimx.models.octree.visibility import visible
from ddimx.noise import Noise
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import from_leaves
from ddimx.training.loop import set_dropout_key

from .small import DEPTH, condition, level_of, network, octree_config, tokens_of, tree, trees

# Sums of some hundred terms in another order: measured 3e-6 at logits of 5, float32.
CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def net():
    return network()


def changed(tokens, level, by=1):
    """The tokens with those of one level changed to other legal ids."""
    here = tokens.layout.level == level
    ids = torch.where(here, (tokens.ids.long() + by - 1) % 255 + 1, tokens.ids.long())
    return Tokens(tokens.layout, ids.to(torch.uint8), tokens.t)


def differs(a, b, tokens):
    """The levels on which logits are not bitwise the same."""
    unequal = (a != b).any(1)
    return sorted(set(tokens.layout.level[unequal].tolist()))


# --- what must not leak -------------------------------------------------------------------------


@pytest.mark.parametrize("level", range(DEPTH))
def test_a_noised_level_changes_no_logit_but_its_own(net, level):
    noised, clean = tokens_of(trees(), t=20), cut(tokens_of(trees()), DEPTH - 1)
    before = net(noised, clean, condition(3))
    after = net(changed(noised, level), clean, condition(3))
    assert differs(before, after, noised) == [level]


@pytest.mark.parametrize("level", range(DEPTH - 1))
def test_a_clean_level_changes_finer_logits_only(net, level):
    noised, clean = tokens_of(trees(), t=20), cut(tokens_of(trees()), DEPTH - 1)
    before = net(noised, clean, condition(3))
    after = net(noised, changed(clean, level), condition(3))
    assert differs(before, after, noised) == list(range(level + 1, DEPTH))


def test_all_clean_levels_given_the_finest_still_sees_only_coarser_ones(net):
    noised, clean = tokens_of(trees(), t=20), tokens_of(trees())
    before = net(noised, clean, condition(3))
    assert differs(before, net(noised, changed(clean, DEPTH - 1), condition(3)), noised) == []


@pytest.mark.parametrize("level", range(DEPTH - 1))
def test_clean_keys_and_values_depend_on_their_own_and_coarser_levels(net, level):
    clean = cut(tokens_of(trees()), DEPTH - 1)
    before = net.encode(clean, condition(3))
    after = net.encode(changed(clean, level), condition(3))
    found = [
        differs(a.flatten(1), b.flatten(1), clean)
        for pair in zip(before.layers, after.layers, strict=True)
        for a, b in zip(*pair, strict=True)
    ]
    # Keys and values of the first layer are made before any attention: of their level alone.
    assert found == [[level]] * 2 + [list(range(level, DEPTH - 1))] * 2


def test_the_time_changes_logits_and_no_clean_key_or_value(net):
    kept = []
    hook = net.blocks[-1].register_forward_hook(lambda *a: kept.append((a[1][5], a[2][1])))
    noised, clean = tokens_of(trees(), t=20), cut(tokens_of(trees()), DEPTH - 1)
    later = Tokens(noised.layout, noised.ids, noised.t + 5)
    first, second = (net(x, clean, condition(3)) for x in (noised, later))
    hook.remove()
    assert differs(first, second, noised) == list(range(DEPTH))
    (stream, (k, v)), (_, (noised_k, _)), (_, (k2, v2)), (_, (noised_k2, _)) = kept
    assert stream == 0
    assert torch.equal(k, k2)
    assert torch.equal(v, v2)
    assert not torch.equal(noised_k, noised_k2)


def test_the_time_of_one_level_changes_that_level_only(net):
    noised, clean = tokens_of(trees(), t=20), cut(tokens_of(trees()), DEPTH - 1)
    t = noised.t.clone()
    t[1, 1] = 3
    after = net(Tokens(noised.layout, noised.ids, t), clean, condition(3))
    unequal = (net(noised, clean, condition(3)) != after).any(1)
    here = (noised.layout.level == 1) & (noised.layout.shape == 1)
    assert torch.equal(unequal, here)


def test_class_and_kind_of_noise_change_every_logit_of_their_shape_and_of_no_other(net):
    noised, clean = tokens_of(trees(), t=20), cut(tokens_of(trees()), DEPTH - 1)
    before = net(noised, clean, condition(3))
    for name in ("label", "transition"):
        other = condition(3)
        getattr(other, name)[1] = 2 if name == "label" else 1
        unequal = (net(noised, clean, other) != before).any(1)
        assert torch.equal(unequal, noised.layout.shape == 1), name


# --- cached and uncached --------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2, 5, 64])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_level_by_level_with_a_cache_gives_the_logits_of_all_levels_at_once(depth, window):
    net, shapes = network(depth, window=window), trees(depth)
    noised, tokens = changed(tokens_of(shapes, t=20), depth - 1), tokens_of(shapes)
    together = net(noised, cut(tokens, depth - 1), condition(3))
    cache = None
    for level in range(depth):
        one = level_of(noised, level)
        logits = net(one, None, condition(3), cache)
        torch.testing.assert_close(logits, together[noised.layout.level == level], **CLOSE)
        clean = cut(tokens, level)  # and with all that is clean given anew
        again = net(one, clean, condition(3))
        torch.testing.assert_close(again, logits, **CLOSE)
        cache = net.encode(level_of(tokens, level), condition(3), cache)
    whole = net.encode(tokens, condition(3))
    for pair, expected in zip(cache.layers, whole.layers, strict=True):
        for own, other in zip(pair, expected, strict=True):
            torch.testing.assert_close(own, other, **CLOSE)


def test_logits_of_a_shape_are_the_same_alone_and_in_company(net):
    shapes = trees()
    noised, clean = tokens_of(shapes, t=20), cut(tokens_of(shapes), DEPTH - 1)
    together = net(noised, clean, condition(3))
    for place, shape in enumerate(shapes):
        alone = condition(3)
        alone = type(alone)(alone.label[place : place + 1], alone.transition[place : place + 1])
        logits = net(tokens_of([shape], t=20), cut(tokens_of([shape]), DEPTH - 1), alone)
        torch.testing.assert_close(logits, together[noised.layout.shape == place], **CLOSE)


def test_half_precision_gives_nearly_the_same_logits():
    net, tokens = network(), tokens_of(trees(), t=20)
    clean = cut(tokens_of(trees()), DEPTH - 1)
    exact = net(tokens, clean, condition(3))
    half = net.to(torch.bfloat16)(tokens, clean, condition(3))
    assert half.dtype == torch.bfloat16
    # bfloat16 has 8 bits; two layers add some roundings up.
    assert (half.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_with_gelu_is_what_the_formula_says(dtype, grad):
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(24, 40).to(dtype)
    x = torch.randn(7, 24, generator=generator).to(dtype)
    with torch.no_grad():
        z = x.double() @ layer.weight.double().T + layer.bias.double()
        exact = z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))) / 2
    with torch.set_grad_enabled(grad):
        out = gelu_linear(layer, x)
    assert out.requires_grad == grad
    # One rounding of the result, and of z before it where the two are computed apart.
    assert ((out.double() - exact).abs() < 4 * torch.finfo(dtype).eps * (1 + z.abs())).all()


def test_what_a_level_has_is_computed_once_for_all_its_rows(monkeypatch):
    net, calls = network(), []
    monkeypatch.setattr(
        "ddimx.models.octree.network.rotary_table", lambda *a: calls.append(a) or rotary_table(*a)
    )
    tokens = level_of(tokens_of(trees(), t=20), 0)
    first, second = (net(tokens, None, condition(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert len(calls) == 1


# --- positions ------------------------------------------------------------------------------------


def test_positions_lie_on_one_grid_for_all_levels():
    tokens = tokens_of([tree(5, 30)])
    found = centers(tokens.layout, DEPTH)
    expected = torch.cat(
        [torch.from_numpy(tree(5, 30).centers(d) + 0.5) * 2**DEPTH for d in range(DEPTH)]
    )
    assert torch.equal(found.double(), expected)


@pytest.mark.parametrize("head", [6, 16, 32])
def test_turned_products_depend_on_the_distance_alone(head):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, head, generator=generator, dtype=torch.float64).unbind(0)
    a, b, shift = (torch.tensor([v]) for v in ([3.5, 1.0, 7.5], [0.5, 6.0, 2.0], [4.0, 8.0, 1.0]))

    def product(x, y):
        tables = (rotary_table(p, head) for p in (x, y))
        return (rotate(q, next(tables)) * rotate(k, next(tables))).sum()

    # Angles are float32, up to 12: each is right to 12 * 2^-24, and so is every product's part.
    bound = 4 * head * 12 * 2.0**-24
    assert abs(product(a, b) - product(a + shift, b + shift)) < bound
    for axis in range(3):  # each axis counts
        moved = b.clone()
        moved[0, axis] += 1.0
        assert abs(product(a, b) - product(a, moved)) > 1e-3, axis
    assert abs(rotate(q, rotary_table(a, head)).norm() - q.norm()) < bound


def test_a_block_knows_the_distance_between_cells_and_not_where_they_are():
    """Queries and keys are turned alike; both of one cell, or one of them, would show the place."""
    tokens, block = tokens_of(trees()), network().blocks[0].double()
    counts = tokens.layout.counts
    segments = visible(counts, 0, counts, 8)
    position = centers(tokens.layout, DEPTH)
    h = torch.randn(len(position), 24, generator=torch.Generator().manual_seed(0)).double()

    def out(place):
        return block(h, rotary_table(place, 12), segments, None, tokens.layout)[0]

    here = out(position)
    # The angles are float32, up to 12: see above; what they turn is about 1.
    assert (out(position + 4.0) - here).abs().max() < 1e-5
    assert (out(position * 2.0) - here).abs().max() > 1e-3


def test_a_token_sees_27_cells_their_children_as_far_as_known_and_which_are_not_there():
    shape = from_leaves(keys_of(np.array([[0, 0, 0], [1, 0, 0], [6, 6, 6]])), DEPTH)
    tokens = tokens_of([shape])
    assert tokens.layout.level.tolist() == [0, 1, 1, 2, 2]
    ids = tokens.ids.clone()
    ids[3] = 0  # of the two cells on level 2 the first one is masked
    seen = []
    embed = network().embed
    embed.neighbourhood.register_forward_hook(lambda *a: seen.append(a[1][0]))
    embed(tokens.layout, ids)
    first = seen[0].view(5, 27, 10)[3]
    assert first[13].tolist() == [0.0] * 8 + [1.0, 1.0]  # itself: there, and not known
    assert first.sum() == 2.0  # the other cell is three away: nobody else is there
    corner = seen[0].view(5, 27, 10)[1]  # level 1: (0, 0, 0), whose diagonal neighbour is (1, 1, 1)
    bits = [float(int(tokens.ids[1]) >> i & 1) for i in range(8)]
    assert corner[13].tolist() == [*bits, 1.0, 0.0]
    bits = [float(int(tokens.ids[2]) >> i & 1) for i in range(8)]
    assert corner[26].tolist() == [*bits, 1.0, 0.0]
    others = [i for i in range(27) if i not in (13, 26)]
    assert not corner[others].any()


def test_time_is_measured_in_thousandths_of_the_schedule():
    noised, net = level_of(tokens_of(trees(), t=20), 0), network()
    before = net(noised, None, condition(3))
    net.steps = 1000
    fine = Tokens(noised.layout, noised.ids, noised.t * 20)
    assert torch.equal(net(fine, None, condition(3)), before)
    assert not torch.equal(net(noised, None, condition(3)), before)


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_has_one_mask_per_level_and_depends_on_position_step_and_layer_alone():
    layout = tokens_of(trees()).layout
    x = torch.ones(len(layout), 64)

    def dropped(positions, step=0, layer=0, layout=layout):
        layer = LevelDropout(0.25, layer).train()
        layer.key = (Noise(1), torch.tensor(positions), step)
        return layer(torch.ones(len(layout), 64), layout)

    out = dropped([5, 6, 7])
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    for row in range(9):
        assert (out[layout.row == row] == out[layout.row == row][:1]).all()
    firsts = torch.stack([out[layout.row == row][0] for row in range(9)])
    assert len({tuple(mask) for mask in firsts.tolist()}) == 9
    assert abs((firsts == 0).float().mean() - 0.25) < 4 * (0.25 * 0.75 / firsts.numel()) ** 0.5
    alone = tokens_of(trees()[1:2]).layout
    assert torch.equal(dropped([6], layout=alone), out[layout.shape == 1])
    for other in (dropped([5, 6, 8]), dropped([5, 6, 7], 1), dropped([5, 6, 7], 0, 1)):
        assert not torch.equal(other, out)
    assert torch.equal(LevelDropout(0.25).eval()(x, layout), x)
    assert torch.equal(LevelDropout(0.0).train()(x, layout), x)
    unkeyed = LevelDropout(0.25).train()(x, layout)
    assert set(unkeyed.unique().tolist()) == set(out.unique().tolist())


def test_the_two_streams_of_a_block_drop_by_masks_of_their_own():
    net, tokens = network(dropout=0.5), tokens_of(trees())
    set_dropout_key(net, (Noise(0), torch.arange(3), 0))
    counts = tokens.layout.counts
    table = rotary_table(centers(tokens.layout, DEPTH), 12)
    h = torch.ones(len(tokens.layout), 24)
    arguments = (h, table, visible(counts, 0, counts, 8), None, tokens.layout)
    block = net.blocks[0].train()
    clean, noised, again = (block(*arguments, stream)[0] for stream in (0, 1, 1))
    assert torch.equal(noised, again)
    assert not torch.equal(clean, noised)


def test_every_dropout_layer_of_a_network_has_a_number_of_its_own():
    net = network(dropout=0.1, layers=3)
    numbers = [m.layer for m in net.modules() if isinstance(m, LevelDropout)]
    assert sorted(numbers) == list(range(12))


# --- from a configuration -------------------------------------------------------------------------


def test_a_configuration_gives_depth_width_classes_and_window():
    net, process = build(octree_config(diffusion={"transitions": ["uniform"]}))
    assert isinstance(net, OctreeNet)
    assert (net.depth, net.window, net.steps, len(net.blocks)) == (DEPTH, 8, 50, 1)
    assert net.head.weight.shape == (256, 24)
    assert net.label.num_embeddings == 3  # two classes, and none
    assert process.transitions == ("uniform",)
    assert (process.depth, process.num_classes) == (DEPTH, 2)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"hidden_dim 24 over model\.num_heads 5 gives no even"):
        build(octree_config(model={"num_heads": 5}))
    with pytest.raises(UsageError, match="no even head size"):
        build(octree_config(model={"num_heads": 8}))  # heads of 3


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("data.max_depth=null", "model.name 'octree' needs data.max_depth"),
        ("data.max_depth=11", "data.max_depth"),
        ("model.vocab_size=17", "a token is a byte of child bits: 256"),
        ("model.window=1", "model.window"),
        ("diffusion.transitions=[]", "needs absorbing, uniform, or both, each once"),
        ("diffusion.transitions=[uniform, uniform]", "each once"),
        ("diffusion.transitions=[masked]", "'absorbing' or 'uniform'"),
        ("data.random_scale=1.0", "data.random_scale"),
        ("training.parent_corruption=1", "training.parent_corruption"),
        ("training.precision=fp8", "'auto', 'fp32' or 'bf16'"),
        ("sampling.temperature=0", "sampling.temperature"),
        ("sampling.routing=best", "'random' or 'confidence'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(item, said):
    with pytest.raises(UsageError, match=said.replace("[", r"\[")):
        override(octree_config(), [item])


def test_an_empty_batch_of_levels_is_no_context():
    layout = Layout.of(
        torch.zeros(2, dtype=torch.int64), tokens_of(trees()[:2]).layout.counts[:, :1]
    )
    noised = Tokens(layout, torch.tensor([0, 7], dtype=torch.uint8), torch.ones(2, 1))
    nothing = cut(tokens_of(trees()[:2]), 0)
    net = network()
    assert torch.equal(net(noised, nothing, condition(2)), net(noised, None, condition(2)))
