"""The Triton update of tokens against NumPy: in the interpreter, or on a card where there is one.

Integer sums make the CDF's edges independent of the order of addition, so an id may differ from the
definition's only where the uniform lies within a derived band of an edge; routes, noise and
everything that follows from the words are exact.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given

from ddimx.kernels.discrete_update import TokenState, UpdateOptions, launch
from ddimx.noise import Stream
from tests.conftest import examples
from tests.kernels.discrete_update_cases import ROWS, TOKEN, cases, make, uniform_of
from tests.kernels.inside import REASON, only_inside

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def triton(case, dtype=torch.float32):
    return case.call(dtype, DEVICE, impl="triton")


@given(case=cases(most=2 * launch.BLOCK + 1))
@examples(20)
def test_any_row_is_its_definition(case):
    case.check(*triton(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 7, 8, 19])
def test_logits_of_every_dtype_and_numbers_of_tokens_that_fill_no_program(n, dtype):
    case = make(n, UpdateOptions("uniform", TOKEN), guided=True, holes=True)
    for name in ("logits", "uncond"):
        rounded = torch.from_numpy(getattr(case, name)).to(dtype).double().numpy()
        case = dataclasses.replace(case, **{name: rounded})
    case.check(*triton(case, dtype))


def test_the_reference_and_the_kernel_agree_but_for_the_band():
    """The band is a few 10^-5 wide: of 60 tokens not even one is expected in it."""
    for transition in ("absorbing", "uniform"):
        case = make(60, UpdateOptions(transition, TOKEN), guided=True)
        ours, theirs = triton(case), case.call(impl="reference")
        assert (ours[0] != theirs[0]).sum() + (ours[1] != theirs[1]).sum() <= 2
        assert np.allclose(ours[2], theirs[2], rtol=0, atol=1e-4) or (ours[1] != theirs[1]).any()


def test_what_nobody_wants_changes_no_id():
    """Without x0, tokens that take no clean id read no logits: theirs are NaN here."""
    for transition in ("absorbing", "uniform"):
        case = make(33, UpdateOptions(transition, TOKEN))
        ids = triton(case)[0]
        fewer = dataclasses.replace(case, options=UpdateOptions(transition, TOKEN, want_x0=False))
        fewer = dataclasses.replace(fewer, logits=case.logits.copy())
        kept, noised = case._routes()
        unread = kept | noised | ((case.ids != 0) & (transition == "absorbing"))
        assert 0 < unread.sum() < 33
        fewer.logits[unread] = np.nan
        found = triton(fewer)
        assert found[1:] == (None, None)
        assert np.array_equal(found[0], ids)


@pytest.mark.skipif(DEVICE == "cuda", reason=REASON)
@pytest.mark.parametrize("want_x0", [False, True])
@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
def test_nothing_is_touched_but_results_and_logits_that_a_token_needs(transition, want_x0):
    """A program's lanes behind the last token read nothing either, whatever their route."""
    case = make(launch.BLOCK + 3, UpdateOptions(transition, TOKEN, want_x0=want_x0), guided=True)
    case.table[2, :2] = 1.0, 0.0  # all are kept, so that nobody needs logits
    both = [torch.from_numpy(value).float() for value in (case.logits, case.uncond)]
    guided = {"uncond": both[1], "guidance": torch.tensor(case.guidance)}
    for row in (1, 2, ROWS, -1):
        ready = prepared(case, row=torch.tensor(row), logits=both[0], **guided)
        needed = np.full(len(case.ids), 0 <= row < ROWS)
        if needed.any() and transition == "absorbing":
            needed &= case.ids == 0
        if needed.any() and not want_x0:
            kept, noised = dataclasses.replace(case, row=row)._routes()
            needed &= ~kept & ~noised
        others = [v for v in ready.arguments.values() if not any(v is whole for whole in both)]
        assert len(others) == len(ready.arguments) - 2
        with only_inside([*others, *(whole[i] for whole in both for i in np.flatnonzero(needed))]):
            launch.start(ready)


