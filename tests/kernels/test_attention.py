"""Attention's definition, its choice of an implementation, and what it refuses."""

import itertools
import logging
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from ddimx.kernels._dispatch import preferred
from ddimx.kernels.attention import attention, preference, reference
from ddimx.kernels.attention.op import attention_op, backward_op, options
from tests.conftest import cli_environment
from tests.kernels.attention_cases import (
    errors_of_gradients,
    errors_of_output,
    exact,
    exact_gradients,
    normal,
    problem,
    within_budget,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAIN = ("reference", "sdpa", "products")


@pytest.mark.parametrize("impl", PLAIN)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (5, 5, 8), (7, 3, 40), (2, 300, 5)])
def test_the_definition(impl, n, m, d):
    q, k, v, _ = (t.double() for t in problem(2, n, m, d))
    expected, _ = exact(q, k, v, d**-0.5)
    # float64: sums of at most 300 terms of order 1, well below 1e-13.
    assert torch.allclose(attention(q, k, v, impl=impl), expected, rtol=0.0, atol=1e-13)
    expected, _ = exact(q, k, v, -0.3)
    assert torch.allclose(attention(q, k, v, scale=-0.3, impl=impl), expected, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("impl", PLAIN)
def test_closed_forms(impl):
    q, k, v, _ = (t.double() for t in problem(2, 4, 6, 8))
    mean = v.mean(dim=1, keepdim=True).expand(-1, 4, -1)
    assert torch.allclose(attention(q, k, v, scale=0.0, impl=impl), mean, rtol=0.0, atol=1e-15)
    one = v[:, :1].expand(-1, 4, -1)
    assert torch.equal(attention(q, k[:, :1], v[:, :1], impl=impl), one)
    nearest = (q @ k.mT).argmax(dim=2)
    chosen = torch.stack([v[b, nearest[b]] for b in range(2)])
    # The second best score is 1e4 below the best one at the least.
    assert torch.equal(attention(q, k, v, scale=1e6, impl=impl), chosen)


def test_logsumexp_of_the_reference():
    q, k, v, _ = (t.double() for t in problem(2, 5, 7, 8))
    _, lse = reference.attention(q, k, v, 0.7)
    assert torch.allclose(lse, exact(q, k, v, 0.7)[1], rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_reference_in_low_precision(dtype):
    q, k, v, grad = problem(2, 9, 33, 40, dtype=dtype)
    args = q, k, v, 40**-0.5
    within_budget(reference.attention(*args)[0], F.scaled_dot_product_attention(*args[:3]),
                  exact(*args)[0], errors_of_output(*args))  # fmt: skip
    leaves = [t.clone().requires_grad_() for t in args[:3]]
    eager = torch.autograd.grad(F.scaled_dot_product_attention(*leaves), leaves, grad)
    ours = reference.gradients(grad, *args)
    extra = errors_of_gradients(grad, *args)
    for parts in zip(ours, eager, exact_gradients(grad, *args), extra, strict=True):
        within_budget(*parts)


def test_gradients_of_the_reference():
    q, k, v, grad = (t.double() for t in problem(2, 5, 7, 8))
    ours = reference.gradients(grad, q, k, v, 0.4)
    for mine, expected in zip(ours, exact_gradients(grad, q, k, v, 0.4), strict=True):
        assert torch.allclose(mine, expected, rtol=0.0, atol=1e-13)


def test_operator_differentiates():
    q, k, v, _ = (t.double().requires_grad_() for t in problem(2, 3, 4, 5))
    assert torch.autograd.gradcheck(lambda *t: attention_op(*t, 0.4, False)[0], (q, k, v))
    assert torch.autograd.gradcheck(lambda *t: attention(*t, impl="sdpa"), (q, k, v))


def test_a_second_derivative_is_refused():
    q, k, v, _ = (t.double().requires_grad_() for t in problem(1, 3, 4, 5))
    out, lse = attention_op(q, k, v, 0.4, False)
    assert not lse.requires_grad
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(first.sum(), q)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype, fused):
    q, k, v, grad = problem(2, 5, 7, 8, dtype=dtype)
    leaves = [t.requires_grad_() for t in (q, k.transpose(0, 1).contiguous().transpose(0, 1), v)]
    opcheck(attention_op, (*leaves, 0.4, fused))
    out, lse = attention_op(q.detach(), k, v, 0.4, fused)
    with torch.no_grad():
        opcheck(backward_op, (grad, *leaves, out, lse, 0.4, fused),
                test_utils=("test_schema", "test_faketensor"))  # fmt: skip


@pytest.mark.parametrize("impl", ["auto", "sdpa", "products", "reference", "operator"])
def test_torch_compile_in_one_graph(impl):
    def step(q, k, v):
        called = attention_op(q, k, v, 0.25, False)[0] if impl == "operator" else None
        return (attention(q, k, v, scale=0.25, impl=impl) if called is None else called).square()

    q, k, v, _ = problem(2, 5, 7, 16)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    out = compiled(*leaves)
    grads = torch.autograd.grad(out.sum(), leaves)
    again = [t.clone().requires_grad_() for t in (q, k, v)]
    expected = step(*again)
    # The same operations in the same order: equal up to the compiler's decompositions.
    assert torch.allclose(out, expected, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(grads, torch.autograd.grad(expected.sum(), again), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", PLAIN)
def test_the_output_is_a_channels_last_feature_map(impl):
    x = normal(2, 8, 3, 4)
    for feature_map in (x, x.contiguous(memory_format=torch.channels_last)):
        tokens = feature_map.flatten(2).transpose(1, 2)
        out = attention(tokens, tokens, tokens, impl=impl)
        assert out.is_contiguous()
        image = out.transpose(1, 2).reshape(x.shape)
        assert image.data_ptr() == out.data_ptr()
        assert image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("impl", PLAIN)
def test_nobody_asks(impl):
    for b, n in ((0, 4), (2, 0)):
        q, k, v, grad = (t.requires_grad_() for t in problem(b, n, 3, 8))
        out = attention(q, k, v, impl=impl)
        assert out.shape == (b, n, 8)
        d_q, d_k, d_v = torch.autograd.grad(out, (q, k, v), grad)
        assert d_q.shape == q.shape
        assert not d_k.any()
        assert not d_v.any()


def test_autocast_casts_as_pytorch_does():
    q, k, v, _ = problem(2, 5, 7, 16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.scaled_dot_product_attention(q, k, v)
        for impl in PLAIN:
            out = attention(q, k, v, impl=impl)
            assert out.dtype == expected.dtype == torch.bfloat16
            arguments = q.bfloat16(), k.bfloat16(), v.bfloat16(), 0.25
            within_budget(out, expected, exact(*arguments)[0], errors_of_output(*arguments))
        assert attention(q.double(), k.double(), v.double()).dtype == torch.float64


def test_more_than_2_31_elements_on_meta_tensors():
    n, d = 2**20, 4096
    q = torch.empty(3, n, d, dtype=torch.bfloat16, device="meta")
    assert q.numel() > 2**33
    for out in (attention(q, q, q, impl="sdpa"), attention_op(q, q, q, 1.0, False)[0]):
        assert out.shape == q.shape
        assert out.stride() == (n * d, d, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(2, 4)}, "q and k have shapes"),
        ({0: torch.zeros(2, 1, 4, 8)}, "q and k have shapes"),
        ({1: torch.zeros(2, 0, 8), 2: torch.zeros(2, 0, 8)}, "at least one key"),
        ({0: torch.zeros(2, 4, 0), 1: torch.zeros(2, 6, 0)}, "at least one key and one column"),
        ({1: torch.zeros(2, 8)}, "k has shape"),
        ({1: torch.zeros(3, 6, 8)}, "k has shape"),
        ({1: torch.zeros(1, 6, 8)}, "k has shape"),
        ({1: torch.zeros(2, 6, 7)}, "k has shape"),
        ({2: torch.zeros(2, 5, 8)}, "v has shape"),
        ({2: torch.zeros(2, 6, 9)}, "v has shape"),
        ({0: torch.zeros(2, 4, 8, dtype=torch.int64)}, "q has dtype torch.int64"),
        ({0: torch.zeros(2, 4, 8, dtype=torch.complex64)}, "q has dtype torch.complex64"),
        ({1: torch.zeros(2, 6, 8, dtype=torch.float64)}, "k has dtype torch.float64, q torch.fl"),
        ({2: torch.zeros(2, 6, 8, dtype=torch.float16)}, "v has dtype torch.float16"),
        ({1: torch.zeros(2, 6, 8, device="meta")}, "k is on meta, q on cpu"),
        ({2: torch.zeros(2, 6, 8, device="meta")}, "v is on meta"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    arguments = [torch.zeros(2, 4, 8), torch.zeros(2, 6, 8), torch.zeros(2, 6, 8)]
    for position, value in changes.items():
        arguments[position] = value
    for impl in ("auto", *PLAIN):
        with pytest.raises(ValueError, match=message):
            attention(*arguments, impl=impl)


def test_wishes_are_met_or_refused():
    place = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v, _ = problem(1, 4, 4, 8, device=place)
    with pytest.raises(ValueError, match="impl 'flash' is not one of auto, triton, sdpa, products"):
        attention(q, k, v, impl="flash")
    with pytest.raises(ValueError, match="backward 'fused' is not one of auto, triton, torch"):
        attention(q, k, v, backward="fused")
    with pytest.raises(RuntimeError, match="backward 'triton' needs impl 'triton', not 'sdpa'"):
        attention(q, k, v, backward="triton")
    double = [t.double() for t in (q, k, v)]
    with pytest.raises(RuntimeError, match=r"float32 at most, not torch.float64.*can: sdpa, prod"):
        attention(*double, impl="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_auto_takes(dtype):
    """What was fastest on an H200: PyTorch's own up to 256 columns, two products above.

    On a CPU two products in training in 16 bits, where PyTorch's own computes in float32.
    """
    pytest.importorskip("triton")
    double = torch.float64
    for n, d in itertools.product((16, 256, 4096, 4097), (8, 40, 256, 257, 512, 1024)):
        for gradient in (False, True):
            on_cpu, on_gpu, on_gpu_double = (
                preferred(options(*kind, n, n, d, differentiates=gradient))[0]
                for kind in ((CPU, dtype), (CUDA, dtype), (CUDA, double))
            )
            trained = gradient and dtype != torch.float32 and n <= 4096
            assert on_cpu == ("products" if trained else "sdpa")
            if d <= 256:
                assert on_gpu == on_gpu_double == "sdpa"
            elif n <= 4096:
                assert on_gpu == on_gpu_double == "products"
            else:
                assert on_gpu == ("triton" if gradient else "sdpa")
                assert on_gpu_double == "sdpa"
    assert preference(CPU)[0] == "sdpa"


def test_auto_is_logged_with_its_reason(caplog):
    q, k, v, _ = problem(1, 4, 4, 11)
    with caplog.at_level(logging.INFO, logger="ddimx.kernels"):
        for _ in range(2):
            attention(q, k, v)
    lines = [r.getMessage() for r in caplog.records if "D = 11" in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("attention: sdpa (")


@pytest.mark.full
def test_without_triton_everything_else_runs():
    code = (
        "import sys; sys.modules['triton'] = None; import torch\n"
        "from ddimx.kernels.attention import attention\n"
        "x = torch.ones(1, 3, 300, requires_grad=True)\n"
        "for impl in ('auto', 'sdpa', 'products', 'reference'):\n"
        "    attention(x, x, x, impl=impl).sum().backward()\n"
        "assert not [m for m in sys.modules if m.startswith('ddimx.kernels.attention.kernel')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli_environment(), check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_tokens_may_come_in_any_order():
    """Permuting the keys with their values changes nothing, permuting the queries permutes."""
    q, k, v, _ = (t.double() for t in problem(1, 4, 6, 8))
    expected = attention(q, k, v, impl="reference")
    for order in itertools.islice(itertools.permutations(range(6)), 1, 720, 97):
        out = attention(q, k[:, order], v[:, order], impl="reference")
        assert torch.allclose(out, expected, rtol=0.0, atol=1e-14)
    assert torch.equal(attention(q[:, [2, 0, 3, 1]], k, v, impl="reference"),
                       expected[:, [2, 0, 3, 1]])  # fmt: skip


def test_scores_beyond_the_range_of_exp():
    q = torch.tensor([[[60.0], [-60.0]]])
    k = v = torch.tensor([[[60.0], [59.0]]])
    out = attention(q, k, v, scale=1.0, impl="reference")
    gap = math.exp(-60.0)
    assert out.flatten().tolist() == pytest.approx([60 - gap, 59 + gap], rel=1e-6)
