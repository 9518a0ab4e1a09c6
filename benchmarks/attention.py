"""Single-head attention of the UNet: ``ddimx.kernels.attention`` against every way PyTorch has.

Operations counted, for TFLOP/s: 4 B N^2 D forward (two products), 2.5 times as many backward (five
products), whatever a peer computes twice. Inputs are the tokens of channels_last feature maps,
[B, N, D] contiguous, bfloat16 on a GPU and float32 on a CPU.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

from ddimx.config_file import load_config
from ddimx.kernels._dispatch import TRITON_INSTALLED
from ddimx.kernels.attention import Backward, attention, reference
from ddimx.models import layers
from ddimx.models.factory import build

from .device import compile_seconds, waiter
from .runner import Absent, Budget, Contender, Job, Table, compare

ROUNDS = 20
BACKENDS = {
    "SDPA math": SDPBackend.MATH,
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION,
}
# Batch, tokens, columns: the UNet's heads at 16x16, and one at 32x32.
SHAPES = {
    "cpu": ((8, 256, 256), (4, 256, 512)),
    "cuda": ((512, 256, 256), (256, 256, 512), (1, 256, 512), (64, 1024, 256), (64, 1024, 512)),
}
# What a peer's largest error may be, in units of the materialised one's: sums in another order.
WORSE = 4.0
FEWEST_OF_FFPA, WIDEST_OF_FLASH = 512, 256  # tokens; columns
# PyTorch's own; other projects also assert.
REFUSALS: tuple[type[Exception], ...] = (
    RuntimeError,
    OSError,
    ValueError,
    TypeError,
    AssertionError,
    ImportError,
)
if TRITON_INSTALLED:
    from triton.errors import TritonError  # too much shared memory, say

    REFUSALS += (TritonError,)

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """Inputs [B, N, D] of one table, and whether it differentiates."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad: Tensor
    backward: bool

    @property
    def operations(self) -> float:
        """Floating-point operations of one call."""
        b, n, d = self.q.shape
        return 4.0 * b * n * n * d * (3.5 if self.backward else 1.0)

    def run(self, way: Way) -> tuple[Tensor, ...]:
        """Return the output, and the gradients if there are any."""
        if not self.backward:
            with torch.no_grad():
                return (way(self.q, self.k, self.v),)
        leaves = [t.detach().requires_grad_() for t in (self.q, self.k, self.v)]
        out = way(*leaves)
        return out, *torch.autograd.grad(out, leaves, self.grad)

    def first(self, count: int) -> Problem:
        """Return the problem of the first samples in float64 on the CPU."""
        parts = [t[:count].cpu().double() for t in (self.q, self.k, self.v, self.grad)]
        return Problem(parts[0], parts[1], parts[2], parts[3], self.backward)


def jobs(
    device: torch.device,
    rounds: int | None = None,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    compiled: bool = True,
    budget: Budget | None = None,
) -> list[Job]:
    """Return what measures two tables for every shape (B, N, D): forward, and with backward."""
    chosen = shapes or SHAPES.get(device.type, SHAPES["cpu"])
    time_left = budget or Budget()

    def job(shape: tuple[int, ...], backward: bool) -> Job:
        dtype = str(dtype_on(device)).removeprefix("torch.")
        what = "forward and backward" if backward else "forward"
        title = f"attention, {'x'.join(map(str, shape))} {dtype}, {what}"
        arguments = (title, device, shape, backward, rounds or ROUNDS, compiled, time_left)
        return Job(title, partial(_table, *arguments))

    # Sampling is what most people do: every shape's forward before the first backward.
    return [job(shape, backward) for backward in (False, True) for shape in chosen]


def dtype_on(device: torch.device) -> torch.dtype:
    """Return the dtype that attention is measured in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def problem(device: torch.device, shape: Sequence[int], backward: bool) -> Problem:
    """Return normal inputs, drawn on the device: there are millions."""
    dtype = dtype_on(device)
    generator = torch.Generator(device).manual_seed(0)
    drawn = [torch.randn(*shape, generator=generator, device=device) for _ in range(4)]
    parts = [part.to(dtype) for part in drawn]
    return Problem(parts[0], parts[1], parts[2], parts[3], backward)


@lru_cache
def unet_share(config: str = "cifar10") -> float:
    """Return attention's part of a shipped network's FLOPs, counted on tensors without memory.

    Its two products are counted here, 4 N M D for each sample: without data it makes none.
    """
    products: list[int] = []

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        products.append(4 * q.numel() * k.shape[1])
        return torch.empty_like(q)

    with torch.device("meta"):
        network, _ = build(load_config(config))
        x = torch.empty(1, *load_config(config).sample_shape)
        t = torch.zeros(1)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), patch.object(layers, "attention", counted):
        network(x, t)
    return sum(products) / (counter.get_total_flops() + sum(products))


def materialised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as one would write it: two products and a softmax between them."""
    return reference.attention(q, k, v, q.shape[-1] ** -0.5)[0]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention, one head, by whichever backend it prefers."""
    heads = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
    return F.scaled_dot_product_attention(heads[0], heads[1], heads[2]).squeeze(1)


def ffpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The kernels of xlite-dev/ffpa-attn, which are for wide heads.

    Raises:
        RuntimeError: a problem that it would hand to PyTorch without a word.
    """
    from ffpa_attn import (  # type: ignore[import-not-found, unused-ignore]
        TritonBackend,
        ffpa_attn_func,
    )

    if q.shape[1] < FEWEST_OF_FFPA or q.shape[2] <= WIDEST_OF_FLASH:
        raise RuntimeError("below 512 tokens and up to 256 columns it calls PyTorch's own")
    heads = (t.unsqueeze(1) for t in (q, k, v))
    out: Tensor = ffpa_attn_func(*heads, backend=TritonBackend()).squeeze(1)
    return out