def select(case, keys, chosen):
    """Return the case with one token for each chosen key."""
    return dataclasses.replace(
        case,
        logits=np.resize(case.logits, (len(chosen), 256)),
        ids=np.resize(case.ids, len(chosen)),
        keys=keys[chosen],
        samples=np.full(len(chosen), 7),
    )


def all_keys(case, count):
    keys = np.arange(count)
    return keys, dataclasses.replace(case, keys=keys, samples=np.full(count, 7))


def test_tokens_nearest_to_the_thresholds_take_the_right_route():
    """Of 20,000 tokens those whose uniforms lie next to keep and to 1 - noise, on both sides."""
    case = make(8, UpdateOptions("uniform", TOKEN), weights=(0.3, 0.2))
    keys, many = all_keys(case, 20_000)
    u = uniform_of(many.words()[1])
    order = np.argsort(u)
    places = np.searchsorted(u[order], [0.3, 0.8])
    chosen = np.concatenate([order[place - 3 : place + 3] for place in places])
    assert np.abs(u[chosen] - [[0.3] * 6 + [0.8] * 6]).max() < 1e-3
    near = select(case, keys, chosen)
    near.check(*triton(near))


def test_a_uniform_at_a_threshold_takes_the_route_below():
    """u <= keep keeps, u > 1 - noise takes noise: equality is on the lower side of both."""
    case = make(20, UpdateOptions("uniform", TOKEN), weights=(0.0, 0.0))
    u = uniform_of(case.words()[1])
    ids = case.ids.copy()
    exact = np.flatnonzero(u >= 0.5)[:3]  # where 1 - u is exact
    assert len(exact) == 3
    for i in exact:
        case.table[case.row, :2] = u[i], 0.0
        case.check(*triton(case))
        assert triton(case)[0][i] == ids[i]
        case.table[case.row, :2] = 0.0, 1 - u[i]
        case.check(*triton(case))
        kept, noised = case._routes()
        assert not (kept | noised)[i]


def test_a_word_on_an_edge_belongs_to_the_id_above():
    """Weights are made for each token so that its place is the lower id's edge exactly."""
    case = make(8, UpdateOptions("uniform", TOKEN), weights=(0.0, 0.0))
    keys, many = all_keys(case, 2000)
    words = many.words()[0]
    chosen = np.flatnonzero(words < 2**26)  # a small weight, which no rounding of exp can move
    edge = select(case, keys, chosen)
    edge.logits[:] = -np.inf
    for i, word in enumerate(words[chosen].tolist()):
        lower = next(q for q in range(word >> 9, 2**19) if word * (2**23 + q) >> 32 == q)
        edge.logits[i, [40, 200]] = np.log([lower / 2**23, 1.0])
    assert len(chosen) > 10
    assert (edge.call(impl="reference")[1] == 200).all()
    assert (triton(edge)[1] == 200).all()


def prepared(case, **changed):
    """Return the launch of a case."""
    values = {
        "table": torch.from_numpy(case.table).float(),
        "row": torch.tensor(case.row),
        "logits": torch.from_numpy(case.logits).float(),
        "tokens": TokenState(*(torch.from_numpy(v) for v in (case.ids, case.keys, case.samples))),
        "seed": torch.tensor(case.seed),
        "uncond": None,
        "guidance": None,
        "options": case.options,
    }

    def moved(value):
        if isinstance(value, TokenState):
            return TokenState(*(v.to(DEVICE) for v in vars(value).values()))
        return value.to(DEVICE) if isinstance(value, torch.Tensor) else value

    return launch.prepare(**{name: moved(v) for name, v in (values | changed).items()})


