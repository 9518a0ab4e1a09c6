"""Attention's Triton kernels, in the interpreter where there is no GPU, against float64.

Inputs lie in storage that is NaN around them and results are NaN beforehand, so that a read or a
write outside, or a row that is left out, shows.
"""

import mmap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.kernels.attention import attention, launch, reference
from ddimx.kernels.attention.op import attention_op
from ddimx.kernels.attention.tiles import HALF, SINGLE, covering, tile
from tests.conftest import examples
from tests.kernels.attention_cases import (
    Poisoned,
    errors_of_gradients,
    errors_of_output,
    exact,
    exact_gradients,
    guarded,
    normal,
    problem,
    within_budget,
)
from tests.kernels.inside import start_inside

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, FP16 = torch.float32, torch.float16  # bfloat16 is wrong in the interpreter
ARCH = launch.architecture(torch.device(DEVICE))
SHAPES = [
    (1, 1, 1, 1),
    (2, 16, 16, 16),
    (1, 49, 49, 40),
    (3, 5, 64, 120),
    (2, 33, 7, 80),
    (1, 17, 255, 24),
    (1, 3, 257, 40),
    (1, 130, 300, 16),
]


def run(q, k, v, scale, arch=ARCH):
    """The forward launch into poisoned results."""
    out = Poisoned(q.shape, q.dtype, q.device)
    lse = Poisoned(q.shape[:2], torch.float32, q.device)
    start_inside(launch.forward(q, k, v, out.tensor, lse.tensor, scale, arch))
    return out.filled(), lse.filled()


def run_backward(grad, q, k, v, scale, arch=ARCH):
    """The backward launches into poisoned results, from float64's logsumexp and delta."""
    out, lse = exact(q, k, v, scale)
    delta = (grad.cpu().double() * out).sum(dim=2).float().to(q.device)
    results = [Poisoned(t.shape, t.dtype, t.device) for t in (q, k, v)]
    tensors = tuple(result.tensor for result in results)
    lse = lse.float().to(q.device)
    for step in launch.backward(grad, q, k, v, lse, delta, tensors, scale, arch):
        start_inside(step)
    return [result.filled() for result in results]


def forward_within_budget(out, *arguments):
    eager, expected = reference.attention(*arguments)[0], exact(*arguments)[0]
    within_budget(out, eager, expected, errors_of_output(*arguments))


def eager_gradients(grad, q, k, v, scale):
    leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
    return torch.autograd.grad(reference.attention(*leaves, scale)[0], leaves, grad)


@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(shape, dtype):
    q, k, v, _ = problem(*shape, dtype=dtype, device=DEVICE)
    scale = shape[3] ** -0.5
    out, lse = run(*(guarded(t) for t in (q, k, v)), scale)
    _, level = exact(q, k, v, scale)
    forward_within_budget(out, q, k, v, scale)
    # Scores of inputs that are exact in float32: D products of order 1, so D roundings each.
    assert torch.allclose(lse.cpu().double(), level, rtol=0.0, atol=1e-6 + shape[3] * 1e-7)


