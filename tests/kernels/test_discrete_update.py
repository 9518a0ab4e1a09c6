"""The update of tokens in plain PyTorch, against closed forms, enumeration and NumPy."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given

from ddimx.kernels import discrete_update as package
from ddimx.kernels.discrete_update import COLUMNS, TokenState, UpdateOptions, discrete_update
from ddimx.kernels.discrete_update import reference as definition
from tests.kernels.discrete_update_cases import TOKEN, Case, cases, make

END = 2**32  # one past the last word


def words(*values):
    return torch.tensor(values, dtype=torch.int64)


# --- the inverse CDF, by enumeration ------------------------------------------------------------


def test_each_id_gets_the_words_that_its_weight_is_worth():
    """The words of an id form one interval; both of its ends are tried, and its length counted."""
    random = np.random.default_rng(1)
    weight = random.integers(0, 50, 256) * (random.random(256) < 0.3)
    weight[0] = 0
    total, edges = int(weight.sum()), np.cumsum(weight)
    lengths = 0
    for i in np.flatnonzero(weight):
        # floor(w total / 2^32) >= edge begins at the next whole word after edge 2^32 / total.
        first = -(-int(edges[i] - weight[i]) * END // total)
        last = -(-int(edges[i]) * END // total) - 1
        row = torch.from_numpy(weight.astype(np.int32)).repeat(2, 1)
        assert definition.inverse_cdf(row, words(first, last)).tolist() == [i, i]
        assert abs((last - first + 1) - weight[i] * END / total) < 1
        lengths += last - first + 1
    assert lengths == END


def test_one_possible_id_is_drawn_by_every_word():
    z = torch.full((4, 256), -torch.inf)
    z[:, 255] = -3.0
    weight = definition.weights(z, torch.tensor(1.0))
    assert definition.inverse_cdf(weight, words(0, 1, END // 2, END - 1)).tolist() == [255] * 4


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 40.0])
def test_weights_are_the_softmax_to_255_halves_of_a_unit(scale):
    torch.manual_seed(0)
    z = scale * torch.randn(50, 256, dtype=torch.float64)
    z[:, 0] = -torch.inf
    weight = definition.weights(z, torch.tensor(0.7, dtype=torch.float64))
    exact = torch.softmax(0.7 * z, dim=1)
    variation = (weight / weight.sum(dim=1, keepdim=True) - exact).abs().sum(dim=1) / 2
    assert (variation <= 255 * 2.0**-24).all()
    assert (weight.amax(dim=1) == 2**23).all()
    assert (weight[:, 0] == 0).all()
    assert int(weight.sum(dim=1, dtype=torch.int64).max()) < 2**31  # the kernel's sums are 32-bit


def test_255_equal_ids_fit_in_31_bits():
    weight = definition.weights(torch.zeros(1, 256), torch.tensor(1.0))
    assert 255 * 2**23 <= int(weight[:, 1:].sum(dtype=torch.int64)) < 2**31


# --- routes and noise, by enumeration -----------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 2.0**-10, 0.25, 0.75, 1.0])
@pytest.mark.parametrize("noise", [0.0, 2.0**-10, 0.25, 1.0])
def test_routes_have_their_weights(keep, noise):
    """An even grid of words: shares are the weights to one grid step; 0 never, 1 always."""
    if keep + noise > 1:
        return
    step = 2**12
    grid = torch.cat([torch.arange(step // 2, END, step), words(0, END - 1)])
    kept, noised = definition.routes(grid, torch.tensor(keep), torch.tensor(noise))
    assert not (kept & noised).any()
    assert abs(kept[:-2].double().mean().item() - keep) <= 2 * step / END
    assert abs(noised[:-2].double().mean().item() - noise) <= 2 * step / END
    for share, flags in ((keep, kept), (noise, noised), (1 - keep - noise, ~(kept | noised))):
        assert not (share == 0 and flags.any())
        assert not (share == 1 and not flags.all())


def test_noise_is_uniform_over_255_ids():
    firsts = [-(-i * END // 255) for i in range(255)]
    uniform = UpdateOptions("uniform", TOKEN)
    assert definition.noise_ids(words(*firsts), uniform).tolist() == list(range(1, 256))
    lasts = [first - 1 for first in firsts[1:]] + [END - 1]
    assert definition.noise_ids(words(*lasts), uniform).tolist() == list(range(1, 256))
    assert definition.noise_ids(words(0, END - 1), UpdateOptions("absorbing", TOKEN)).tolist() == [
        0,
        0,
    ]


def test_gumbel_noise_is_finite_and_gumbels():
    grid = words(0, 1, 2**20, 2**31, END - 2**12, END - 1)
    u = (grid.double() + 0.5) / END
    exact = -(-u.log()).log()
    found = definition.gumbels(grid)
    assert found.isfinite().all()
    # At the last words u is 1 - 2^-20 in float32 to 2^-25, and 1; there the tail ends.
    assert torch.allclose(found[:-2].double(), exact[:-2], rtol=0, atol=1e-6)
    assert abs(found[-2].item() - exact[-2].item()) < 2.0**-4
    assert found[-1].item() == pytest.approx(25 * np.log(2), abs=1e-5)


# --- a whole row --------------------------------------------------------------------------------


@given(case=cases(most=40))
def test_any_row_is_its_definition(case):
    case.check(*case.call(impl="reference"))


def test_float64_takes_the_same_routes_and_nearly_all_the_same_ids():
    case = make(400, UpdateOptions("uniform", TOKEN))
    single, double = case.call(), case.call(torch.float64)
    case.check(*double)
    assert (single[1] != double[1]).mean() < 0.01
    same = single[1] == double[1]
    assert (single[0][same] == double[0][same]).all()
    assert double[2].dtype == np.float32


def test_shares_of_drawn_ids_are_the_probabilities():
    """10,000 tokens with one distribution over 3 ids; six standard deviations of a binomial."""
    n, p = 10_000, np.array([0.5, 0.3, 0.2])
    case = make(n, UpdateOptions("uniform", TOKEN), weights=(0.0, 0.0))
    case.logits[:] = -np.inf
    case.logits[:, [3, 77, 255]] = np.log(p)
    ids, x0, confidence = dataclasses.replace(case, table=case.table * [1, 1, 1, 0]).call()
    assert (ids == x0).all()
    shares = np.array([(ids == i).mean() for i in (3, 77, 255)])
    assert shares.sum() == 1
    assert (np.abs(shares - p) <= 6 * np.sqrt(p * (1 - p) / n)).all()
    for i, probability in zip((3, 77, 255), p, strict=True):
        assert np.allclose(confidence[ids == i], np.log(probability), rtol=0, atol=1e-6)


def test_what_column_0_holds_is_never_used():
    case = make(60, guided=True)
    expected = case.call()
    for value in (np.nan, np.inf, -np.inf, 1e4):
        case.logits[:, 0], case.uncond[:, 0] = value, -value
        for found, exact in zip(case.call(), expected, strict=True):
            assert np.array_equal(found, exact)


def test_temperature_0_takes_the_most_likely_id_and_shares_ties():
    case = make(200, UpdateOptions("uniform", TOKEN), temperature=1e-30, weights=(0, 0), gumbel=0.0)
    case.logits[:100] = np.random.default_rng(5).permuted(
        np.broadcast_to(np.arange(256.0) / 16, (100, 256)), axis=1
    )
    case.logits[100:, 9] = case.logits[100:, 200] = 50.0
    case.logits[:, 0] = 1e3
    x0 = case.call()[1]
    assert (x0[:100] == 1 + case.logits[:100, 1:].argmax(axis=1)).all()
    assert set(x0[100:].tolist()) == {9, 200}
    assert np.allclose(case.call()[2][100:], -np.log(2), atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_without_a_softmax_draw_a_mask_that_says_so(value):
    case = make(40, UpdateOptions("uniform", TOKEN), weights=(0.0, 0.0))
    expected = case.call()
    case.logits[7, 100] = value
    case.logits[11] = -np.inf
    bad = np.isin(np.arange(40), (7, 11))
    ids, x0, confidence = case.call()
    assert (ids[bad] == 0).all()
    assert (x0[bad] == 0).all()
    assert np.isnan(confidence[bad]).all()
    for found, exact in zip((ids, x0, confidence), expected, strict=True):
        assert np.array_equal(found[~bad], exact[~bad])


def test_an_unmasked_token_is_its_own_estimate_and_needs_no_logits():
    case = make(80)
    case.logits[case.ids != 0] = np.nan
    case.check(*case.call())
    stays = make(80, weights=(1.0, 0.0))
    stays.logits[:] = np.nan
    assert (stays.call()[0] == stays.ids).all()


def test_guidance_mixes_logits_and_keeps_what_is_excluded():
    case = make(50, guided=True)
    mixed = dataclasses.replace(case, logits=case.mixed()[0], uncond=None)
    assert (case.call()[1] != mixed.call()[1]).mean() <= 0.02
    case = make(50, UpdateOptions("uniform", TOKEN), guided=True, holes=True)
    x0 = case.call()[1]
    assert np.isfinite(case.logits[np.arange(50), x0]).all()
    assert (x0 > 0).all()


def part(case, index):
    names = ("logits", "uncond", "ids", "keys", "samples")
    return dataclasses.replace(case, **{name: getattr(case, name)[index] for name in names})


def test_a_batch_can_be_split_and_permuted_bit_for_bit():
    case = make(60, UpdateOptions("uniform", TOKEN), guided=True)
    whole = case.call()
    for index in (np.arange(1), np.arange(10, 45), np.random.default_rng(0).permutation(60)):
        for found, exact in zip(part(case, index).call(), whole, strict=True):
            assert np.array_equal(found, exact[index])


def test_key_sample_row_and_seed_all_matter():
    case = make(100, UpdateOptions("uniform", TOKEN), weights=(0.0, 0.0), scale=1.0)
    table = np.repeat(case.table[case.row][None], 3, axis=0)
    case = dataclasses.replace(case, table=table)
    first = case.call()[1]
    for changed in (
        {"keys": case.keys + 1},
        {"samples": case.samples - 1},
        {"row": 2},
        {"seed": case.seed ^ 1},
        {"options": UpdateOptions("uniform", TOKEN + 1)},
    ):
        assert (dataclasses.replace(case, **changed).call()[1] != first).mean() > 0.9


# --- what is refused ------------------------------------------------------------------------------


def arguments():
    index = torch.arange(5)
    return {
        "table": torch.rand(3, 4),
        "row": torch.tensor(0),
        "logits": torch.randn(5, 256),
        "tokens": TokenState(torch.zeros(5, dtype=torch.uint8), index, index),
        "seed": torch.tensor(1),
        "fixed": UpdateOptions("absorbing", TOKEN),
    }


def tokens(**changed):
    return dataclasses.replace(arguments()["tokens"], **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"table": torch.rand(3, 5)}, r"table is torch.float32 \(3, 5\), expected float \[rows, 4"),
        ({"row": torch.tensor(3)}, "row 3 lies outside the table's 3 rows"),
        ({"row": torch.tensor([0])}, r"row: torch.int64 \(1,\)"),
        ({"logits": torch.randn(5, 255)}, r"logits are torch.float32 \(5, 255\)"),
        ({"logits": torch.zeros(5, 256, dtype=torch.int64)}, "logits are torch.int64"),
        ({"tokens": tokens(ids=torch.zeros(5))}, "ids: torch.float32"),
        ({"tokens": tokens(keys=torch.zeros(4, dtype=torch.int64))}, r"keys: torch.int64 \(4,\)"),
        ({"tokens": tokens(samples=torch.zeros(5))}, "samples: torch.float32"),
        ({"seed": torch.tensor(1.0)}, "seed: torch.float32"),
        ({"fixed": UpdateOptions("gaussian", TOKEN)}, "gaussian' is not one of absorbing, uniform"),
        ({"fixed": UpdateOptions("absorbing", TOKEN, False, False)}, "nothing is asked for"),
        ({"uncond": torch.randn(5, 256)}, "guidance needs both"),
        ({"guidance": torch.tensor(1.0)}, "guidance needs both"),
        (
            {"uncond": torch.randn(4, 256), "guidance": torch.tensor(1.0)},
            "uncond have 4 rows, the logits 5",
        ),
        (
            {"uncond": torch.randn(5, 256), "guidance": torch.tensor([1.0])},
            r"guidance is torch.float32 \(1,\)",
        ),
        ({"seed": torch.empty((), dtype=torch.int64, device="meta")}, "seed is on meta"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        discrete_update(**arguments() | changed)


def test_no_tokens_are_no_error():
    empty = torch.zeros(0, dtype=torch.int64)
    state = TokenState(empty.to(torch.uint8), empty, empty)
    drawn = discrete_update(**arguments() | {"tokens": state, "logits": torch.zeros(0, 256)})
    assert [len(value) for value in drawn] == [0, 0, 0]


def test_the_table_has_the_plans_columns():
    assert COLUMNS == ("keep", "noise", "inverse_temperature", "gumbel")
    assert isinstance(make(1), Case)


def test_the_old_names_of_the_arguments_still_work():
    with pytest.warns(DeprecationWarning, match="Tokens is now TokenState"):
        assert package.Tokens is TokenState
    with pytest.warns(DeprecationWarning, match="Options is now UpdateOptions"):
        assert package.Options is UpdateOptions
