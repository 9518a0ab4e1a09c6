"""Segment attention's Triton kernels, in the interpreter where there is no GPU, against float64.

Inputs lie in storage that is NaN around them and results are NaN beforehand, so that a read or a
write outside, or a row that is left out, shows.
"""

import mmap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck

from ddimx.kernels.segment_attention import Segments, launch, segment_attention
from ddimx.kernels.segment_attention.blocks import BLOCK, tables
from ddimx.kernels.segment_attention.op import kernel_backward_op, kernel_op
from ddimx.kernels.segment_attention.tiles import COLUMNS, HALF, SINGLE, tile
from tests.conftest import examples
from tests.kernels.attention_cases import Poisoned, guarded, within_budget
from tests.kernels.inside import start_inside
from tests.kernels.segment_attention_cases import (
    ODD,
    SHAPES,
    TABLES,
    clean,
    eager,
    eager_gradients,
    errors_of_gradients,
    errors_of_output,
    exact,
    exact_gradients,
    noised,
    problem,
    unread,
)

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, FP16 = torch.float32, torch.float16  # bfloat16 is wrong in the interpreter
SMALL = noised([(1, 5, 20), (2,)])


def run(tensors, segments, scale):
    """The forward launch into poisoned results."""
    q = tensors[0]
    out = Poisoned(q.shape, q.dtype, q.device)
    lse = Poisoned((q.shape[1], q.shape[0]), torch.float32, q.device)
    made = segments.tables(q.device)
    start_inside(launch.forward(*tensors, out.tensor, lse.tensor, made, scale))
    return out.filled(), lse.filled()


def run_backward(grad, tensors, segments, scale):
    """The backward launches into poisoned results, from float64's logsumexp and delta.

    Keys that nobody reads must be left alone; they are returned as zeros, as the operator does.
    """
    rows = segments.rows.tolist()
    out, lse = exact(tensors, rows, scale)
    delta = (grad.cpu().double() * out).sum(dim=2).t().float().contiguous().to(grad.device)
    results = [Poisoned(t.shape, t.dtype, t.device) for t in tensors]
    views = tuple(result.tensor for result in results)
    lse = lse.float().contiguous().to(grad.device)
    made = segments.tables(grad.device)
    for step in launch.backward(grad, *tensors, lse, delta, views, made, scale):
        start_inside(step)
    for result, column in zip(results[1:], (2, 2, 4, 4), strict=True):
        alone = unread(rows, column, len(result.tensor)).to(grad.device)
        assert result.tensor[alone].isnan().all()
        result.tensor[alone] = 0.0
    return [result.filled() for result in results]


def check(rows, heads, columns, dtype, scale):
    """Forward and backward of one table against float64."""
    segments = Segments(rows)
    *tensors, grad = problem(rows, heads, columns, dtype=dtype, device=DEVICE)
    inside = [guarded(t) for t in tensors]
    out, lse = run(inside, segments, scale)
    expected, level = exact(tensors, rows, scale)
    extra = errors_of_output(tensors, rows, scale)
    within_budget(out, eager(tensors, segments, scale), expected, extra)
    # Scores of inputs that are exact in float32: D products of order 1, so D roundings each.
    assert torch.allclose(lse.cpu().double(), level, rtol=0.0, atol=1e-6 + columns * 1e-7)
    ours = run_backward(guarded(grad), inside, segments, scale)
    theirs = eager_gradients(grad, tensors, segments, scale)
    expected = exact_gradients(grad, tensors, rows, scale)
    extra = errors_of_gradients(grad, tensors, rows, scale)
    for parts in zip(ours, theirs, expected, extra, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize("name", TABLES)
def test_forward_and_backward(name, dtype):
    check(TABLES[name], 2, 16, dtype, 0.25)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", TABLES)
def test_every_width(name, columns, dtype):
    check(TABLES[name], 3, columns, dtype, columns**-0.5)


@pytest.mark.parametrize(("columns", "dtype"), [(64, FP32), (128, FP32), (128, FP16)])
def test_blocks_in_parts(columns, dtype):
    """Tiles that answer for a part of a table's block; also blocks that end within a part."""
    check([(0, 70, 0, 40, 0, 3)], 1, columns, dtype, columns**-0.5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, of the overflow
def test_gradient_of_scores_far_below_zero():
    """exp(-logsumexp) overflows here: what lies beyond the last key must not be weighted by it."""
    rows = [(0, 20, 0, 10, 0, 9)]
    q, k, v, context_k, context_v, grad = problem(rows, 1, 16, device=DEVICE)
    tensors = [5 + 0.1 * q, -5 + 0.1 * k, v, -5 + 0.1 * context_k, context_v]  # scores near -400
    ours = run_backward(grad, tensors, Segments(rows), 1.0)
    theirs = eager_gradients(grad, tensors, Segments(rows), 1.0)
    expected = exact_gradients(grad, tensors, rows, 1.0)
    extra = errors_of_gradients(grad, tensors, rows, 1.0)
    for parts in zip(ours, theirs, expected, extra, strict=True):
        within_budget(*parts)
        assert parts[2].abs().max() > 100 * parts[3].max()


@examples(10)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.sampled_from([noised, clean]))
def test_any_levels(levels, rows_of):
    check(rows_of([(1, *levels)]), 1, 16, FP32, 0.25)


def test_strides_do_not_matter():
    """Views of one projection, heads before rows, and every third row of every second head."""
    segments = Segments(SMALL)
    *tensors, grad = problem(SMALL, 2, 16, dtype=FP16, device=DEVICE)
    expected = run(tensors, segments, 0.2)
    gradients = run_backward(grad, tensors, segments, 0.2)

    def heads_first(t):
        return t.transpose(0, 1).contiguous().transpose(0, 1)

    def gaps(t):
        room = t.new_full((3 * len(t) + 2, 2 * t.shape[1] + 1, t.shape[2] + 4), float("nan"))
        return room[2::3, 1::2, 4:].copy_(t)

    for views in (map(heads_first, tensors), map(gaps, tensors)):
        out = run(list(views), segments, 0.2)
        assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))
    ours = run_backward(gaps(grad), [gaps(t) for t in tensors], segments, 0.2)
    assert all(torch.equal(a, b) for a, b in zip(ours, gradients, strict=True))