def _table(
    title: str,
    device: torch.device,
    shape: Sequence[int],
    backward: bool,
    rounds: int,
    compiled: bool,
    budget: Budget,
) -> dict[str, Any]:
    inputs = problem(device, shape, backward)
    check = Checker(inputs)
    peers = [_contender(name, way, inputs, check) for name, way in _ways(inputs.backward).items()]
    if find_spec("ffpa_attn") and device.type == "cuda":
        peers.append(_contender("FFPA (Triton)", ffpa, inputs, check))
    peers += _compiled_peers(inputs, check, budget) if compiled else []
    share = f"attention is {unet_share():.1%} of the FLOPs of cifar10's UNet"
    notes = [
        f"{share}, which bounds what a faster one can save",
        "max error: the largest difference to float64, over the largest value",
    ]
    peers.append(_matmul(inputs))
    table = compare(title, peers, rounds, wait=waiter(device), notes=notes, budget=budget)
    add_tflop_per_s(table)
    fastest = next(row for row in table["rows"] if row["name"] == "matmul")["tflop_per_s"]
    for row in table["rows"]:
        if "tflop_per_s" in row:
            row["share_of_matmul"] = row["tflop_per_s"] / fastest
    return table


def add_tflop_per_s(table: Table) -> None:
    """Replace the operations of each measured row by their rate."""
    for row in table["rows"]:
        if "operations" in row:
            row["tflop_per_s"] = row.pop("operations") / row["median_ms"] / 1e9


def _ways(backward: bool) -> dict[str, Way]:
    """Return everything that needs no compiler of PyTorch's; the first is the baseline."""
    ways: dict[str, Way] = {"SDPA": sdpa, "materialised": materialised}
    ways |= {name: partial(_forced, backend) for name, backend in BACKENDS.items()}
    ways["ddimx auto"] = attention
    ways["ddimx products"] = partial(attention, impl="products")
    kinds: tuple[Backward, ...] = ("torch", "triton") if backward else ("auto",)
    for kind in kinds:
        name = f"ddimx triton, backward {kind}" if backward else "ddimx triton"
        ways[name] = partial(attention, impl="triton", backward=kind)
    return ways


def _forced(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel([backend]):
        return sdpa(q, k, v)


def _contender(name: str, way: Way, inputs: Problem, check: Checker) -> Contender | Absent:
    """Run a peer once and hold it to the check, or say why it cannot run."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        begun = time.perf_counter()
        try:
            results = inputs.run(way)
        except REFUSALS as error:
            return Absent(name, _reason(error, messages))
        seconds = time.perf_counter() - begun
    facts = {"operations": inputs.operations, "max_error": check(name, results)}
    if "compile" in name:
        facts["compile_s"] = seconds
    return Contender(name, lambda: inputs.run(way), facts=facts)


def _reason(error: Exception, messages: Sequence[warnings.WarningMessage]) -> str:
    """Return why a peer refused: a forced backend says it in warnings, each after a heading."""
    words = [str(w.message) for w in messages if w.category is UserWarning]
    words = [w for w in words if "because" not in w and "runtime disabled" not in w]
    last = words[-1] if words else str(error.__cause__ or error) or type(error).__name__
    return last.strip().splitlines()[0]


def _compiled_peers(inputs: Problem, check: Checker, budget: Budget) -> list[Contender | Absent]:
    torch.compiler.reset()
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    fast: Any = compiled(flex_attention)

    def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = fast(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1))
        return out.squeeze(1)

    ways = {"compiled FlexAttention": flex, "compiled materialised": compiled(materialised)}
    return [
        Absent(name, refusal)
        if (refusal := budget.refusal(compile_seconds(inputs.q.device)))
        else _contender(name, way, inputs, check)
        for name, way in ways.items()
    ]


def _matmul(inputs: Problem) -> Contender:
    """Return one square product of about as many operations, at most 8192 wide."""
    size = min(8192, max(64, round((inputs.operations / 2) ** (1 / 3) / 64) * 64))
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(inputs.q)
    facts = {"operations": 2.0 * size**3}
    return Contender("matmul", lambda: a @ a, facts=facts, yardstick=True)


class Checker:
    """Hold peers to float64 on the first samples, before they are timed."""

    def __init__(self, inputs: Problem, samples: int = 2) -> None:
        self.samples = samples
        self.expected = inputs.first(samples).run(materialised)
        eager = self._error(inputs.run(materialised))
        self.allowed = WORSE * eager + torch.finfo(inputs.q.dtype).eps

    def __call__(self, name: str, results: Sequence[Tensor]) -> float:
        """Return a peer's error, relative to the largest value.

        Raises:
            RuntimeError: it is too large to be another order of summation.
        """
        error = self._error(results)
        if not error <= self.allowed:
            raise RuntimeError(f"{name} errs by {error:.3g}, allowed is {self.allowed:.3g}")
        return error

    def _error(self, results: Sequence[Tensor]) -> float:
        errors = []
        for mine, expected in zip(results, self.expected, strict=True):
            difference = (mine[: self.samples].cpu().double() - expected).abs().max()
            errors.append((difference / expected.abs().max()).item())
        return max(errors)
