"""Attention over ragged batches: ``ddimx.kernels.segment_attention`` against every other way.

Octrees of a batch have different numbers of tokens, and each attends to its own. Operations
counted, for TFLOP/s: 4 n^2 D a head for a shape of n tokens, whatever a peer computes on padding.
Peers get their tables (block masks, cumulative lengths, the padding's indices) before the clock
starts, as one would keep them for all layers and steps of a level.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ddimx.kernels.segment_attention import Segments, preference, segment_attention

from .attention import REFUSALS, add_tflop_per_s, dtype_on, materialised
from .device import compile_seconds, launches, waiter
from .runner import Absent, Budget, Contender, Job, Table, compare
from .turns import first_line

ROUNDS = 20
WORSE = 4.0
# Shapes, the fewest and the most tokens of one, heads, columns: a level of the shipped model, and
# longer ones. Lengths lie evenly between the two on a logarithmic scale.
PROBLEMS = {
    "cpu": ((4, 200, 800, 8, 32),),
    "cuda": (
        (4, 300, 900, 8, 32),
        (64, 300, 900, 8, 32),
        (8, 2048, 8192, 8, 64),
        (8, 2048, 8192, 8, 128),
    ),
}

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Ragged:
    """A batch of shapes of different lengths.

    Attributes:
        lengths: tokens of each shape.
        heads, columns: of q, k and v [N, H, D].
    """

    device: torch.device
    lengths: tuple[int, ...]
    heads: int
    columns: int

    @classmethod
    def of(cls, device: torch.device, problem: Sequence[int]) -> Ragged:
        """Return the batch of a row of ``PROBLEMS``."""
        count, fewest, most, heads, columns = problem
        steps = max(1, count - 1)
        lengths = tuple(round(fewest * (most / fewest) ** (i / steps)) for i in range(count))
        return cls(device, lengths, heads, columns)

    @property
    def total(self) -> int:
        """Return the number of tokens."""
        return sum(self.lengths)

    @property
    def operations(self) -> float:
        """Return the floating-point operations of a forward pass."""
        return 4.0 * self.heads * self.columns * sum(n * n for n in self.lengths)

    @cached_property
    def ends(self) -> list[int]:
        """Return 0 and the ends of the shapes."""
        ends = [0]
        for length in self.lengths:
            ends.append(ends[-1] + length)
        return ends

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v [N, H, D], the same on every device."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.total, self.heads, self.columns)
        drawn = [torch.randn(shape, generator=generator) for _ in range(3)]
        q, k, v = (t.to(self.device, dtype_on(self.device)) for t in drawn)
        return q, k, v


def jobs(
    device: torch.device,
    rounds: int | None = None,
    *,
    compiled: bool = True,
    budget: Budget | None = None,
) -> list[Job]:
    """Return what measures a table for every batch."""

    def job(problem: Sequence[int]) -> Job:
        batch = Ragged.of(device, problem)
        dtype = str(dtype_on(device)).removeprefix("torch.")
        title = (
            f"segment attention, {len(batch.lengths)} shapes of {min(batch.lengths)} to "
            f"{max(batch.lengths)} tokens, {batch.heads} heads of {batch.columns}, {dtype}"
        )
        parts = (title, batch, rounds or ROUNDS, compiled, budget or Budget())
        return Job(title, partial(_table, *parts))

    return [job(problem) for problem in PROBLEMS.get(device.type, PROBLEMS["cpu"])]


def per_shape(batch: Ragged) -> Call:
    """Return PyTorch's attention shape by shape."""
    q, k, v = batch.tensors
    parts = [slice(a, b) for a, b in zip(batch.ends, batch.ends[1:], strict=False)]

    def one(part: slice) -> Tensor:
        heads = [t[part].transpose(0, 1)[None] for t in (q, k, v)]
        return F.scaled_dot_product_attention(heads[0], heads[1], heads[2])[0].transpose(0, 1)

    return lambda: torch.cat([one(part) for part in parts])


def padded(batch: Ragged) -> Call:
    """Return PyTorch's attention over the batch padded to its longest shape, with a mask."""
    most = max(batch.lengths)
    places = torch.cat([torch.arange(n) + i * most for i, n in enumerate(batch.lengths)]).to(
        batch.device
    )
    lengths = torch.tensor(batch.lengths, device=batch.device)
    mask = (torch.arange(most, device=batch.device) < lengths[:, None])[:, None, None]

    def call() -> Tensor:
        wide = []
        for t in batch.tensors:
            room = t.new_zeros(len(batch.lengths) * most, *t.shape[1:]).index_copy_(0, places, t)
            wide.append(room.view(len(batch.lengths), most, *t.shape[1:]).transpose(1, 2))
        out = F.scaled_dot_product_attention(wide[0], wide[1], wide[2], attn_mask=mask)
        return out.transpose(1, 2).reshape(-1, *batch.tensors[0].shape[1:])[places]

    return call


