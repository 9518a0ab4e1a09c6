"""The update against its formulas in NumPy float64, with every subset of its features."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimx.kernels.update import Extras, update
from ddimx.noise import Noise, Stream

NAMES = ("r", "s", "u", "v", "a", "w", "c", "p", "known_signal", "known_sigma")
STEP, KNOWN = int(Stream.STEP), int(Stream.KNOWN)
COEFFICIENT = st.floats(-3, 3, allow_subnormal=False)
FEATURES = ("network", "guidance", "clip", "history_is_x0", "step", "z", "known")
GOOD = {"seed": torch.tensor(0), "samples": torch.arange(2)}


def signed(seed):
    """Return the bits of a 64-bit seed as the int64 that a tensor can hold."""
    return torch.tensor(seed - 2**64 if seed >= 2**63 else seed)


@dataclasses.dataclass
class Case:
    """One drawn problem: which features are on, the table, and every array that may be needed."""

    on: frozenset
    depth: int
    row: int
    table: np.ndarray
    seed: int
    samples: list
    shape: tuple
    arrays: dict
    clip: float
    guidance: float

    @property
    def has(self):
        return {name: name in self.on for name in FEATURES}

    def tensor(self, name):
        return torch.from_numpy(self.arrays[name])

    def history(self):
        return [self.tensor(f"m{j}") for j in range(1, self.depth)][: self.row + 1]

    def extras(self):
        has, values = self.has, {"history_is_x0": "history_is_x0" in self.on}
        if has["clip"]:
            values["clip"] = self.clip
        if has["guidance"] and has["network"]:
            weight = torch.tensor(self.guidance, dtype=torch.float64)
            values |= {"uncond": self.tensor("uncond"), "guidance": weight}
        if has["step"] or has["known"]:
            values |= {"seed": signed(self.seed), "samples": torch.tensor(self.samples)}
        if has["step"]:
            values["step_stream"] = STEP
        if has["z"]:
            values["z"] = self.tensor("z")
        if has["known"]:
            values |= {"known": self.tensor("known"), "mask": self.tensor("mask")}
            values["known_stream"] = KNOWN
        return Extras(**values)

    def update(self, dtype=torch.float64):
        out = self.tensor("out") if self.has["network"] else None
        return update(
            torch.from_numpy(self.table).to(dtype),
            torch.tensor(self.row),
            self.tensor("x").to(dtype),
            self.tensor("y").to(dtype),
            out,
            [m.to(dtype) for m in self.history()],
            self.extras(),
        )

    def drawn(self, stream):
        noise = Noise(self.seed).normal(self.samples, self.shape, row=self.row, stream=stream)
        return noise.numpy().astype(np.float64)

    def in_numpy(self):
        """Evaluate the row as the plan's module writes it; return x, y, x0 and m0."""
        has, at = self.has, self.arrays
        k = dict(zip(NAMES, self.table[self.row], strict=False))
        b, q = self.table[self.row, 10:].reshape(2, self.depth)
        moved, predictions, x0, m0 = k["a"] * at["x"], [], None, None
        if has["network"]:
            out = at["out"]
            if has["guidance"]:
                out = at["uncond"] + self.guidance * (out - at["uncond"])
            x0 = k["r"] * at["y"] + k["s"] * out
            if has["clip"]:
                x0 = np.where(np.abs(x0) > self.clip, np.sign(x0) * self.clip, x0)
            m0 = x0 if has["history_is_x0"] else k["u"] * at["y"] + k["v"] * out
            predictions = [m0, *(m.numpy() for m in self.history())]
            moved = moved + k["w"] * x0 + sum(w * m for w, m in zip(b, predictions, strict=False))
        if has["z"] or has["step"]:
            moved = moved + k["c"] * (at["z"] if has["z"] else self.drawn(Stream.STEP))
        if has["known"]:
            noisy = k["known_signal"] * at["known"] + k["known_sigma"] * self.drawn(Stream.KNOWN)
            moved = noisy * at["mask"] + moved * (1 - at["mask"])
        point = k["p"] * moved + sum(w * m for w, m in zip(q, predictions, strict=False))
        return moved, point, x0, m0


@st.composite
def cases(draw):
    depth, rows = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    shape = draw(st.sampled_from([(1,), (3,), (2, 3), (1, 2, 5)]))
    count = draw(st.integers(1, 3))
    size = rows * (10 + 2 * depth)
    table = np.array(draw(st.lists(COEFFICIENT, min_size=size, max_size=size)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = ("x", "y", "out", "uncond", "z", "known", *(f"m{j}" for j in range(1, depth)))
    arrays = {name: rng.normal(size=(count, *shape)) for name in names}
    # A mask of one sample and channel broadcasts; values between 0 and 1 feather the border.
    mask_shape = draw(st.sampled_from([(count, *shape), (1,) * (1 + len(shape))]))
    arrays["mask"] = rng.choice([0.0, 1.0, 0.25], size=mask_shape)
    return Case(
        on=frozenset(draw(st.sets(st.sampled_from(FEATURES)))),
        depth=depth,
        row=draw(st.integers(0, rows - 1)),
        table=table.reshape(rows, -1),
        seed=draw(st.integers(0, 2**64 - 1)),
        samples=draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)),
        shape=shape,
        arrays=arrays,
        clip=draw(st.floats(0.01, 3)),
        guidance=draw(st.floats(-2, 8)),
    )


@given(case=cases())
@settings(deadline=None, max_examples=80)
def test_update_is_its_formulas(case):
    for ours, exact in zip(case.update(), case.in_numpy(), strict=True):
        assert (ours is None) == (exact is None)
        if exact is not None:
            assert ours.dtype == torch.float64
            np.testing.assert_allclose(ours.numpy(), exact, rtol=1e-12, atol=1e-12)


