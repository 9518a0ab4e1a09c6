"""Group normalization's Triton kernels, in the interpreter where there is no GPU, against float64.

Inputs lie in storage that is NaN around them and results are NaN beforehand, so that a read or a
write outside, or an element that is left out, shows.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.kernels import _tuned
from ddimx.kernels._launch import architecture
from ddimx.kernels.group_norm_silu import group_norm_silu, launch
from ddimx.kernels.group_norm_silu.op import backward_op, norm_op
from ddimx.kernels.group_norm_silu.tiles import NormTile, candidates, covering, fitting, tile
from ddimx.kernels.group_norm_silu.tiles import problem as problem_of
from tests.conftest import examples
from tests.kernels.group_norm_silu_cases import (
    exact,
    exact_gradients,
    problem,
    sizes_of_gradients,
    within_budget,
)
from tests.kernels.inside import start_inside

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
EPS, ARCH = 1e-5, architecture(torch.device(DEVICE))
# Channels, sides, groups, tile: on chip and in parts, of which the last is smaller; whole groups
# that fill the lanes and such that do not; one group and as many as channels; a pixel.
CASES = {
    "on chip": (32, 8, 8, 8, NormTile(64, 4, 4)),
    "on chip, 3 of 4 channels": (24, 3, 5, 8, NormTile(16, 4, 1)),
    "on chip, 3 of 4 lanes of whole tiles": (48, 2, 2, 16, NormTile(4, 4, 1)),
    "on chip, last block smaller": (20, 7, 1, 5, NormTile(8, 2, 1)),
    "on chip, one group": (12, 2, 2, 1, NormTile(4, 1, 1)),
    "on chip, channels alone": (6, 1, 9, 6, NormTile(16, 4, 1)),
    "on chip, a pixel": (16, 1, 1, 4, NormTile(1, 2, 1)),
    "in a loop": (32, 8, 8, 8, NormTile(16, 4, 4)),
    "in a loop, 3 of 4 channels": (24, 7, 5, 8, NormTile(8, 4, 1)),
    "in parts": (32, 8, 8, 8, NormTile(8, 8, 1, 3)),
    "in parts, 3 of 4 channels": (24, 7, 5, 8, NormTile(8, 8, 1, 3)),
    "in parts, 3 of 4 lanes of whole tiles": (48, 2, 4, 16, NormTile(4, 4, 1, 2)),
    "in parts, last block smaller": (12, 7, 2, 3, NormTile(4, 2, 1, 2)),
    "in parts, channels alone": (6, 3, 5, 6, NormTile(4, 8, 1, 2)),
    "in parts, of which one is left": (8, 3, 3, 2, NormTile(16, 1, 1, 2)),
}


def guarded(tensor):
    """A copy with the same strides inside storage that is NaN on both sides."""
    margin = 512
    storage = tensor.new_full((tensor.numel() + 2 * margin,), float("nan"))
    return storage[margin:-margin].as_strided(tensor.shape, tensor.stride(), margin).copy_(tensor)


def run(x, weight, bias, groups, silu=True, add=None, tiling=None, eps=EPS):
    """The forward launches; all they should fill is NaN before."""
    ready = launch.forward(x, weight, bias, groups, eps, silu, add, ARCH, tiling)
    for result in ready[1:]:
        result.fill_(float("nan"))
    for step in ready.steps:
        start_inside(step)
    return ready[1:]


def run_backward(grad, x, weight, bias, groups, silu=True, add=None, tiling=None):
    """The backward launches from float64's mean and deviation: of x, weight, bias and add."""
    shifted = x.cpu().double() if add is None else x.cpu().double() + add.cpu()[:, :, None, None]
    parts = shifted.reshape(len(x), groups, -1)
    rstd = (parts.var(2, correction=0) + EPS).rsqrt().float().to(x.device)
    mean = parts.mean(2).float().to(x.device)
    ready = launch.backward(grad, x, weight, bias, groups, silu, add, mean, rstd, ARCH, tiling)
    for result in ready[1:]:
        if result is not None:
            result.fill_(float("nan"))
    for step in ready.steps:
        start_inside(step)
    sums = ready.sums.sum((0, 1))
    return [ready.d_x, *sums, *([] if ready.d_add is None else [ready.d_add.sum(1)])]


