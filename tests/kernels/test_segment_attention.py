"""Segment attention's definition, the host's loop, its choice, and what it refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck

from ddimx.kernels._dispatch import preferred
from ddimx.kernels.segment_attention import Segments, preference, segment_attention
from ddimx.kernels.segment_attention.groups import WASTE
from ddimx.kernels.segment_attention.op import loop_backward_op, loop_op, options
from tests.kernels.attention_cases import normal, within_budget
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

PLAIN = ("loop", "reference")


def call(tensors, segments, **options):
    q, k, v, context_k, context_v = tensors
    return segment_attention(q, k, v, segments, context_k, context_v, **options)


@pytest.mark.parametrize("impl", PLAIN)
@pytest.mark.parametrize("name", TABLES)
def test_the_definition_and_its_gradients(name, impl):
    rows = TABLES[name]
    *tensors, grad = (t.double() for t in problem(rows, 3, 5))
    leaves = [t.clone().requires_grad_() for t in tensors]
    # float64: sums of at most 100 terms of order 1, well below 1e-13.
    for changed, scale in (({}, 5**-0.5), ({"scale": -0.3}, -0.3)):
        out = call(leaves, Segments(rows), impl=impl, **changed)
        assert torch.allclose(out, exact(tensors, rows, scale)[0], rtol=0.0, atol=1e-13)
        ours = torch.autograd.grad(out, leaves, grad, materialize_grads=True)
        for mine, theirs in zip(ours, exact_gradients(grad, tensors, rows, scale), strict=True):
            assert torch.allclose(mine, theirs, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TABLES)
def test_the_loop_in_low_precision(name, dtype):
    rows, segments = TABLES[name], Segments(TABLES[name])
    *tensors, grad = problem(rows, 2, 32, dtype=dtype)
    leaves = [t.clone().requires_grad_() for t in tensors]
    out = call(leaves, segments, impl="loop")
    args = tensors, segments, 32**-0.5
    extra = errors_of_output(tensors, rows, 32**-0.5)
    within_budget(out, eager(*args), exact(tensors, rows, 32**-0.5)[0], extra)
    ours = torch.autograd.grad(out, leaves, grad)
    expected = exact_gradients(grad, tensors, rows, 32**-0.5)
    extra = errors_of_gradients(grad, tensors, rows, 32**-0.5)
    for parts in zip(ours, eager_gradients(grad, *args), expected, extra, strict=True):
        within_budget(*parts)


@pytest.mark.parametrize("impl", PLAIN)
def test_one_segment_is_ordinary_attention(impl):
    q, k, v, *_ = problem([(0, 9, 0, 12, 0, 0)], 2, 8, spare=0)
    expected = F.scaled_dot_product_attention(*(t.double().transpose(0, 1) for t in (q, k, v)))
    segments = Segments(np.array([[0, 9, 0, 12, 0, 0]], np.int32))
    out = segment_attention(q.double(), k.double(), v.double(), segments, impl=impl)
    assert torch.allclose(out, expected.transpose(0, 1), rtol=0.0, atol=1e-14)
    # The same keys, split between the two kinds.
    split = Segments(torch.tensor([[0, 9, 0, 5, 1, 8]]))
    tensors = [t.double() for t in (q, k[:5], v[:5], k[4:], v[4:])]
    assert torch.allclose(call(tensors, split, impl=impl), out, rtol=0.0, atol=1e-14)


def test_the_loop_leaves_unread_keys_without_gradient():
    *tensors, grad = problem(ODD, 2, 8)
    leaves = [t.requires_grad_() for t in tensors]
    _, *by_keys = torch.autograd.grad(call(leaves, Segments(ODD), impl="loop"), leaves, grad)
    for gradient, column in zip(by_keys, (2, 2, 4, 4), strict=True):
        alone = unread(ODD, column, len(gradient))
        assert alone.sum() >= 2
        assert torch.equal((gradient == 0).all(dim=2).all(dim=1), alone)


@pytest.mark.parametrize("rows_of", [noised, clean])
def test_finer_levels_change_no_coarser_one(rows_of):
    """Also within a group, where a mask is all that parts them."""
    rows = rows_of([(1, 5, 20, 9)])
    segments = Segments(rows)
    assert len(segments.groups) == 1
    *tensors, _ = problem(rows, 2, 8, spare=20)
    expected = call(tensors, segments, impl="loop")
    for start in (1, 6, 26):
        changed = [tensors[0], *(t.clone() for t in tensors[1:])]
        for tensor in changed[1:]:
            tensor[start:] = 100 * normal(*tensor[start:].shape, seed=9)
        out = call(changed, segments, impl="loop")
        assert torch.equal(out[:start], expected[:start])
        assert not torch.isclose(out[start:], expected[start:]).all()


@pytest.mark.parametrize("rows_of", [noised, clean])
def test_a_shape_is_grouped_alike_in_any_company(rows_of):
    mine = [(1, 8, 30, 200), (3,), (1, 2, 3)]
    for shapes in ([mine[0]], [mine[1]], [mine[2]], mine, [mine[2], *mine], [mine[1]] * 9):
        segments = Segments(rows_of(shapes))
        parts = [Segments(rows_of([shape])) for shape in shapes]
        assert torch.equal(segments.masks, torch.cat([part.masks for part in parts]))
        counts = [part.groups[:, 1:6:2] - part.groups[:, :6:2] for part in parts]
        assert torch.equal(segments.groups[:, 1:6:2] - segments.groups[:, :6:2], torch.cat(counts))


def test_groups_join_small_levels_and_leave_large_ones():
    counts = Segments(noised([(1, 8, 36, 106, 391)] * 3)).groups.tolist()
    assert [(row[0] % 542, row[1] - row[0]) for row in counts] == [
        (0, 45), (45, 106), (151, 391)] * 3  # fmt: skip
    assert [row[6] >= 0 for row in counts] == [True, False, False] * 3


def test_groups_join_as_long_as_the_mask_wastes_little():
    """Scores of the hull that belong to no row: 140 * 110 - 70 * 100 - 70 * 110, then 7,000."""
    first = [0, 70, 0, 100, 0, 0]
    assert len(Segments([first, [70, 140, 0, 110, 0, 0]]).groups) == 1
    assert len(Segments([first, [70, 140, 0, 200, 0, 0]]).groups) == 2
    exact = 100 + WASTE // 70  # 70 queries waste as many keys as the first row lacks
    for keys, groups in ((exact, 1), (exact + 1, 2)):
        assert len(Segments([first, [70, 140, 0, keys, 0, 0]]).groups) == groups


@pytest.mark.parametrize("rows_of", [noised, clean])
def test_many_scores_are_cut(rows_of, monkeypatch):
    rows = rows_of(SHAPES)
    whole = Segments(rows)
    monkeypatch.setattr("ddimx.kernels.segment_attention.groups.MOST", 100)
    cut = Segments(rows)
    assert len(cut.groups) > 2 * len(whole.groups)
    tensors = [t.double() for t in problem(rows, 2, 8)[:5]]
    expected = call(tensors, whole, impl="loop")
    assert torch.allclose(call(tensors, cut, impl="loop"), expected, rtol=0.0, atol=1e-14)


@st.composite
def tables(draw):
    """Rows of any kind over at most 12 own and 12 context keys."""
    rows, start = [], 0
    for count in draw(st.lists(st.integers(0, 9), max_size=6)):
        a, b, c, d = (draw(st.integers(0, 12)) for _ in range(4))
        own, context = sorted((a, b)), sorted((c, d))
        if a == b and c == d:
            own = [0, 12]
        rows.append((start, start + count, *own, *context))
        start += count
    return rows


@given(tables())
def test_any_table(rows):
    segments = Segments(rows)
    full = [*rows, (segments.n_queries, segments.n_queries, 12, 12, 12, 12)]  # for the sizes
    *tensors, grad = (t.double() for t in problem(full, 2, 4))
    leaves = [t.requires_grad_() for t in tensors]
    ours = call(leaves, segments, impl="loop")
    assert torch.allclose(ours, exact(tensors, rows, 0.5)[0], rtol=0.0, atol=1e-13)
    gradients = torch.autograd.grad(ours, leaves, grad)
    for mine, theirs in zip(gradients, exact_gradients(grad, tensors, rows, 0.5), strict=True):
        assert torch.allclose(mine, theirs, rtol=0.0, atol=1e-13)


def test_operator_differentiates():
    segments = Segments([(0, 2, 0, 3, 0, 0), (2, 3, 1, 4, 0, 2)])
    tensors = [t.double().requires_grad_() for t in problem(segments.rows.tolist(), 1, 2)[:5]]
    assert torch.autograd.gradcheck(lambda *t: call(t, segments, impl="loop"), tensors)
    (first,) = torch.autograd.grad(call(tensors, segments).sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(first.sum(), tensors[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    segments = Segments(ODD)
    *tensors, grad = problem(ODD, 2, 8, dtype=dtype)
    leaves = [t.requires_grad_() for t in tensors]
    leaves[1] = leaves[1].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    opcheck(loop_op, (*leaves, segments.groups, segments.masks, 0.4))
    with torch.no_grad():
        out = loop_op(*leaves, segments.groups, segments.masks, 0.4)
        opcheck(loop_backward_op, (grad, *leaves, out, segments.groups, segments.masks, 0.4),
                test_utils=("test_schema", "test_faketensor"))  # fmt: skip


@pytest.mark.parametrize("impl", ["auto", pytest.param("reference", marks=pytest.mark.full)])
def test_torch_compile_in_one_graph(impl):
    def step(*tensors):
        return call(tensors, segments, impl=impl).square()

    segments = Segments(noised([(1, 5), (3,)]))
    leaves = [t.requires_grad_() for t in problem(segments.rows.tolist(), 2, 16)[:5]]
    out = torch.compile(step, fullgraph=True, backend="aot_eager")(*leaves)
    expected = step(*leaves)
    # The same operations in the same order: equal up to the compiler's decompositions.
    assert torch.allclose(out, expected, rtol=1e-6, atol=1e-6)
    ours, theirs = (torch.autograd.grad(o.sum(), leaves) for o in (out, expected))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", PLAIN)
def test_strides_do_not_matter(impl):
    """Views of one projection [N, 3, H, D], heads before rows, and columns apart."""
    rows = clean(SHAPES)
    count = rows[-1][1]
    together = normal(count, 3, 2, 8).double()
    segments = Segments(rows)
    expected = segment_attention(*(t.clone() for t in together.unbind(1)), segments, impl=impl)
    assert torch.equal(segment_attention(*together.unbind(1), segments, impl=impl), expected)
    for order in ((1, 0, 2), (2, 1, 0)):
        views = [t.permute(order).contiguous().permute(order) for t in together.unbind(1)]
        out = segment_attention(*views, segments, impl=impl)
        assert out.is_contiguous()
        assert torch.allclose(out, expected, rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("impl", PLAIN)
def test_nobody_asks(impl):
    for rows in ([], [(0, 0, 0, 3, 0, 0)], np.zeros((0, 6), np.int64)):
        tensors = [t.requires_grad_() for t in (normal(0, 2, 8), *[normal(4, 2, 8)] * 4)]
        out = call(tensors, Segments(rows), impl=impl)
        assert out.shape == (0, 2, 8)
        if impl == "loop":
            assert not any(g.any() for g in torch.autograd.grad(out.sum(), tensors))


def test_autocast_casts_as_pytorch_does():
    segments = Segments(noised(SHAPES))
    tensors = problem(segments.rows.tolist(), 2, 16)[:5]
    low = [t.bfloat16() for t in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        for impl in PLAIN:
            assert torch.equal(call(tensors, segments, impl=impl), call(low, segments, impl=impl))
        assert call([t.double() for t in tensors], segments).dtype == torch.float64


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 2, 0, 2)], r"shape \(1, 4\)"),
        ([(0.0, 2, 0, 2, 0, 0)], "dtype float64"),
        ([0, 2, 0, 2, 0, 0], r"shape \(6,\)"),
        ([(0, 2, 0, 2, 0, 0), (3, 4, 0, 1, 0, 0)], "segment 1 does not begin where .*: q_start 3"),
        ([(0, 2, 0, 2, 0, 0), (1, 4, 0, 1, 0, 0)], "segment 1 does not begin where"),
        ([(1, 2, 0, 2, 0, 0)], "segment 0 does not begin where"),
        ([(0, 2, 2, 1, 0, 0)], "segment 0 ends before it begins: .* own_start 2, own_end 1"),
        ([(0, 2, 0, 2, 5, 4)], "segment 0 ends before it begins"),
        ([(0, 2, -1, 2, 0, 0)], "segment 0 begins below zero"),
        ([(0, 2, 1, 1, 4, 4)], "segment 0 has queries but no keys"),
        (torch.zeros(1, 6, device="meta", dtype=torch.int64), "segments are on meta"),
    ],
)
def test_tables_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        Segments(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(4, 8)}, r"q has shape \(4, 8\)"),
        ({0: torch.zeros(4, 0, 8)}, "q has shape"),
        ({0: torch.zeros(4, 2, 8, dtype=torch.int64)}, "q has dtype torch.int64"),
        ({0: torch.zeros(3, 2, 8)}, "q has 3 rows, the segments 4"),
        ({1: torch.zeros(5, 2, 8), 2: torch.zeros(5, 2, 8)}, "k has 5 rows, the segments reach 6"),
        ({1: torch.zeros(6, 3, 8)}, "k has shape"),
        ({2: torch.zeros(7, 2, 8)}, "v has 7 rows, its keys 6"),
        ({2: torch.zeros(6, 2, 8, dtype=torch.float16)}, "v has dtype torch.float16"),
        ({3: torch.zeros(2, 2, 8)}, "context_v has 3 rows, its keys 2"),
        ({3: torch.zeros(2, 2, 8), 4: torch.zeros(2, 2, 8)}, "context_k has 2 rows, .* reach 3"),
        ({3: None}, "come together"),
        ({3: None, 4: None}, "context_k has 0 rows, the segments reach 3"),
        ({4: torch.zeros(3, 2, 8, device="meta")}, "context_v is on meta, q on cpu"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    tensors = [torch.zeros(n, 2, 8) for n in (4, 6, 6, 3, 3)]
    for position, value in changes.items():
        tensors[position] = value
    for impl in ("auto", *PLAIN):
        with pytest.raises(ValueError, match=message):
            call(tensors, Segments([(0, 4, 0, 6, 0, 3)]), impl=impl)


def test_what_is_chosen():
    pytest.importorskip("triton")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert preference(cpu)[0] == "loop"
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert preferred(options(cpu, dtype, 32))[0] == "loop"
        assert preferred(options(cuda, dtype, 32))[0] == "triton"
        assert preferred(options(cuda, dtype, 24))[0] == "loop"
    assert preferred(options(cuda, torch.float64, 32))[0] == "loop"
    tensors = problem(ODD, 2, 24)[:5]
    with pytest.raises(RuntimeError, match=r"16, 32, 64, 128 columns, not 24.*can: loop, refer"):
        call(tensors, Segments(ODD), impl="triton")