def varlen(batch: Ragged) -> Call:
    """Return PyTorch's FlashAttention for ragged batches.

    Raises:
        ImportError: a PyTorch without it.
        RuntimeError: a device without it.
    """
    from torch.nn.attention.varlen import varlen_attn

    if batch.device.type != "cuda":
        raise RuntimeError("it is for CUDA")
    ends = torch.tensor(batch.ends, dtype=torch.int32, device=batch.device)
    most = max(batch.lengths)

    def call() -> Tensor:
        out: Any = varlen_attn(*batch.tensors, ends, ends, most, most)
        return out  # type: ignore[no-any-return]

    return call


def flex(batch: Ragged, options: dict[str, Any] | None = None) -> Call:
    """Return compiled FlexAttention with a block mask of documents.

    Args:
        options: of the kernel, as {"BACKEND": "FLASH"} for FlashAttention 4.
    """
    lengths = torch.tensor(batch.lengths)
    shape_of = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(batch.device)

    def same(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return shape_of[i] == shape_of[j]

    mask = create_block_mask(same, None, None, batch.total, batch.total, str(batch.device))
    fast: Any = torch.compile(flex_attention, fullgraph=True, dynamic=False)
    q, k, v = (t.transpose(0, 1)[None] for t in batch.tensors)

    def call() -> Tensor:
        out: Tensor = fast(q, k, v, block_mask=mask, kernel_options=options)
        return out[0].transpose(0, 1)

    return call


def ours(batch: Ragged, impl: Any = "auto") -> Call:
    """Return the package's operator."""
    rows = [(a, b, a, b, 0, 0) for a, b in zip(batch.ends, batch.ends[1:], strict=False)]
    segments = Segments(rows, batch.device)
    q, k, v = batch.tensors
    return lambda: segment_attention(q, k, v, segments, impl=impl)


def _table(title: str, batch: Ragged, rounds: int, compiled: bool, budget: Budget) -> Table:
    ways: dict[str, Callable[[], Call]] = {
        "padded SDPA": partial(padded, batch),
        "SDPA per shape": partial(per_shape, batch),
        "varlen FlashAttention": partial(varlen, batch),
        "compiled FlexAttention": partial(flex, batch),
        "compiled FlexAttention (FA4)": partial(flex, batch, {"BACKEND": "FLASH"}),
        "ddimx auto": partial(ours, batch),
        "ddimx triton": partial(ours, batch, "triton"),
        "ddimx loop": partial(ours, batch, "loop"),
    }
    first = batch.lengths[0]
    heads = [t[:first].cpu().double().transpose(0, 1) for t in batch.tensors]
    exact = materialised(*heads).transpose(0, 1)
    allowed = None
    peers: list[Contender | Absent] = []
    torch.compiler.reset()
    for name, make in ways.items():
        reason = None
        if "compiled" in name:
            reason = budget.refusal(compile_seconds(batch.device)) if compiled else "--no-compile"
        if reason:
            peers.append(Absent(name, reason))
            continue
        begun = time.perf_counter()
        try:
            with torch.no_grad():
                call = make()
                difference = call()[:first].cpu().double() - exact
            facts = {"max_error": (difference.abs().max() / exact.abs().max()).item()}
            seconds = time.perf_counter() - begun
            facts |= launches(call, batch.device)
        except REFUSALS as error:
            peers.append(Absent(name, first_line(error)))
            continue
        if allowed is None:
            allowed = WORSE * facts["max_error"] + torch.finfo(batch.tensors[0].dtype).eps
        if not facts["max_error"] <= allowed:
            raise RuntimeError(f"{name} errs by {facts['max_error']:.3g}, allowed is {allowed:.3g}")
        facts |= {"compile_s": seconds} if "compiled" in name else {}
        facts["operations"] = batch.operations
        peers.append(Contender(name, call, facts=facts, warm=True))
    fill = batch.total / (len(batch.lengths) * max(batch.lengths))
    notes = [
        f"{batch.total:,} tokens; padding would hold them at {fill:.0%}",
        f"ddimx auto runs as: {': '.join(preference(batch.device))}",
    ]
    with torch.no_grad():
        table = compare(title, peers, rounds, wait=waiter(batch.device), notes=notes, budget=budget)
    add_tflop_per_s(table)
    return table