@pytest.mark.parametrize("rows_of", [noised, clean])
def test_a_shape_does_not_know_its_company(rows_of):
    """To the last bit, forward and backward, wherever in the batch it lies."""
    mine, other = (1, 5, 70), (3, 9)
    before, both = rows_of([other]), rows_of([other, mine, other])
    start, end = before[-1][1], before[-1][1] + sum(mine)
    *tensors, grad = problem(both, 1, 16, dtype=FP16, device=DEVICE)
    part = [t[start:end].contiguous() for t in (*tensors, grad)]
    alone = Segments(rows_of([mine]))
    out, _ = run(tensors, Segments(both), 0.2)
    if rows_of is clean:  # it has no context: a tensor of spare rows
        part[3:5] = [t[:2] for t in tensors[3:]]
    assert torch.equal(run(part[:5], alone, 0.2)[0], out[start:end])
    ours = run_backward(part[5], part[:5], alone, 0.2)
    everything = run_backward(grad, tensors, Segments(both), 0.2)
    for mine, whole in list(zip(ours, everything, strict=True))[: 5 if rows_of is noised else 3]:
        assert torch.equal(mine, whole[start:end])


@pytest.mark.parametrize("scale", [-1.0, 0.0, 300.0])
def test_scales(scale):
    """Rising and falling maxima, also far beyond the range of exp in float32."""
    rows = [(0, 20, 0, 40, 0, 70)]
    tensors = problem(rows, 1, 16, device=DEVICE)[:5]
    segments = Segments(rows)
    out, _ = run(tensors, segments, scale)
    extra = errors_of_output(tensors, rows, scale)
    within_budget(out, eager(tensors, segments, scale), exact(tensors, rows, scale)[0], extra)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, of NaN
def test_what_is_not_finite_stays_with_its_readers():
    segments = Segments(SMALL)
    tensors = problem(SMALL, 1, 16, device=DEVICE)[:5]
    expected, _ = run(tensors, segments, 0.2)
    tensors[1][10] = float("nan")  # an own key of queries 6..26
    out = torch.empty_like(tensors[0])
    lse = torch.empty(1, len(out), device=DEVICE)
    launch.forward(*tensors, out, lse, segments.tables(out.device), 0.2)()
    assert out[6:26].isnan().all()
    kept = [*range(6), *range(26, 28)]
    assert torch.equal(out[kept], expected[kept])


def test_through_the_front_door():
    """Slices of one projection, differentiated; a last dimension with gaps; a spread gradient."""
    segments = Segments(clean(SHAPES[:1]))
    q, k, v, *_ = (t.to(DEVICE) for t in problem(segments.rows.tolist(), 2, 32, spare=0))
    together = torch.stack((q, k, v), dim=3).requires_grad_()
    out = segment_attention(*together.unbind(3), segments, impl="triton")
    assert out.is_contiguous()
    (ours,) = torch.autograd.grad(out.sum(), together)
    none = [q.new_empty(0, 2, 32)] * 2
    args = [q, k, v, *none], segments, 32**-0.5
    rows = segments.rows.tolist()
    extra = errors_of_output(args[0], rows, args[2])
    within_budget(out, eager(*args), exact(args[0], rows, args[2])[0], extra)
    theirs = eager_gradients(torch.ones_like(q), *args)
    expected = exact_gradients(torch.ones_like(q), args[0], rows, args[2])
    extra = errors_of_gradients(torch.ones_like(q), args[0], rows, args[2])
    parts = (part[:3] for part in (theirs, expected, extra))
    for part in zip(ours.unbind(3), *parts, strict=True):
        within_budget(*part)


def test_opcheck():
    segments = Segments(SMALL)
    *tensors, grad = problem(SMALL, 1, 16, device=DEVICE)
    leaves = [t.requires_grad_() for t in tensors]
    made = list(segments.tables(grad.device))
    opcheck(kernel_op, (*leaves, made, 0.4))
    with torch.no_grad():
        out, lse = kernel_op(*leaves, made, 0.4)
        opcheck(kernel_backward_op, (grad, *leaves, out, lse, made, 0.4),
                test_utils=("test_schema", "test_faketensor"))  # fmt: skip


