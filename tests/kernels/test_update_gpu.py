"""The update on a CUDA device: error budgets, replayed graphs, sizes past 32 bits."""

import dataclasses

import numpy as np
import pytest
import torch

from ddimx.kernels.update import Extras, update
from ddimx.kernels.update.columns import TABLE as COLUMNS
from ddimx.noise import Noise
from tests.kernels.test_update_kernel import on_device, plain
from tests.kernels.update_cases import STEP

pytestmark = pytest.mark.gpu


def moved(arguments):
    return [on_device(value) for value in arguments]


def double(arguments):
    """Return the arguments in float64, on the host; noise is the reference's float32 normals."""

    def wide(value):
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if floating else value

    extras = Extras(**{name: wide(value) for name, value in vars(arguments[6]).items()})
    return [*(wide(value) for value in arguments[:6]), extras]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (2, 3, 256, 256), (3, 3, 33, 31)])
def test_error_is_within_eager_float32s(dtype, shape):
    """Against float64, twice what eager PyTorch makes in float32 of the same row, and the store's.

    It is the budget of attention's tests: one rounding of the largest result comes to it.
    """
    arguments = plain(shape, dtype)
    exact = update(*double(arguments), impl="reference")
    eager = update(*moved(arguments), impl="reference")
    ours = update(*moved(arguments), impl="triton")
    for name in ("x", "y", "x0"):
        truth = getattr(exact, name)
        budget = (getattr(eager, name).cpu().double() - truth).abs().max().item()
        error = (getattr(ours, name).cpu().double() - truth).abs().max().item()
        store = torch.finfo(torch.float32).eps * truth.abs().max().item()
        assert error <= 2 * budget + store, name


def test_noise_is_the_hosts():
    x = torch.zeros(3, 3, 64, 64, device="cuda")
    table = torch.zeros(5, len(COLUMNS) + 2, device="cuda")
    table[:, COLUMNS.index("c")] = 1.0
    samples = torch.tensor([0, 9, 2**32 - 1])
    extras = Extras(seed=torch.tensor(77, device="cuda"), samples=samples.cuda(), step_stream=STEP)
    drawn = update(table, torch.tensor(3, device="cuda"), x, x, None, None, extras).x.cpu()
    expected = Noise(77).normal(samples, (3, 64, 64), row=3, stream=STEP)
    assert (drawn - expected).abs().max() < 1e-5


def test_a_captured_row_is_replayed_for_every_row():
    """One graph of one row; adding 1 to the row's tensor makes it the next."""
    arguments = moved(plain(depth=3))
    table, _, x, y, out, history, extras = arguments
    extras = dataclasses.replace(extras, want_x0=False)
    expected, ring, state = [], history.clone(), (x, y)
    for i in range(4):
        row = torch.tensor(i, device="cuda")
        stepped = update(table, row, *state, out, ring, extras)
        state = (stepped.x, stepped.y)
        expected.append(stepped.x.clone())

    row = torch.tensor(0, device="cuda")
    update(table, row, x, y, out, history.clone(), extras)  # compiled before the capture
    held, point, kept = x.clone(), y.clone(), history.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stepped = update(table, row, held, point, out, kept, extras)
        held.copy_(stepped.x)
        point.copy_(stepped.y)
        row.add_(1)
    held.copy_(x), point.copy_(y), kept.copy_(history), row.zero_()
    for exact in expected:
        graph.replay()
        assert torch.equal(held, exact)


def test_a_compiled_step_equals_the_eager_one():
    table, row, x, y, out, _, _ = moved(plain(depth=1))

    def step(row, x, y, out):
        return update(table, row, x, y, torch.tanh(out)).x

    compiled = torch.compile(step, fullgraph=True)
    assert torch.allclose(compiled(row, x, y, out), step(row, x, y, out), rtol=1e-6, atol=1e-6)


def test_more_than_2_31_elements():
    """The last sample of a batch past 2^31 elements, against the same sample alone."""
    shape = (11_000, 3, 256, 256)
    free, _ = torch.cuda.mem_get_info()
    if free < 30 * 2**30:
        pytest.skip("needs 30 GiB of free device memory")
    table = torch.from_numpy(np.linspace(0.1, 1.3, len(COLUMNS) + 2)).float().view(1, -1).cuda()
    x = torch.empty(shape, device="cuda", dtype=torch.float32).fill_(0.5)
    x[-1].copy_(torch.linspace(-1, 1, x[-1].numel(), device="cuda").view(shape[1:]))
    row = torch.tensor(0, device="cuda")
    extras = Extras(
        seed=torch.tensor(3, device="cuda"),
        samples=torch.arange(shape[0], device="cuda"),
        step_stream=STEP,
        same_point=True,
        want_x0=False,
    )
    assert x.numel() > 2**31
    whole = update(table, row, x, x, x, None, extras).x[-1:].clone()
    alone = dataclasses.replace(extras, samples=extras.samples[-1:].clone())
    last = x[-1:].clone()
    assert torch.equal(whole, update(table, row, last, last, last, None, alone).x)