@given(case=cases())
@settings(deadline=None, max_examples=20)
def test_float32_stays_float32(case):
    for name in ("out", "uncond", "z", "known", "mask"):
        case.arrays[name] = case.arrays[name].astype(np.float32)
    for ours, exact in zip(case.update(torch.float32), case.in_numpy(), strict=True):
        if exact is not None:
            assert ours.dtype == torch.float32
            # Sums of up to 20 products, each below 3^3 * 10 * 6: rounding, and no more.
            np.testing.assert_allclose(ours.numpy(), exact, rtol=1e-5, atol=1e-2)


def plain(dtype=torch.float64, shape=(2, 3, 4, 4), depth=2):
    """Return a valid call: table, row, x, y, out and history."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    table = normal(3, 10 + 2 * depth)
    history = [normal(*shape) for _ in range(depth - 1)]
    return [table, torch.tensor(1), normal(*shape), normal(*shape), normal(*shape), history]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_low_precision_output_is_read_as_it_is(dtype):
    table, row, x, y, out, history = plain()
    low = out.to(dtype)
    extras = Extras(uncond=low * 2, guidance=torch.tensor(3.0))
    wide = dataclasses.replace(extras, uncond=extras.uncond.double())
    ours = update(table, row, x, y, low, history, extras)
    assert all(part.dtype == torch.float64 for part in ours)
    assert same(ours, update(table, row, x, y, low.double(), history, wide))


def test_known_pixels_of_any_dtype_leave_the_states_alone():
    table, row, x, y, out, history = plain(torch.float32)
    known, mask = y.double(), x > 0
    extras = Extras(known=known, mask=mask, known_stream=KNOWN, **GOOD)
    fitting = dataclasses.replace(extras, known=y, mask=mask.float())
    ours = update(table, row, x, y, out, history, extras)
    assert all(part.dtype == torch.float32 for part in ours)
    assert same(ours, update(table, row, x, y, out, history, fitting))


def test_strides_do_not_matter():
    table, row, x, y, out, history = plain()
    expected = update(table, row, x, y, out, history)
    last = out.contiguous(memory_format=torch.channels_last)
    every = torch.zeros(2, 3, 4, 8, dtype=torch.float64)[..., ::2].copy_(out)
    turned = out.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (last, every, turned):
        assert not other.is_contiguous()
        assert same(update(table, row, x, y, other, history), expected)
        assert same(
            update(table, row, other, y, out, history), update(table, row, out, y, out, history)
        )


def test_noise_does_not_depend_on_the_layout_of_the_state():
    table, row, x, y, out, history = plain()
    extras = Extras(seed=torch.tensor(5), samples=torch.tensor([3, 9]), step_stream=STEP)
    last = x.contiguous(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert same(
        update(table, row, last, y, out, history, extras),
        update(table, row, x, y, out, history, extras),
    )


def test_nothing_is_written_to():
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
    inputs = [table, row, x, y, out, *history]
    inputs += [v for v in vars(extras).values() if isinstance(v, torch.Tensor)]
    copies = [value.clone() for value in inputs]
    update(table, row, x, y, out, history, extras)
    assert same(inputs, copies)


def test_the_row_is_a_tensor_that_chooses_coefficients_and_noise():
    table, _, x, y, out, history = plain()
    extras = Extras(seed=torch.tensor(5), samples=torch.arange(2), step_stream=STEP)
    rows = [update(table, torch.tensor(i), x, y, out, history, extras).x for i in range(3)]
    assert not torch.equal(rows[0], rows[1])
    repeated = table[:1].expand(3, -1)
    rows = [update(repeated, torch.tensor(i), x, y, out, history, extras).x for i in range(2)]
    assert not torch.equal(*rows)  # the same coefficients, another row of noise


def test_a_short_history_is_what_there_is():
    """The first rows of a multistep plan have fewer predictions than its depth."""
    table, row, x, y, out, _ = plain(depth=3)
    zeros = [torch.zeros_like(x)] * 2
    assert same(update(table, row, x, y, out, []), update(table, row, x, y, out, zeros))


ODD = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
FITS = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
AWAY = FITS.to("meta")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(12)}, "table has shape"),
        ({0: torch.zeros(3, 10)}, "table has shape"),
        ({0: torch.zeros(3, 13)}, "table has shape"),
        ({3: ODD}, "y has shape"),
        ({4: ODD}, "out has shape"),
        ({5: [FITS, ODD]}, r"history\[1\] has shape"),
        ({3: AWAY}, "y is on meta"),
        ({4: AWAY}, "out is on meta"),
        ({5: [AWAY]}, r"history\[0\] is on meta"),
        ({2: FITS.int(), 3: FITS.int()}, "x has dtype torch.int32"),
        ({2: FITS.half(), 3: FITS.half()}, "x has dtype torch.float16"),
        ({3: FITS.float()}, "y has dtype torch.float32"),
        ({5: [FITS.float()]}, r"history\[0\] has dtype torch.float32"),
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
    ],
)
def test_extras_that_lack_a_companion_are_refused(extras, message):
    with pytest.raises(ValueError, match=message):
        update(*plain(), Extras(**extras))


def test_the_implementation_is_met_or_refused():
    arguments = plain()
    default = update(*arguments)
    assert same(update(*arguments, impl="reference"), default)
    assert same(update(*arguments, impl="auto"), default)
    with pytest.raises(RuntimeError, match=r"update: impl 'triton' cannot run here.*reference"):
        update(*arguments, impl="triton")
    with pytest.raises(ValueError, match="impl 'cuda' is none of auto, triton, reference"):
        update(*arguments, impl="cuda")