def test_every_token_is_written_and_nothing_else():
    """Results lie in larger tensors full of NaN, or of an id that no token has."""
    case = make(19, UpdateOptions("uniform", TOKEN), weights=(0.0, 0.0))
    case.logits[:, 99] = -np.inf
    expected = case.call(impl="reference")
    ready = prepared(case)
    guarded = {}
    for name in ("ids_to", "x0_to", "confidence_to"):
        poison = torch.nan if name == "confidence_to" else 99
        wide = torch.full((19 + 512,), poison, dtype=ready.arguments[name].dtype, device=DEVICE)
        ready.arguments[name], guarded[name] = wide[256 : 256 + 19], wide
    launch.start(ready)
    for (name, wide), exact in zip(guarded.items(), expected, strict=True):
        value = wide.cpu().double().numpy()
        outside = np.concatenate([value[:256], value[256 + 19 :]])
        assert (np.isnan(outside) if name == "confidence_to" else outside == 99).all(), name
        assert np.allclose(value[256 : 256 + 19], exact, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("row", [-1, 3, 2**40])
@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
def test_a_row_outside_the_table_gives_masks_where_the_host_cannot_know(row, transition):
    ready = prepared(make(9, UpdateOptions(transition, TOKEN)), row=torch.tensor(row))
    launch.start(ready)
    ids, x0, confidence = (value.cpu() for value in ready.results)
    assert (ids == 0).all()
    assert (x0 == 0).all()
    assert confidence.isnan().all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_without_a_softmax_draw_a_mask_that_says_so(value):
    case = make(20, UpdateOptions("uniform", TOKEN), weights=(0.0, 0.0))
    expected = triton(case)
    case.logits[7, 100] = value
    case.logits[11] = -np.inf
    case.logits[:, 0] = np.nan  # of no meaning
    bad = np.isin(np.arange(20), (7, 11))
    ids, x0, confidence = triton(case)
    assert (ids[bad] == 0).all()
    assert (x0[bad] == 0).all()
    assert np.isnan(confidence[bad]).all()
    for found, exact in zip((ids, x0, confidence), expected, strict=True):
        assert np.array_equal(found[~bad], exact[~bad])


def test_rows_of_logits_may_lie_apart():
    case = make(19)
    expected = triton(case)
    logits = torch.from_numpy(case.logits).float()
    wide = torch.full((19, 300), torch.nan)
    wide[:, 20:276] = logits
    for value in (wide[:, 20:276], logits.t().contiguous().t(), torch.stack([logits] * 2)[1]):
        ready = prepared(case, logits=value)
        launch.start(ready)
        for found, exact in zip(ready.results, expected, strict=True):
            assert np.array_equal(found.cpu().numpy(), exact)


def test_no_tokens_are_no_launch():
    case = make(1)
    index = np.zeros(0, dtype=np.int64)
    empty = dataclasses.replace(
        case, logits=case.logits[:0], ids=case.ids[:0], keys=index, samples=index
    )
    assert [len(value) for value in triton(empty)] == [0, 0, 0]


# --- the launch, without running it -------------------------------------------------------------


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_more_than_2_31_logits():
    """Sizes beyond 32 bits reach the kernel whole; nothing is allocated."""
    n = 9_000_001
    index = meta(n, dtype=torch.int64)
    ready = launch.prepare(
        meta(5, 4),
        meta(dtype=torch.int64),
        meta(n, 256, dtype=torch.bfloat16),
        TokenState(meta(n, dtype=torch.uint8), index, index),
        meta(dtype=torch.int64),
        None,
        None,
        UpdateOptions("absorbing", TOKEN, want_x0=False),
    )
    assert ready.grid == 1_125_001
    assert ready.results.x0 is None
    assert ready.constants["STREAM"] == Stream.TOKEN
    assert (ready.arguments["count"], ready.arguments["logits_stride"]) == (n, 256)


def test_float64_is_refused_by_name():
    with pytest.raises(RuntimeError, match="discrete_update: impl 'triton' cannot run here"):
        make(3).call(torch.float64, impl="triton")
