"""The executor against a NumPy loop, and what it promises: memory, batches, seeds, observers."""

import math
import weakref

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from ddimx.kernels.update import update
from ddimx.noise import Noise, Stream
from ddimx.solvers import executor
from ddimx.solvers.ddim import ddim
from ddimx.solvers.executor import Draw, Known, Raw, execute
from ddimx.solvers.plan import SCALARS, Plan
from ddimx.solvers.schedule import Schedule, betas
from tests.solvers.exact import Solver

SHAPE = (3, 2)
SEED = 2**63 + 2**40 + 5  # past int64, and with bits in both halves of the key


def handmade(rows=6, depth=3, silent=(2,), **changes):
    """Return a plan that uses every coefficient and stays bounded; ``silent`` rows have no t."""
    rng = np.random.default_rng(3)
    t = 10.0 * np.arange(rows, 0, -1)
    columns = {name: rng.uniform(0.1, 0.5, rows) * rng.choice([-1, 1], rows) for name in SCALARS}
    columns |= {"b": rng.uniform(-0.4, 0.4, (rows, depth))}
    columns |= {"q": rng.uniform(-0.4, 0.4, (rows, depth))}
    columns |= {"t": np.where(np.isin(np.arange(rows), silent), np.nan, t)}
    columns |= {"t_from": t, "t_to": t - 10, "prediction": "epsilon"}
    return Plan(**{**columns, **changes})


def toy(y, t):
    """A network of multiplications and additions alone, whose bits no batch can change."""
    return Raw((0.3 - 0.05 * y * y) * y + t.double().view(-1, 1, 1) / 64, None)


def guided(y, t):
    out = toy(y, t).out
    return Raw(out, 0.5 * out * out - y)


def numpy_noise(seed, samples, row, stream):
    drawn = Noise(seed).normal(samples, SHAPE, row=row, stream=stream, dtype=torch.float64)
    return drawn.numpy()


def numpy_run(plan, evaluate, x, *, seed=SEED, samples=(), z=None, guidance=1.0, known=None):
    """Run a plan as its module's formulas say, one row after the other; return (x, y, x0)s."""
    y, past, found = x, [], []
    for i in range(len(plan)):
        moved, x0, predictions = plan.a[i] * x, None, []
        if not math.isnan(plan.t[i]):
            t = torch.full((len(x),), plan.t[i], dtype=torch.float32)
            raw = evaluate(torch.from_numpy(y), t)
            out = raw.out.numpy()
            if raw.uncond is not None:
                weight = plan.g[i] * guidance + 1 - plan.g[i]
                out = raw.uncond.numpy() + weight * (out - raw.uncond.numpy())
            x0, eps = plan.r[i] * y + plan.s[i] * out, plan.u[i] * y + plan.v[i] * out
            if plan.clip is not None:
                x0 = np.minimum(np.maximum(x0, -plan.clip), plan.clip)
            if plan.threshold is not None:
                share, most = plan.threshold
                bound = np.quantile(np.abs(x0), share, axis=(1, 2), keepdims=True).clip(1, most)
                x0 = x0.clip(-bound, bound) / bound
            past = [x0 if plan.history == "x0" else eps, *past]
            predictions = past[: plan.depth]
            moved = moved + plan.w[i] * x0
        noise = numpy_noise(seed, samples, i, Stream.STEP) if z is None else z(i).numpy()
        moved = moved + sum(b * m for b, m in zip(plan.b[i], predictions, strict=False))
        moved = moved + plan.c[i] * noise
        if known is not None:
            level = plan.known_signal[i], plan.known_sigma[i]
            fresh = numpy_noise(seed, samples, i, Stream.KNOWN)
            pixels = level[0] * known.pixels.numpy() + level[1] * fresh
            moved = np.where(known.mask.numpy() == 1, pixels, moved)
        x = moved
        y = plan.p[i] * x + sum(q * m for q, m in zip(plan.q[i], predictions, strict=False))
        found.append((x, y, x0))
    return found


def start(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)


def known_half():
    mask = torch.zeros(1, 3, 2, dtype=torch.float64)
    mask[:, 1:] = 1
    return Known(start(5, 9), mask.expand(5, 3, 2))