def check(tensors, groups, silu, add, grad, tiling, mean=0.0):
    x, weight, bias = map(guarded, tensors)
    out, kept, rstd = run(x, weight, bias, groups, silu, add, tiling)
    within_budget(out, exact(*tensors, groups, EPS, silu, add), mean=mean)
    parts = x.cpu().double() if add is None else x.cpu().double() + add.cpu()[:, :, None, None]
    parts = parts.reshape(len(x), groups, -1)
    within_budget(kept, parts.mean(2), size=1 + abs(mean))
    within_budget(rstd, (parts.var(2, correction=0) + EPS).rsqrt(), mean=mean)
    ours = run_backward(guarded(grad), x, weight, bias, groups, silu, add, tiling)
    expected = exact_gradients(grad, *tensors, groups, EPS, silu, add)
    sizes = sizes_of_gradients(grad, *tensors[:2], groups, EPS, add)
    for parts in zip(ours, expected, sizes, strict=True):
        within_budget(*parts, mean=mean)


GATE = ("3 of 4", "last block", "one group", "of which one is left")
NAMES = [name if any(part in name for part in GATE) else pytest.param(name, marks=pytest.mark.full)
          for name in CASES]  # fmt: skip


@pytest.mark.parametrize("add", [True, pytest.param(False, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", NAMES)
def test_against_float64(name, add):
    c, h, w, groups, tiling = CASES[name]
    *tensors, add, grad = problem(1, c, h, w, device=DEVICE, add=add)
    check(tensors, groups, True, add, grad, tiling)


@pytest.mark.parametrize("name", ["on chip, 3 of 4 channels", "in parts, 3 of 4 channels"])
def test_16_bits_without_silu(name):
    """In float16: the interpreter cuts bfloat16 off where it should round."""
    c, h, w, groups, tiling = CASES[name]
    *tensors, add, grad = problem(1, c, h, w, dtype=FP16, device=DEVICE, params=FP32)
    check(tensors, groups, False, add, grad, tiling)


@pytest.mark.filterwarnings("ignore:overflow")  # of lanes without a channel
@pytest.mark.parametrize("name", ["on chip", "in a loop", "in parts, last block smaller"])
def test_a_mean_of_a_thousand_deviations(name):
    """PyTorch's own in NHWC on a CPU errs by 0.7 here: it subtracts a square from a square."""
    c, h, w, groups, tiling = CASES[name]
    *tensors, _, grad = problem(1, c, h, w, device=DEVICE, mean=1000.0, add=False)
    check(tensors, groups, True, None, grad, tiling, mean=1000.0)


@pytest.mark.parametrize("name", ["on chip, 3 of 4 channels", "in parts, 3 of 4 channels"])
def test_an_image_does_not_know_its_batch(name, monkeypatch):
    c, h, w, groups, tiling = CASES[name]
    *tensors, add, grad = problem(2, c, h, w, device=DEVICE)
    whole = run(*tensors, groups, True, add, tiling)
    whole_grads = run_backward(grad, *tensors, groups, True, add, tiling)
    monkeypatch.setattr(launch, "CACHED", 1)  # one image at a time
    for i in range(2):
        alone = [tensors[0][i : i + 1], *tensors[1:]]
        ours = run(*alone, groups, True, add[i : i + 1], tiling)
        assert all(torch.equal(a[0], b[i]) for a, b in zip(ours, whole, strict=True))
        ours = run_backward(grad[i : i + 1], *alone, groups, True, add[i : i + 1], tiling)
        for j in (0, 3):
            assert torch.equal(ours[j][0], whole_grads[j][i])
    again = run(*tensors, groups, True, add, tiling)
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, of NaN
@pytest.mark.parametrize("name", ["on chip, 3 of 4 channels", "in parts, last block smaller"])
def test_what_is_not_finite_stays_in_its_group(name):
    c, h, w, groups, tiling = CASES[name]
    *tensors, _, _ = problem(2, c, h, w, device=DEVICE, add=False)
    expected = run(*tensors, groups, tiling=tiling)[0].clone()
    tensors[0][1, c // groups, 0, 0] = float("nan")  # the second group's first channel
    out = run(*tensors, groups, tiling=tiling)[0].view(2, groups, c // groups, h, w)
    assert out[1, 1].isnan().all()
    rest = torch.ones(2, groups, dtype=torch.bool)
    rest[1, 1] = False
    assert torch.equal(out[rest], expected.view_as(out)[rest])


@examples(4)
@given(
    st.integers(1, 2),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([FP32, FP16]),
    st.booleans(),
    st.data(),
)
def test_any_shape_and_tile(b, width, groups, h, w, dtype, silu, data):
    tiling = data.draw(
        st.one_of(
            st.builds(
                NormTile, st.just(covering(h * w)), st.integers(1, groups), st.sampled_from([1, 4])
            ),
            st.builds(
                NormTile,
                st.sampled_from([1, 2, 8]),
                st.integers(1, groups),
                st.just(1),
                st.integers(1, 5),
            ),
        )
    )
    *tensors, add, grad = problem(b, width * groups, h, w, dtype=dtype, device=DEVICE)
    check(tensors, groups, silu, add, grad, tiling)


@pytest.mark.parametrize(
    ("add", "layout"), [(True, torch.channels_last), (False, torch.contiguous_format)]
)
def test_through_the_front_door(add, layout):
    """Differentiated, from any layout, with a gradient that is one number for all pixels."""
    *tensors, add, _ = problem(2, 12, 3, 5, device=DEVICE, add=add)
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    leaves = [t.requires_grad_() for t in (*tensors, add) if t is not None]
    grad = torch.ones((), device=DEVICE).expand(2, 12, 3, 5)
    out = group_norm_silu(*tensors, 3, EPS, add=add, impl="triton")
    assert out.is_contiguous(memory_format=torch.channels_last)
    plain = [t if t is None else t.detach() for t in (*tensors, add)]
    within_budget(out, exact(*plain[:3], 3, EPS, True, plain[3]))
    expected = exact_gradients(grad, *plain[:3], 3, EPS, True, plain[3])
    sizes = sizes_of_gradients(grad, *plain[:2], 3, EPS, plain[3])
    for parts in zip(torch.autograd.grad(out, leaves, grad), expected, sizes, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("add", [True, pytest.param(False, marks=pytest.mark.full)])
def test_the_operator_keeps_its_word(add):
    """What PyTorch checks: the schema, the fake's shapes and strides, tracing, the gradient."""
    *tensors, add, grad = problem(1, 4, 2, 2, device=DEVICE, add=add)
    for leaf in tensors:
        leaf.requires_grad_()
    torch.library.opcheck(norm_op, (*tensors, add, 2, EPS, True))
    plain = [t.detach() for t in tensors]
    _, mean, rstd = norm_op(*plain, add, 2, EPS, True)
    torch.library.opcheck(backward_op, (grad, *plain, add, mean, rstd, True),
                          test_utils=("test_schema", "test_faketensor"))  # fmt: skip


def test_nobody_asks():
    *tensors, _, grad = problem(0, 4, 2, 2, device=DEVICE)
    out, mean, rstd = norm_op(*tensors, None, 2, EPS, True)
    assert out.shape == (0, 4, 2, 2)
    _, d_weight, d_bias, _ = backward_op(grad, *tensors, None, mean, rstd, True)
    assert not d_weight.any()
    assert not d_bias.any()


def test_one_graph_around_the_kernel():
    def step(x, weight, bias):
        return group_norm_silu(x, weight, bias, 2, impl="triton").square()

    leaves = [t.requires_grad_() for t in problem(1, 4, 2, 3, device=DEVICE)[:3]]
    out = torch.compile(step, fullgraph=True, backend="aot_eager")(*leaves)
    ours = torch.autograd.grad(out.sum(), leaves)
    expected = step(*leaves)
    assert torch.equal(out, expected)
    for mine, theirs in zip(ours, torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert torch.equal(mine, theirs)


def test_tiles_hold_whole_images_or_parts_of_them():
    """The UNets' shapes and odd ones: what a program holds covers what it answers for."""
    for pixels in (1, 16, 63, 64, 256, 1024, 1369, 4096, 65536):
        for channels, groups in ((128, 32), (384, 32), (768, 32), (12, 3), (5, 5), (96, 1)):
            for dtype in (FP32, BF16):
                for direction in ("forward", "backward"):
                    for one in candidates(ARCH, direction, dtype, pixels, channels, groups):
                        assert one.pixels == covering(one.pixels)
                        assert 1 <= one.groups <= groups
                        assert 1 <= one.warps <= 16


def test_a_tile_that_was_measured_is_taken(monkeypatch):
    known = problem_of("forward", BF16, 1000, 4)  # a class: up to 1024 pixels
    row = {"group_norm_silu": {known: (1024, 8, 16, 1, 64)}}
    monkeypatch.setattr(_tuned, "TILES", {"sm_90": row})
    best = NormTile(1024, 8, 16, 1, 64)
    assert tile("sm_90", "forward", BF16, 1024, 128, 32) == best
    assert tile("sm_90", "forward", BF16, 1024, 16, 4).groups == 4
    for others in (("sm_80", "forward", BF16), ("sm_90", "forward", FP32)):
        assert tile(*others, 1024, 128, 32) != best


def test_rows_fill_128_bits_and_a_sector_where_they_can():
    assert fitting(16, BF16, 4, 32) == 4
    assert fitting(8, BF16, 4, 32) is None  # 16 bytes of a pixel: half a sector
    assert fitting(32, BF16, 12, 32) == 2  # of 24 bytes
    assert fitting(128, BF16, 12, 32) == 10
    assert fitting(64, BF16, 3, 5) == 5
    assert fitting(2, FP32, 3, 1) is None
    assert tile("other", "forward", BF16, 1024, 128, 32).parts == 1
    assert tile("other", "forward", BF16, 65536, 128, 32).parts > 1
