"""The Triton update against the reference: in the interpreter, or on a card where there is one."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given

from ddimx.kernels.philox import reference as philox
from ddimx.kernels.update import Extras, launch, update
from ddimx.kernels.update.columns import TABLE as COLUMNS
from ddimx.kernels.update.layout import Strides, addressable, is_flat, strides_of
from ddimx.noise import Noise, Stream
from tests.conftest import examples
from tests.kernels.inside import REASON, only_inside
from tests.kernels.update_cases import KNOWN, STEP, cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# No multiple of anything, one element, one sample larger than a tile, channels alone.
ODD_SHAPES = [(1,), (3,), (1, 5, 7), (3, 4, 4), (2, 9, 1), (1031,), (3, 2, 5, 3)]


def on_device(value):
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE)
    if isinstance(value, Extras):
        return Extras(**{name: on_device(part) for name, part in vars(value).items()})
    return value


def call(arguments, **options):
    """Update on the tests' device; return x', y', x0 and the history, on the host."""
    same = arguments[3] is arguments[2]
    moved = [on_device(value) for value in arguments]
    moved[3] = moved[2] if same else moved[3]
    results = [*update(*moved, impl="triton", **options), moved[5]]
    return [None if value is None else value.cpu() for value in results]


@given(case=cases(ODD_SHAPES))
@examples(30)
def test_any_row_is_its_formulas(case):
    found = call(case.arguments(torch.float32))
    for ours, exact, bound in zip(found, case.in_numpy(), case.rounding(), strict=True):
        assert (ours is None) == (exact is None)
        if exact is not None:
            assert ours.dtype == torch.float32
            assert (np.abs(ours.numpy() - exact) <= bound).all()