def compare(plan, evaluate=toy, *, seed=SEED, z=None, guidance=1.0, known=None):
    x, samples = start(5), torch.tensor([7, 0, 2**32 - 1, 3, 4])
    draw = Draw(Noise(seed), samples, z)
    steps = list(execute(plan, evaluate, x, draw, guidance=guidance, known=known))
    exact = numpy_run(
        plan,
        evaluate,
        x.numpy(),
        seed=seed,
        samples=samples,
        z=z,
        guidance=guidance,
        known=known,
    )
    assert len(steps) == len(exact) == len(plan)
    for step, values in zip(steps, exact, strict=True):
        for ours, value in zip((step.x, step.y, step.x0), values, strict=True):
            assert (ours is None) == (value is None)
            if value is not None:
                assert ours.dtype == torch.float64
                np.testing.assert_allclose(ours.numpy(), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("history", ["epsilon", "x0"])
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_every_depth_of_history(depth, history):
    compare(handmade(rows=9, depth=depth, history=history))


@pytest.mark.parametrize("silent", [(), (0,), (1, 2), (5,), tuple(range(6))])
def test_rows_that_call_no_network(silent):
    calls = []

    def counting(y, t):
        calls.append(t.tolist())
        return toy(y, t)

    plan = handmade(silent=silent)
    compare(plan, counting)
    heard = [[t] * 5 for t in plan.t if not math.isnan(t)]
    assert len(heard) == plan.nfe == 6 - len(silent)
    assert calls == [*heard, *heard]  # of the executor, then of the loop


@pytest.mark.parametrize("clip", [0.05, 0.3])
def test_clip(clip):
    plan = handmade(clip=clip)
    compare(plan)
    steps = execute(plan, toy, start(5), Draw(Noise(0), torch.arange(5)))
    largest = [step.x0.abs().max().item() for step in steps if step.x0 is not None]
    assert max(largest) == clip


@pytest.mark.parametrize("known", [None, known_half()])
def test_dynamic_thresholding(known):
    plan = handmade(depth=1, p=np.ones(6), q=np.zeros((6, 1)), r=np.full(6, 5.0))
    compare(plan.with_threshold(0.7, 1.5), known=known)


def test_dynamic_thresholding_keeps_the_digits_of_float32():
    """x0 before it is 2e4 where alpha_bar is 2.4e-9; only what is left of it may be added.

    The next state is at most 15, after some ten roundings.
    """
    schedule = Schedule(betas("cosine", 0.0, 0.0, 1000))
    plan = ddim(schedule, np.linspace(0, 999, 5)).with_threshold(0.9, 2.0)
    single, double = (
        next(execute(plan, toy, start(5).to(dtype), Draw(Noise(0), torch.arange(5)))).x
        for dtype in (torch.float32, torch.float64)
    )
    assert (single.double() - double).abs().max() < 10 * 15 * 2**-24


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5, -1.0])
def test_guidance(guidance):
    compare(handmade(), guided, guidance=guidance)


def test_rows_without_guidance_take_one_pass_and_the_history_is_what_each_row_predicted():
    g = np.array([0, 1, 1, 0.5, 0, 1.0])
    plan, calls = handmade(g=g, silent=(2,)), []

    def alone(y, t):
        calls.append(float(t[0]))
        return toy(y, t)

    draw = Draw(Noise(SEED), torch.arange(5))
    steps = list(execute(plan, guided, start(5), draw, guidance=3.0, unguided=alone))
    assert calls == plan.t[[0, 4]].tolist()
    exact = numpy_run(plan, guided, start(5).numpy(), samples=torch.arange(5), guidance=3.0)
    for step, (x, y, _) in zip(steps, exact, strict=True):
        np.testing.assert_allclose(step.x.numpy(), x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(step.y.numpy(), y, rtol=1e-12, atol=1e-12)


def test_guidance_of_one_is_the_network_alone():
    draw = Draw(Noise(0), torch.arange(5))
    on = list(execute(handmade(), guided, start(5), draw, guidance=1.0))[-1].y
    off = list(execute(handmade(), toy, start(5), draw))[-1].y
    np.testing.assert_allclose(on.numpy(), off.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1, 2**63, SEED, 2**64 - 1])
def test_known_pixels_and_noise_are_the_seeds(seed):
    compare(handmade(), seed=seed, known=known_half())


def test_known_pixels_take_part_in_the_next_point():
    """The last row of a real plan pastes the known pixels themselves."""
    plan = Solver("ddim", 1.0).plan([100.0, 400.0, 900.0])
    known = known_half()
    draw = Draw(Noise(1), torch.arange(5))
    last = list(execute(plan, toy, start(5), draw, known=known))[-1]
    keep = known.mask == 1
    assert torch.equal(last.y[keep], known.pixels[keep])
    assert not torch.isclose(last.y[~keep], known.pixels[~keep]).any()


def test_z_replaces_the_drawn_noise():
    asked = []

    def z(row):
        asked.append(row)
        return start(5, seed=100 + row)

    plan = handmade()
    compare(plan, z=z)
    assert asked == [*range(6), *range(6)]
    compare(plan, z=z, known=known_half())  # the noise on known pixels is still the seed's


@pytest.mark.parametrize(
    ("noisy", "given", "stream"),
    [
        (True, False, int(Stream.STEP)),
        (True, True, None),
        (False, False, None),
        (False, True, None),
    ],
)
def test_noise_is_drawn_only_where_it_is_added_and_not_given(noisy, given, stream, monkeypatch):
    plan = Solver("ddim", 1.0 if noisy else 0.0).plan(np.array([100.0, 500.0]))
    seen = []
    monkeypatch.setattr(
        executor, "update", lambda *a: (seen.append(a[6].step_stream), update(*a))[1]
    )
    x = torch.zeros(2, *SHAPE, dtype=torch.float64)
    z = (lambda row: torch.ones_like(x)) if given else None
    list(execute(plan, toy, x, Draw(Noise(1), torch.arange(2), z)))
    assert seen == [stream] * 2


