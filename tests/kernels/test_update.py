"""The update against its formulas in NumPy float64, with every subset of its features."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given

from ddimx.kernels.update import Extras, update
from ddimx.kernels.update.columns import TABLE as COLUMNS
from tests.conftest import examples
from tests.kernels.update_cases import KNOWN, STEP, cases

GOOD = {"seed": torch.tensor(0), "samples": torch.arange(2)}


@given(case=cases())
@examples(80)
def test_update_is_its_formulas(case):
    for ours, exact in zip(case.update(), case.in_numpy(), strict=True):
        assert (ours is None) == (exact is None)
        if exact is not None:
            assert ours.dtype == torch.float64
            np.testing.assert_allclose(ours.numpy(), exact, rtol=1e-12, atol=1e-12)


@given(case=cases())
@examples(40)
def test_float32_stays_float32(case):
    found = zip(case.update(torch.float32), case.in_numpy(), case.rounding(), strict=True)
    for ours, exact, bound in found:
        assert (ours is None) == (exact is None)
        if exact is not None:
            assert ours.dtype == torch.float32
            assert (np.abs(ours.numpy() - exact) <= bound).all()


def plain(dtype=torch.float64, shape=(2, 3, 4, 4), depth=2):
    """Return a valid call: table, row, x, y, out and history."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    table = normal(3, len(COLUMNS) + 2 * depth)
    table[:, COLUMNS.index("calls")] = torch.arange(3)
    history = normal(depth - 1, *shape) if depth > 1 else None
    return [table, torch.tensor(1), normal(*shape), normal(*shape), normal(*shape), history]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def run(table, row, x, y, out, history=None, extras=Extras(), **options):  # noqa: B008
    """Update with a copy of the history, so that the same arguments serve again."""
    return update(
        table, row, x, y, out, None if history is None else history.clone(), extras, **options
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_low_precision_output_is_read_as_it_is(dtype):
    table, row, x, y, out, history = plain()
    low = out.to(dtype)
    extras = Extras(uncond=low * 2, guidance=torch.tensor(3.0))
    wide = dataclasses.replace(extras, uncond=extras.uncond.double())
    ours = run(table, row, x, y, low, history, extras)
    assert all(part.dtype == torch.float64 for part in ours)
    assert same(ours, run(table, row, x, y, low.double(), history, wide))


def test_known_pixels_of_any_dtype_leave_the_states_alone():
    table, row, x, y, out, history = plain(torch.float32)
    known, mask = y.double(), x > 0
    extras = Extras(known=known, mask=mask, known_stream=KNOWN, **GOOD)
    fitting = dataclasses.replace(extras, known=y, mask=mask.float())
    ours = run(table, row, x, y, out, history, extras)
    assert all(part.dtype == torch.float32 for part in ours)
    assert same(ours, run(table, row, x, y, out, history, fitting))


def test_strides_do_not_matter():
    table, row, x, y, out, history = plain()
    expected = run(table, row, x, y, out, history)
    last = out.contiguous(memory_format=torch.channels_last)
    every = torch.zeros(2, 3, 4, 8, dtype=torch.float64)[..., ::2].copy_(out)
    turned = out.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (last, every, turned):
        assert not other.is_contiguous()
        assert same(run(table, row, x, y, other, history), expected)
        assert same(run(table, row, other, y, out, history), run(table, row, out, y, out, history))


def test_noise_does_not_depend_on_the_layout_of_the_state():
    table, row, x, y, out, history = plain()
    extras = Extras(seed=torch.tensor(5), samples=torch.tensor([3, 9]), step_stream=STEP)
    last = x.contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert same(
        run(table, row, last, y, out, history, extras),
        run(table, row, x, y, out, history, extras),
    )


def test_nothing_but_the_history_is_written_to():
    table, row, x, y, out, history = plain()
    extras = Extras(
        clip=0.1,
        uncond=y.clone(),
        guidance=torch.tensor(2.0),
        z=x.clone(),
        known=y.clone(),
        mask=(x > 0).double(),
        seed=torch.tensor(1),
        samples=torch.arange(2),
        known_stream=KNOWN,
    )
    inputs = [table, row, x, y, out]
    inputs += [v for v in vars(extras).values() if isinstance(v, torch.Tensor)]
    copies, before = [value.clone() for value in inputs], history.clone()
    update(table, row, x, y, out, history, extras)
    assert same(inputs, copies)
    assert not torch.equal(history, before)


def test_the_row_is_a_tensor_that_chooses_coefficients_and_noise():
    table, _, x, y, out, history = plain()
    extras = Extras(seed=torch.tensor(5), samples=torch.arange(2), step_stream=STEP)
    rows = [run(table, torch.tensor(i), x, y, out, history, extras).x for i in range(3)]
    assert not torch.equal(rows[0], rows[1])
    repeated = table[:1].expand(3, -1)
    rows = [run(repeated, torch.tensor(i), x, y, out, history, extras).x for i in range(2)]
    assert not torch.equal(*rows)  # the same coefficients, another row of noise


def test_the_history_is_a_ring():
    """Three calls of the network and a row without: each finds the predictions of those before."""
    table, _, x, y, out, history = plain(depth=3)
    table = torch.cat([table, table[:1]])
    table[:, COLUMNS.index("calls")] = torch.tensor([0, 1, 1, 2])
    history.zero_()
    weights = table[3, len(COLUMNS) :][:3]
    predictions = []
    for i, silent in enumerate((False, True, False)):
        update(table, torch.tensor(i), x, y, None if silent else out * i, history)
        if not silent:
            predictions.insert(0, table[i, 2] * y + table[i, 3] * (out * i))
    quiet = table.clone()
    quiet[3, len(COLUMNS) :][:3] = 0
    last = torch.tensor(3)
    sums = run(table, last, x, y, out, history).x - run(quiet, last, x, y, out, history).x
    newest = table[3, 2] * y + table[3, 3] * out
    expected = sum(w * m for w, m in zip(weights, (newest, *predictions), strict=True))
    assert torch.allclose(sums, expected, rtol=0, atol=1e-12)


def test_the_point_may_be_the_state_and_x0_unwanted():
    table, row, x, y, out, _ = plain(depth=1)
    table[:, COLUMNS.index("p")], table[:, -1] = 1.0, 0.0
    whole = update(table, row, x, y, out)
    less = update(table, row, x, y, out, None, Extras(same_point=True, want_x0=False))
    assert torch.equal(whole.y, whole.x)
    assert less.y is less.x
    assert torch.equal(less.x, whole.x)
    assert less.x0 is None
    point = update(table, row, x, y, out, None, Extras(want_x0=False))
    assert same(point[:2], whole[:2])


ODD = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
FITS = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
AWAY = FITS.to("meta")
TABLE = torch.zeros(3, len(COLUMNS) + 4, dtype=torch.float64)
RING = torch.zeros(1, 2, 3, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: TABLE[0]}, rf"table is .* expected float \[rows, {len(COLUMNS)} \+ 2 depth\]"),
        ({0: TABLE[:, : len(COLUMNS)]}, "table is"),
        ({0: TABLE[:, : len(COLUMNS) + 3]}, "table is"),
        ({0: TABLE.long()}, "table is torch.int64"),
        ({0: TABLE.to("meta")}, "table is on meta"),
        ({1: torch.tensor([1])}, "row is torch.int64 .1,., expected a 0-d int64"),
        ({1: torch.tensor(1, dtype=torch.int32)}, "row is torch.int32"),
        ({1: torch.tensor(3)}, "row 3 lies outside the table's 3 rows"),
        ({1: torch.tensor(-1)}, "row -1 lies outside the table's 3 rows"),
        ({3: ODD}, "y has shape"),
        ({4: ODD}, "out has shape"),
        ({4: FITS.long()}, "out has dtype torch.int64"),
        ({5: ODD[None]}, "history has shape"),
        ({5: None}, "history has 0 slots, a table of depth 2 needs 1"),
        ({5: torch.cat([RING, RING])}, "history has 2 slots, a table of depth 2 needs 1"),
        ({5: torch.zeros(1, 2, 3, 4, 8, dtype=torch.float64)[..., ::2]}, "must be contiguous"),
        ({3: AWAY}, "y is on meta"),
        ({4: AWAY}, "out is on meta"),
        ({5: RING.to("meta")}, "history is on meta"),
        ({2: FITS.int(), 3: FITS.int()}, "x has dtype torch.int32"),
        ({2: FITS.half(), 3: FITS.half()}, "x has dtype torch.float16"),
        ({2: FITS[:, 0, 0, 0], 3: FITS[:, 0, 0, 0]}, "x has shape"),
        ({3: FITS.float()}, "y has dtype torch.float32"),
        ({5: RING.float()}, "history has dtype torch.float32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    arguments = plain()
    for position, value in changes.items():
        arguments[position] = value
    with pytest.raises(ValueError, match=message):
        update(*arguments)


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"uncond": ODD, "guidance": torch.tensor(2.0)}, "uncond has shape"),
        ({"z": ODD}, "z has shape"),
        ({"known": ODD, "mask": FITS, "known_stream": KNOWN, **GOOD}, "known has shape"),
        ({"z": AWAY}, "z is on meta"),
        ({"uncond": FITS}, "guidance needs both"),
        ({"guidance": torch.tensor(2.0)}, "guidance needs both"),
        ({"step_stream": STEP}, "needs a seed"),
        ({"step_stream": STEP, "seed": torch.tensor(0)}, "needs a seed"),
        ({"step_stream": STEP, "samples": torch.arange(2)}, "needs a seed"),
        ({"known": FITS, "mask": FITS, "known_stream": KNOWN}, "needs a seed"),
        ({"step_stream": STEP, "seed": torch.tensor(0), "samples": torch.arange(3)}, "3 sample"),
        ({"known": FITS, "known_stream": KNOWN, **GOOD}, "known pixels need a mask"),
        ({"known": FITS, "mask": FITS, **GOOD}, "known pixels need a mask"),
        ({"clip": 0.0}, "clip is 0.0, expected a positive bound"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"uncond": FITS, "guidance": torch.ones(2)}, "guidance has shape"),
        ({"step_stream": STEP, **GOOD, "seed": torch.tensor(0.0)}, "seed has dtype"),
        ({"step_stream": STEP, **GOOD, "samples": torch.ones(2)}, "samples has dtype"),
        ({"known": FITS, "mask": ODD, "known_stream": KNOWN, **GOOD}, "mask has shape"),
        ({"known": FITS, "mask": FITS[None], "known_stream": KNOWN, **GOOD}, "mask has shape"),
        ({"step_stream": STEP, **GOOD, "samples": torch.arange(2).to("meta")}, "samples is on"),
    ],
)
def test_extras_that_lack_a_companion_are_refused(extras, message):
    with pytest.raises(ValueError, match=message):
        update(*plain(), Extras(**extras))


def test_the_implementation_is_met_or_refused():
    table, row, x, y, out, history = plain()
    default = run(table, row, x, y, out, history)
    assert same(run(table, row, x, y, out, history, impl="reference"), default)
    assert same(run(table, row, x, y, out, history, impl="auto"), default)
    with pytest.raises(RuntimeError, match=r"'triton' cannot run here .*float64.*can: reference"):
        update(table, row, x, y, out, history, impl="triton")
    with pytest.raises(RuntimeError, match=r"update: impl 'sdpa' cannot run here"):
        update(table, row, x, y, out, history, impl="sdpa")
    with pytest.raises(ValueError, match="impl 'cuda' is not one of auto, triton, sdpa, products"):
        update(table, row, x, y, out, history, impl="cuda")