@pytest.mark.parametrize("dtype", [FP32, pytest.param(FP16, marks=pytest.mark.full)])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(shape, dtype):
    q, k, v, grad = problem(*shape, dtype=dtype, device=DEVICE)
    scale = shape[3] ** -0.5
    ours = run_backward(*(guarded(t) for t in (grad, q, k, v)), scale)
    eager = eager_gradients(grad, q, k, v, scale)
    exactly = exact_gradients(grad, q, k, v, scale)
    extra = errors_of_gradients(grad, q, k, v, scale)
    for parts in zip(ours, eager, exactly, extra, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("arch", sorted(HALF.keys() - {"sm_100"}))  # which has sm_90's
@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        (40, 150, 80),
        (20, 260, 72),
        pytest.param(150, 256, 512, marks=pytest.mark.full),
        pytest.param(70, 320, 300, marks=pytest.mark.full),
    ],
)
def test_the_tiles_of_every_architecture(arch, n, m, d):
    """In the interpreter any tile can be run; on a GPU only its own."""
    if DEVICE == "cuda" and arch != ARCH:
        pytest.skip("another card's tile may not fit")
    q, k, v, grad = problem(1, n, m, d, dtype=FP16, device=DEVICE)
    scale = d**-0.5
    out, _ = run(q, k, v, scale, arch)
    forward_within_budget(out, q, k, v, scale)
    ours = run_backward(grad, q, k, v, scale, arch)
    eager = eager_gradients(grad, q, k, v, scale)
    extra = errors_of_gradients(grad, q, k, v, scale)
    for parts in zip(ours, eager, exact_gradients(grad, q, k, v, scale), extra, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("arch", ["sm_90", "other"])
def test_more_columns_than_256(arch):
    """Online: the output in one piece (sm_90) or in two (other)."""
    q, k, v, _ = problem(1, 5, 257, 300, dtype=FP16, device=DEVICE)
    out, _ = run(q, k, v, 0.06, arch if DEVICE == "cpu" else ARCH)
    forward_within_budget(out, q, k, v, 0.06)


@pytest.mark.parametrize("m", [20, pytest.param(300, marks=pytest.mark.full)])
@pytest.mark.parametrize("layout", ["columns", "gaps"])
def test_strides_do_not_matter(layout, m):
    q, k, v, grad = problem(2, 20, m, 24, dtype=FP16, device=DEVICE)
    expected = run(q, k, v, 0.2)
    others = guarded(q, layout), guarded(k, "rows"), guarded(v, layout)
    assert all(torch.equal(a, b) for a, b in zip(run(*others, 0.2), expected, strict=True))
    swapped = guarded(q, "rows"), guarded(k, layout), guarded(v, "rows")
    assert all(torch.equal(a, b) for a, b in zip(run(*swapped, 0.2), expected, strict=True))
    expected = run_backward(grad, q, k, v, 0.2)
    ours = run_backward(guarded(grad, layout), *others, 0.2)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("m", [20, 300])
def test_a_sample_does_not_know_its_batch(m):
    q, k, v, grad = problem(3, 20, m, 24, dtype=FP16, device=DEVICE)
    out, _ = run(q, k, v, 0.2)
    grads = run_backward(grad, q, k, v, 0.2)
    for i in range(3):
        alone = [t[i : i + 1] for t in (grad, q, k, v)]
        assert torch.equal(run(*alone[1:], 0.2)[0][0], out[i])
        for mine, whole in zip(run_backward(*alone, 0.2), grads, strict=True):
            assert torch.equal(mine[0], whole[i])
    # Keys that all samples share, without a copy.
    shared = k[:1].expand(3, -1, -1), v[:1].expand(3, -1, -1)
    assert torch.equal(run(q, *shared, 0.2)[0][2], run(q[2:], k[:1], v[:1], 0.2)[0][0])


@pytest.mark.parametrize("m", [20, 300])
@pytest.mark.parametrize("scale", [-1.0, 0.0, 300.0])
def test_scales(m, scale):
    """Rising and falling maxima, also far beyond the range of exp in float32."""
    q, k, v, _ = problem(1, 20, m, 8, device=DEVICE)
    out, _ = run(q, k, v, scale)
    forward_within_budget(out, q, k, v, scale)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, of the overflow
@pytest.mark.parametrize("m", [20, 260])
def test_gradient_of_scores_far_below_zero(m):
    """exp(-logsumexp) overflows here: what lies beyond the last key must not be weighted by it."""
    q, k, v, grad = problem(1, 20, m, 8, device=DEVICE)
    q, k = 5 + 0.1 * q, -5 + 0.1 * k  # scores of about -200
    ours = run_backward(grad, q, k, v, 1.0)
    eager = eager_gradients(grad, q, k, v, 1.0)
    expected, extra = (f(grad, q, k, v, 1.0) for f in (exact_gradients, errors_of_gradients))
    for parts in zip(ours, eager, expected, extra, strict=True):
        within_budget(*parts)
        assert parts[2].abs().max() > 10 * parts[3].max()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, of NaN
@pytest.mark.parametrize("m", [20, 300])
def test_what_is_not_finite_stays_in_its_row(m):
    q, k, v, _ = problem(1, 20, m, 8, device=DEVICE)
    expected, _ = run(q, k, v, 0.2)
    q[0, 3, 1] = float("nan")
    out = torch.empty_like(q)
    lse = torch.empty(1, 20, device=DEVICE)
    launch.forward(q, k, v, out, lse, 0.2, ARCH)()
    assert out[0, 3].isnan().all()
    kept = [i for i in range(20) if i != 3]
    assert torch.equal(out[0, kept], expected[0, kept])


@examples(15)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_small_shape(b, n, m, d, data):
    layouts = data.draw(st.lists(st.sampled_from(["rows", "columns", "gaps"]), min_size=3,
                                 max_size=3))  # fmt: skip
    inputs = problem(b, n, m, d, device=DEVICE)[:3]
    out, _ = run(*map(guarded, inputs, layouts), 0.3)
    forward_within_budget(out, *inputs, 0.3)


@pytest.mark.parametrize("backward", ["auto", "torch", "triton"])
@pytest.mark.parametrize("m", [7, 260])
def test_through_the_front_door(m, backward):
    """A feature map's tokens, differentiated; what no query asked gets no gradient."""
    x = normal(2, 24, 3, 4, device=DEVICE)
    q = x.flatten(2).transpose(1, 2).requires_grad_()
    k, v = (normal(2, m, 24, seed=s, device=DEVICE).requires_grad_() for s in (1, 2))
    grad = normal(2, 12, 24, seed=3, device=DEVICE)
    out = attention(q, k, v, impl="triton", backward=backward)
    args = q, k, v, 24**-0.5
    forward_within_budget(out, *args)
    assert out.is_contiguous()
    eager = eager_gradients(grad, *args)
    ours = torch.autograd.grad(out, (q, k, v), grad)
    extra = errors_of_gradients(grad, *args)
    for parts in zip(ours, eager, exact_gradients(grad, *args), extra, strict=True):
        within_budget(*parts)
    none = attention(q[:, :0], k, v, impl="triton", backward=backward)
    _, d_k, d_v = torch.autograd.grad(none, (q, k, v), grad[:, :0])
    assert not d_k.any()
    assert not d_v.any()


def test_one_graph_around_the_kernel():
    def step(q, k, v):
        return attention(q, k, v, impl="triton", backward="triton").square()

    leaves = [t.requires_grad_() for t in problem(1, 5, 7, 16, device=DEVICE)[:3]]
    out = torch.compile(step, fullgraph=True, backend="aot_eager")(*leaves)
    ours = torch.autograd.grad(out.sum(), leaves)
    expected = step(*leaves)
    assert torch.equal(out, expected)
    for mine, theirs in zip(ours, torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert torch.equal(mine, theirs)


def test_autocast_reaches_the_kernel():
    q, k, v, _ = problem(1, 5, 7, 16, device=DEVICE)
    with torch.autocast(DEVICE, FP16):
        out = attention(q, k, v, impl="triton")
    assert torch.equal(out, attention(q.half(), k.half(), v.half(), impl="triton"))
    assert out.dtype == FP16


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter's test of 64-bit offsets")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_offsets_of_64_bits(axis):
    """A view that spans over 2^31 elements of memory that is reserved but hardly touched.

    It begins at element 2^31, so that an offset that wrapped would read zeros, not crash.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, named from 3.13 on
    try:
        memory = mmap.mmap(-1, 2 * (2**32 + 2**20), flags=flags)
    except OSError as error:
        pytest.skip(f"no address space: {error}")
    whole = torch.frombuffer(memory, dtype=FP16)
    strides = [64 * 64, 64, 1]
    strides[axis] = 2**31 // 3 + 64
    q, k, v, _ = problem(4, 4, 4, 4, dtype=FP16)
    far = [torch.as_strided(whole, t.shape, strides, 2**31 + 2**16 * i)
           for i, t in enumerate((q, k, v))]  # fmt: skip
    for view, values in zip(far, (q, k, v), strict=True):
        view.copy_(values)
    assert torch.equal(run(*far, 0.5)[0], run(q, k, v, 0.5)[0])
    del whole, far, view


def test_too_many_programs_are_refused():
    q = torch.empty(2**31, 1, 4, dtype=FP16, device="meta")
    with pytest.raises(ValueError, match="would need 2147483648 programs"):
        launch.forward(q, q, q, q, q, 1.0, "other")


def test_rows_beyond_32_bits_are_refused():
    q = torch.empty(1, 4, 4, dtype=FP16, device="meta")
    k = torch.empty(1, 2**31, 4, dtype=FP16, device="meta")
    for one, other in ((q, k), (k, q)):
        with pytest.raises(ValueError, match="attention of 2147483648 rows"):
            launch.forward(one, other, other, one, one[:, :, 0], 1.0, "other")


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU bfloat16 runs")
def test_the_interpreter_refuses_bfloat16():
    q, k, v, _ = problem(1, 4, 4, 8, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"interpreter computes torch.bfloat16 wrongly"):
        attention(q, k, v, impl="triton")
    assert torch.equal(attention_op(q, k, v, 1.0, False)[0], reference.attention(q, k, v, 1.0)[0])


def test_tiles_cover_and_are_powers_of_two():
    assert [covering(n) for n in (1, 15, 16, 17, 256, 257)] == [16, 16, 16, 32, 256, 512]
    for arch in (*HALF, "sm_75"):
        for kernel in SINGLE:
            for n, d in ((1, 1), (49, 40), (256, 512), (5000, 1100)):
                chosen = tile(arch, kernel, FP16, n, n, d)
                sizes = chosen.own, chosen.other, chosen.dims, chosen.columns
                assert all(size == covering(size) for size in sizes)
                assert "strip" not in kernel or n > 256 or chosen.other >= n