def test_a_plan_without_noise_ignores_the_seed():
    plan = handmade(c=np.zeros(6))
    ends = [
        list(execute(plan, toy, start(5), Draw(Noise(seed), torch.arange(5))))[-1].y
        for seed in (0, 1)
    ]
    assert torch.equal(*ends)


def test_an_observer_sees_each_row_once():
    plan = handmade()
    steps = execute(plan, toy, start(5), Draw(Noise(0), torch.arange(5)))
    seen = [(s.row, s.t, s.t_to) for s in steps]
    assert [row for row, _, _ in seen] == list(range(6))
    np.testing.assert_array_equal([t for _, t, _ in seen], plan.t)
    assert [t_to for _, _, t_to in seen] == plan.t_to.tolist()


def test_rows_run_when_they_are_asked_for():
    """A consumer that stops early has paid for what it saw and no more."""
    calls = []

    def counting(y, t):
        calls.append(float(t[0]))
        return toy(y, t)

    run = execute(handmade(silent=()), counting, start(5), Draw(Noise(0), torch.arange(5)))
    assert calls == []
    next(run)
    next(run)
    assert calls == [60.0, 50.0]


def test_gradients_are_off_in_the_run_and_on_outside():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def network(y, t):
        assert not torch.is_grad_enabled()
        return Raw(weight * y, None)

    for step in execute(handmade(), network, start(5), Draw(Noise(0), torch.arange(5))):
        assert not step.y.requires_grad
        assert torch.is_grad_enabled()


def test_the_state_keeps_its_dtype():
    def half(y, t):
        return Raw(y.to(torch.bfloat16), None)

    x = start(5).to(torch.float32)
    known = Known(known_half().pixels.float(), known_half().mask.float())
    for step in execute(handmade(), half, x, Draw(Noise(0), torch.arange(5)), known=known):
        assert step.x.dtype == step.y.dtype == torch.float32
        assert step.x0 is None or step.x0.dtype == torch.float32


SPLITS = {
    "ones": [[i] for i in range(7)],
    "threes": [[0, 1, 2], [3, 4, 5], [6]],
    "permuted": [[4, 1, 6, 0], [5, 3, 2]],
}
FIRST = 40  # the start index


@pytest.mark.parametrize("depth", [1, 6])
def test_a_sample_does_not_depend_on_its_company(depth):
    plan = handmade(rows=depth + 1, depth=depth, silent=(1,), clip=0.8)
    pixels, mask = start(7, 9), (start(7, 8) > 0).double()

    def run(indices):
        samples = torch.tensor(indices) + FIRST
        x = Noise(SEED).normal(samples, SHAPE, dtype=torch.float64)
        draw, known = Draw(Noise(SEED), samples), Known(pixels[indices], mask[indices])
        steps = list(execute(plan, guided, x, draw, guidance=2.0, known=known))
        return torch.stack([torch.stack([s.x, s.y]) for s in steps], dim=2)  # [2, B, rows, ...]

    whole = run(list(range(7)))
    assert len(whole[0].unique(dim=0)) == 7
    for name, parts in SPLITS.items():
        for indices in parts:
            assert torch.equal(run(indices), whole[:, indices]), name


class Census(TorchFunctionMode):
    """Counts the tensors of one shape that are alive, at every operation."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.alive = {}
        self.most = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape == self.shape:
            key = id(result)
            self.alive[key] = weakref.ref(result, lambda _: self.alive.pop(key))
            self.most = max(self.most, len(self.alive))
        return result


def most_alive(steps, depth):
    """Run a plan and return the largest number of state-sized tensors alive at any time."""
    plan = Solver("ddim", 1.0).plan(np.linspace(0, 999, steps).round())
    wide = np.concatenate([plan.b, np.full((steps, depth - 1), 1e-3)], axis=1)
    plan = Plan(**{**vars(plan), "b": wide, "q": np.zeros_like(wide)})
    x = torch.zeros(2, 7, 11, dtype=torch.float64)
    draw = Draw(Noise(0), torch.arange(2), lambda row: torch.ones(x.shape, dtype=torch.float64))
    with Census(x.shape) as census:
        rows = [step.row for step in execute(plan, lambda y, t: Raw(0.1 * y, None), x, draw)]
    assert rows == list(range(steps))
    return census.most


@pytest.mark.parametrize("depth", [1, 4])
def test_memory_does_not_grow_with_the_number_of_steps(depth):
    few, many = most_alive(10, depth), most_alive(200, depth)
    assert few == many
    # x and y before and after the row, raw output, x0, the history, and a few terms of the sum.
    assert many <= 12 + 3 * depth