def test_one_graph_around_the_kernel():
    def step(q, k, v, context_k, context_v):
        out = segment_attention(q, k, v, segments, context_k, context_v, impl="triton")
        return out.square()

    segments = Segments(SMALL, DEVICE)
    leaves = [t.requires_grad_() for t in problem(SMALL, 1, 16, device=DEVICE)[:5]]
    out = torch.compile(step, fullgraph=True, backend="aot_eager")(*leaves)
    ours = torch.autograd.grad(out.sum(), leaves)
    expected = step(*leaves)
    assert torch.equal(out, expected)
    for mine, theirs in zip(ours, torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter's test of 64-bit offsets")
@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_of_64_bits(axis):
    """Views that span over 2^31 elements of memory that is reserved but hardly touched.

    They begin at element 2^31, so that an offset that wrapped would read zeros, not crash.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, named from 3.13 on
    try:
        memory = mmap.mmap(-1, 2 * (2**32 + 2**21), flags=flags)
    except OSError as error:
        pytest.skip(f"no address space: {error}")
    whole = torch.frombuffer(memory, dtype=FP16)
    strides = [64, 64, 1]
    strides[axis] = 2**31 // 3 + 64
    strides[1 - axis] = 2**13
    rows = [(0, 4, 0, 4, 0, 3)]
    *tensors, grad = problem(rows, 4, 16, dtype=FP16, spare=0)
    far = [torch.as_strided(whole, t.shape, strides, 2**31 + 2**16 * i)
           for i, t in enumerate((*tensors, grad))]  # fmt: skip
    for view, values in zip(far, (*tensors, grad), strict=True):
        view.copy_(values)
    segments = Segments(rows)
    assert torch.equal(run(far[:5], segments, 0.5)[0], run(tensors, segments, 0.5)[0])
    near = run_backward(grad, tensors, segments, 0.5)
    for a, b in zip(run_backward(far[5], far[:5], segments, 0.5), near, strict=True):
        assert torch.equal(a, b)
    del whole, far, view


def test_the_tables_of_the_kernels():
    made = tables(ODD)
    assert [row[:2] for row in made.queries.tolist()] == [
        [0, 3], [3, 9], [9, 73], [73, 80], [80, 81], [81, 90], [90, 94]]  # fmt: skip
    readers = made.own_readers.tolist()
    found = [(start, end, readers[first:last]) for start, end, first, last in made.own.tolist()]
    assert found == [
        (0, 2, [[0, 3], [81, 90]]),
        (2, 3, [[0, 3], [80, 90]]),  # queries that follow each other are one range
        (3, 7, [[0, 3], [81, 90]]),
        (9, 60, [[9, 80]]),
        (60, 79, [[9, 80], [90, 94]]),
        (79, 80, [[9, 80]]),
    ]
    assert tables([[0, 1, 5, 5 + 2 * BLOCK + 3, 0, 0]]).own.tolist() == [
        [5, 5 + BLOCK, 0, 1], [5 + BLOCK, 5 + 2 * BLOCK, 0, 1],
        [5 + 2 * BLOCK, 8 + 2 * BLOCK, 0, 1]]  # fmt: skip
    assert made.context.tolist()[-1][:2] == [29, 30]


def test_too_many_programs_are_refused():
    q = torch.empty(1, 2**31, 16, dtype=FP16, device="meta")
    with pytest.raises(ValueError, match="segment attention of 2147483648 programs"):
        launch.forward(q, q, q, q, q, q, q, tables([[0, 1, 0, 1, 0, 0]]), 1.0)
    t = torch.empty(1, 2, 16, dtype=FP16, device="meta")
    with pytest.raises(ValueError, match="q's last dimension has stride 2"):
        launch.forward(t[..., ::2], t, t, t, t, t, t, tables([[0, 1, 0, 1, 0, 0]]), 1.0)


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU bfloat16 runs")
def test_the_interpreter_refuses_bfloat16():
    tensors = problem(SMALL, 1, 16, dtype=torch.bfloat16)[:5]
    q, k, v, *context = tensors
    with pytest.raises(RuntimeError, match=r"interpreter computes torch.bfloat16 wrongly"):
        segment_attention(q, k, v, Segments(SMALL), *context, impl="triton")
    with pytest.raises(RuntimeError, match=r"interpreter computes torch.bfloat16 wrongly"):
        kernel_op(*tensors, list(tables(SMALL)), 1.0)


def test_tiles_divide_the_blocks():
    for by_columns in (HALF, SINGLE):
        assert {max(columns, 32) for columns in COLUMNS} == by_columns.keys()
    for dtype in (FP32, FP16):
        for columns in COLUMNS:
            for kernel in HALF[32]:
                chosen = tile(kernel, dtype, columns)
                assert BLOCK % chosen.own == 0
                assert chosen.other in (16, 32, 64)
