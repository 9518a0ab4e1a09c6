"""GroupNorm with SiLU: ``ddimx.kernels.group_norm_silu`` against PyTorch's own and its compiler's.

Bytes model, for GB/s: forward reads the feature map and writes one; backward reads the map and the
gradient and writes a gradient. Every peer is held to these bytes, whatever it moves itself (PyTorch
reads a map more than once), and stands beside the rate of a plain copy measured in the same rounds.
Feature maps are channels_last, as the networks have them, with the weights in their dtype;
PyTorch's own is measured in both layouts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddimx.device import choose_precision
from ddimx.kernels.group_norm_silu import group_norm_silu, preference

from .attention import REFUSALS
from .device import compile_seconds, graphed, launches, waiter
from .runner import Absent, Budget, Contender, Job, Table, compare
from .turns import first_line

ROUNDS = 20
GROUPS, EPS = 32, 1e-6
# Of CIFAR-10's UNet at batch 512 and 1, and of LSUN's at 16: what fits on chip, and what does not.
SHAPES = {
    "cpu": ((1, 128, 32, 32), (8, 128, 32, 32), (8, 256, 16, 16)),
    "cuda": (
        (512, 128, 32, 32),
        (512, 256, 16, 16),
        (1, 128, 32, 32),
        (16, 128, 256, 256),
        (512, 384, 16, 16),
        (16, 256, 64, 64),
    ),
}
WORSE = 4.0  # what a peer's error may be, in units of PyTorch's own: sums in another order
MOVED = {False: 2, True: 5}  # tensors, forward and with backward

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def jobs(
    device: torch.device,
    rounds: int | None = None,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    compiled: bool = True,
    budget: Budget | None = None,
) -> list[Job]:
    """Return what measures a table for every shape (B, C, H, W): forward, then with backward."""
    chosen = shapes or SHAPES.get(device.type, SHAPES["cpu"])
    dtype = choose_precision("auto", device).dtype
    time_left = budget or Budget()

    def job(shape: tuple[int, ...], backward: bool) -> Job:
        what = "forward and backward" if backward else "forward"
        name = str(dtype).removeprefix("torch.")
        title = f"GroupNorm and SiLU, {'x'.join(map(str, shape))} {name}, {what}"
        problem = Problem(device, dtype, shape, backward)
        return Job(title, partial(_table, title, problem, rounds or ROUNDS, compiled, time_left))

    return [job(shape, backward) for backward in (False, True) for shape in chosen]


@dataclass(frozen=True)
class Problem:
    """What a table normalizes: shapes and a dtype; the tensors are made when it is measured."""

    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    backward: bool

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x and a gradient [B, C, H, W] in NHWC, weight and bias [C]."""
        generator = torch.Generator(self.device).manual_seed(0)
        sizes = (self.shape, self.shape, self.shape[1:2], self.shape[1:2])
        x, grad, weight, bias = (
            torch.randn(size, generator=generator, device=self.device) for size in sizes
        )
        maps = [t.to(self.dtype).contiguous(memory_format=torch.channels_last) for t in (x, grad)]
        return maps[0], maps[1], weight.to(maps[0]), bias.to(maps[0])


def run(
    way: Way, x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, backward: bool
) -> tuple[Tensor, ...]:
    """Return the output, and the gradients if there are any."""
    if not backward:
        with torch.no_grad():
            return (way(x, weight, bias),)
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    out = way(*leaves)
    return out, *torch.autograd.grad(out, leaves, grad)


def aten(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's own operators, as networks call them."""
    return F.silu(F.group_norm(x, GROUPS, weight, bias, EPS))


def ours(x: Tensor, weight: Tensor, bias: Tensor, impl: Any = "auto") -> Tensor:
    """The package's operator."""
    return group_norm_silu(x, weight, bias, GROUPS, EPS, impl=impl)


def _table(title: str, problem: Problem, rounds: int, compiled: bool, budget: Budget) -> Table:
    x, grad, weight, bias = problem.inputs()
    backward, device = problem.backward, problem.device
    plain = x.contiguous(), grad.contiguous()
    moved = MOVED[backward] * x.nbytes
    # float64 of the first images on the CPU, which every peer is held to.
    few = [t[:2].cpu().double() for t in (x, grad)]
    wide = [t.cpu().double() for t in (weight, bias)]
    exact = run(aten, few[0], few[1], wide[0], wide[1], backward)[: 2 if backward else 1]

    def error(results: Sequence[Tensor]) -> float:
        # The gradients of weight and bias sum over the batch, so that the first images lack them.
        pairs = zip(results[: len(exact)], exact, strict=True)
        errors = [
            (mine[:2].detach().cpu().double() - due.detach()).abs().max() / due.abs().max()
            for mine, due in pairs
        ]
        return max(error.item() for error in errors)

    peers: list[Contender | Absent] = []
    allowed = float("inf")

    def add(name: str, way: Way, layout: str = "NHWC", graph: bool = False) -> None:
        nonlocal allowed
        maps = (x, grad) if layout == "NHWC" else plain

        def call() -> Any:
            return run(way, maps[0], maps[1], weight, bias, backward)

        begun = time.perf_counter()
        try:
            worst = error(call())
            seconds = time.perf_counter() - begun
            facts = {"max_error": worst, **launches(call, device)}
        except REFUSALS as refusal:
            peers.append(Absent(name, first_line(refusal)))
            return
        if allowed == float("inf"):
            allowed = WORSE * worst + torch.finfo(problem.dtype).eps
        elif not worst <= allowed:
            raise RuntimeError(f"{name} errs by {worst:.3g}, allowed is {allowed:.3g}")
        if "compile" in name:
            facts["compile_s"] = seconds
        peers.append(Contender(name, call, moved, facts, warm=True))
        if graph and not backward and device.type == "cuda":
            peers.append(Contender(f"{name}, graph", graphed(call, device), moved))

    add("PyTorch NHWC", aten, graph=True)
    add("PyTorch NCHW", aten, "NCHW")
    refusal = budget.refusal(compile_seconds(device)) if compiled else "--no-compile"
    if refusal:
        peers.append(Absent("torch.compile NHWC", refusal))
    else:
        torch.compiler.reset()
        add("torch.compile NHWC", torch.compile(aten, fullgraph=True, dynamic=False), graph=True)
    add("ddimx auto", ours, graph=True)
    add("ddimx triton", partial(ours, impl="triton"))
    target = torch.empty_like(x)
    peers.append(Contender("copy", lambda: target.copy_(x), 2 * x.nbytes, yardstick=True))
    tensors = "x twice and the gradient, write both results" if backward else "x, write the result"
    notes = [
        f"GB/s: {MOVED[backward]} tensors, read {tensors}; copy: 2",
        f"ddimx auto runs as: {': '.join(preference(device))}",
    ]
    table = compare(title, peers, rounds, wait=waiter(device), notes=notes, budget=budget)
    copy = next(row["gb_per_s"] for row in table["rows"] if row["name"] == "copy")
    for row in table["rows"]:
        if "gb_per_s" in row:
            row["share_of_copy"] = row["gb_per_s"] / copy
    return table