def plain(shape=(2, 3, 6, 4), dtype=torch.float32, depth=3, **extras):
    """Return a valid call with every feature on; ``extras`` changes them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    table = normal(4, len(COLUMNS) + 2 * depth)
    table[:, COLUMNS.index("calls")] = torch.tensor([0, 1, 1, 2])
    chosen = {
        "clip": 1.5,
        "uncond": normal(*shape).to(dtype),
        "guidance": torch.tensor(2.5),
        "seed": torch.tensor(-5),
        "samples": torch.arange(shape[0]) + 2**32 - 2,
        "step_stream": STEP,
        "known": normal(*shape),
        "mask": normal(shape[0], 1, *shape[2:]) > 0,
        "known_stream": KNOWN,
    }
    x, y, out = normal(*shape), normal(*shape), normal(*shape).to(dtype)
    history = normal(depth - 1, *shape) if depth > 1 else None
    return [table, torch.tensor(2), x, y, out, history, Extras(**chosen | extras)]


def reference(arguments):
    copied = [value.clone() if isinstance(value, torch.Tensor) else value for value in arguments]
    return [*update(*copied, impl="reference"), copied[5]]


def close(found, expected):
    # A handful of float32 roundings of values of order 30, and normals good to 1e-5.
    return all(
        torch.allclose(a, b, rtol=0, atol=2e-4) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 3, 6, 4), (3, 3, 5, 7), (2, 1, 16, 20)])
def test_outputs_of_every_dtype_and_layout(dtype, shape):
    arguments = plain(shape, dtype)
    expected = reference(arguments)
    out, extras = arguments[4], arguments[6]
    wide = torch.zeros(shape[0], 2 * shape[1], *shape[2:], dtype=dtype)
    pair = torch.cat([out, extras.uncond])
    layouts = {
        "NCHW": (out, extras.uncond),
        "NHWC": tuple(
            v.contiguous(memory_format=torch.channels_last) for v in (out, extras.uncond)
        ),
        "one of each": (out.contiguous(memory_format=torch.channels_last), extras.uncond),
        "halves of a batch": pair.chunk(2),
        "half of the channels": (wide[:, : shape[1]].copy_(out), extras.uncond),
        "no strides of its own": (out.transpose(2, 3).contiguous().transpose(2, 3), extras.uncond),
    }
    for name, (cond, uncond) in layouts.items():
        changed = [*arguments]
        changed[4], changed[6] = cond, dataclasses.replace(extras, uncond=uncond)
        changed[5] = arguments[5].clone()
        assert close(call(changed), expected), name


def test_every_element_is_written_and_nothing_else():
    """Results and history lie in larger tensors full of NaN, and are NaN themselves at first."""
    arguments = plain((3, 3, 5, 7))
    expected = reference(arguments)
    ready = launch.prepare(*[on_device(value) for value in arguments])
    guarded = {}
    for name in ("x_to", "y_to", "x0_to", "history"):
        value = ready.arguments[name]
        wide = torch.full((value.numel() + 4096,), torch.nan, device=DEVICE)
        inner = wide[2048 : 2048 + value.numel()].view(value.shape)
        if name == "history":
            inner.copy_(value)
        ready.arguments[name], guarded[name] = inner, wide
    launch.start(ready)
    for name, exact in zip(guarded, expected, strict=True):
        wide = guarded[name].cpu()
        assert wide[:2048].isnan().all(), name
        assert wide[2048 + exact.numel() :].isnan().all(), name
        assert torch.allclose(wide[2048 : 2048 + exact.numel()].view(exact.shape), exact, atol=2e-4)


@pytest.mark.skipif(DEVICE == "cuda", reason=REASON)
@pytest.mark.parametrize("given", [False, True])
def test_nothing_is_read_or_written_outside(given):
    shape = (2, 3, 5, 7)
    extras = {"z": torch.zeros(shape), "step_stream": None} if given else {}
    for row in (2, 4, -1):
        arguments = plain(shape, **extras)
        arguments[1] = torch.tensor(row)
        ready = launch.prepare(*arguments)
        with only_inside(ready.arguments.values()):
            launch.start(ready)


def test_an_inner_dimension_of_two_counts():
    assert strides_of(torch.zeros(1, 1, 5, 4)[..., :2]) is None
    assert strides_of(torch.zeros(1, 1, 5, 2)) == Strides(10, 0, 1)
    assert strides_of(torch.zeros(2, 3, 5, 4)[..., :1]) == Strides(60, 20, 4)


def test_what_is_not_wanted_is_not_written():
    arguments = plain(depth=1, same_point=True, want_x0=False)
    arguments[3] = arguments[2]
    ready = launch.prepare(*[on_device(value) for value in arguments])
    moved, point, x0 = ready.results
    assert point is moved
    assert x0 is None
    assert all(ready.arguments[name] is moved for name in ("y_to", "x0_to", "history"))
    found, expected = call(arguments), reference(arguments)
    assert found[1] is not None  # the state itself
    assert close([found[0]], [expected[0]])


def test_the_words_are_those_of_the_reference():
    """With coefficients of 0 and c = 1 the state is the noise itself."""
    samples, seed = [0, 7, 2**31 + 5, 2**32 - 1], 2**63 + 12345
    table = torch.zeros(40, len(COLUMNS) + 2)
    table[:, COLUMNS.index("c")] = 1.0
    x = torch.zeros(4, 1030)
    for row, stream in ((0, 1), (39, 2)):
        extras = Extras(
            seed=torch.tensor(seed - 2**64), samples=torch.tensor(samples), step_stream=stream
        )
        drawn = call([table, torch.tensor(row), x, x, None, None, extras])[0]
        expected = Noise(seed).normal(samples, (1030,), row=row, stream=stream)
        assert (drawn - expected).abs().max() < 1e-5
        # Another word would move it by far more: normals of one word are all over the place.
        assert philox.normal(seed, torch.tensor([1]), row, stream, 4).isfinite().all()


def test_a_batch_can_be_split_and_permuted_bit_for_bit():
    arguments = plain((5, 3, 6, 4))
    whole = call([*arguments[:5], arguments[5].clone(), arguments[6]])
    for part in ([0], [1, 2], [4, 3]):
        extras = {
            name: value[part] if isinstance(value, torch.Tensor) and value.dim() else value
            for name, value in vars(arguments[6]).items()
        }
        states = [value[part] for value in arguments[2:5]]
        history = arguments[5][:, part].contiguous()
        found = call([*arguments[:2], *states, history, Extras(**extras)])
        for ours, all_of_them in zip(found[:3], whole[:3], strict=True):
            assert torch.equal(ours, all_of_them[part])


@pytest.mark.parametrize("row", [-1, 4, 2**40])
def test_a_row_outside_the_table_gives_nan_where_the_host_cannot_know(row):
    arguments = plain()
    arguments[1] = torch.tensor(row)
    before = arguments[5].clone()
    ready = launch.prepare(*[on_device(value) for value in arguments])
    launch.start(ready)
    assert all(result.isnan().all() for result in ready.results)
    assert len(ready.results) == 3
    assert torch.equal(ready.arguments["history"].cpu(), before)


def test_nan_of_the_network_is_not_hidden_by_the_clip():
    arguments = plain()
    arguments[4][0, 1, 2, 3] = torch.nan
    found = call(arguments)
    for value in (*found[:3], found[3][1]):  # one earlier call: the prediction goes into slot 1
        assert value[0, 1, 2, 3].isnan()
        assert value.isnan().sum() == 1


def test_an_empty_batch_is_an_empty_result():
    table = torch.zeros(1, len(COLUMNS) + 2)
    x = torch.zeros(0, 3, 4, 4)
    found = call([table, torch.tensor(0), x, x, x, None, Extras()])
    assert found[0].shape == x.shape


# --- the launch, without running it ---------------------------------------------------------------


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_more_than_2_31_elements_in_a_batch():
    """Sizes beyond 32 bits reach the kernel whole; nothing is allocated."""
    shape = (12_000, 3, 256, 256)
    out = meta(*shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    ready = launch.prepare(
        meta(5, 15),
        meta(dtype=torch.int64),
        meta(*shape),
        meta(*shape),
        out,
        meta(1, *shape),
        Extras(),
    )
    assert meta(*shape).numel() > 2**31
    assert ready.results.x.shape == shape
    assert ready.arguments["slot_size"] == 12_000 * 196_608
    assert ready.grid * ready.constants["BLOCK"] == meta(*shape).numel()
    assert ready.arguments["numel"] == 196_608


def test_a_sample_with_2_31_elements_is_refused():
    x = meta(1, 2**31)
    with pytest.raises(ValueError, match="one sample has 2147483648 elements"):
        update(meta(1, len(COLUMNS) + 2), meta(dtype=torch.int64), x, x, x)


@pytest.mark.parametrize(("numel", "expected"), [(1, 256), (192, 256), (257, 512), (9999, 1024)])
def test_a_tile_depends_on_the_sample_alone(numel, expected):
    block, warps = launch.tile(numel)
    assert block == expected
    assert block == 8 * 32 * warps  # two groups of four for each thread


@pytest.mark.parametrize(
    ("value", "strides", "flat"),
    [
        (meta(2, 3, 4, 5), Strides(60, 20, 1), True),
        (meta(2, 3, 4, 5).to(memory_format=torch.channels_last), Strides(60, 1, 3), False),
        (meta(2, 6, 4, 5)[:, :3], Strides(120, 20, 1), True),
        (meta(2, 4, 5).expand(3, 2, 4, 5), Strides(0, 20, 1), True),
        (meta(2, 1, 1, 1).expand(2, 3, 4, 5), Strides(1, 0, 0), False),
        (meta(2, 7), Strides(7, 1, 0), True),
        (meta(2, 3, 5, 4).transpose(2, 3), None, None),
        (meta(2, 1, 1, 1), Strides(1, 0, 0), True),
    ],
)
def test_strides(value, strides, flat):
    assert strides_of(value) == strides
    copied, found = addressable(value)
    assert (copied is value) == (strides is not None)
    channels, inner = value.shape[1], value[0, 0].numel()
    assert is_flat(found, channels, inner) == (True if strides is None else flat)


def test_streams_in_the_kernel_are_those_of_the_enum():
    ready = launch.prepare(*plain())
    assert ready.constants["STEP_STREAM"] == Stream.STEP
    assert ready.constants["KNOWN_STREAM"] == Stream.KNOWN
