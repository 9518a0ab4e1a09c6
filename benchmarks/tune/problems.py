"""What tiles are chosen for: classes of problems of three operations, with their exact results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddimx.kernels._launch import architecture
from ddimx.kernels.attention import launch as attention_launch
from ddimx.kernels.attention import tiles as attention_tiles
from ddimx.kernels.group_norm_silu import launch as norm_launch
from ddimx.kernels.group_norm_silu import reference as norm_reference
from ddimx.kernels.group_norm_silu import tiles as norm_tiles
from ddimx.kernels.segment_attention import Segments
from ddimx.kernels.segment_attention import launch as segment_launch
from ddimx.kernels.segment_attention import tiles as segment_tiles

from ..attention import materialised

NORM_GROUPS = 32

Tile = Any  # a dataclass of integers


@dataclass(frozen=True)
class Attention:
    """A forward of ``attention``: q, k and v [batch, n, d] in bfloat16 (float32 off a GPU)."""

    n: int
    d: int
    batch: int = 64
    operation: str = "attention"

    def name(self, dtype: torch.dtype) -> str:
        """Return the class of problems."""
        return attention_tiles.problem(self._kernel(), dtype, self.d)

    def candidates(self, arch: str, dtype: torch.dtype) -> list[Tile]:
        """Return the tiles to try, the table's own first."""
        return list(attention_tiles.candidates(arch, self._kernel(), dtype, self.n, self.n, self.d))

    def prepare(self, device: torch.device, dtype: torch.dtype) -> Case:
        """Return the inputs, made for a launch by any tile."""
        q, k, v = _normal(device, dtype, 3, (self.batch, self.n, self.d))
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
        arch, scale = architecture(device), self.d**-0.5

        def launched(tile: Tile) -> Callable[[], object]:
            return attention_launch.forward(q, k, v, out, lse, scale, arch, tile)

        few = [t[:2].cpu().double() for t in (q, k, v)]
        return Case(launched, lambda: out[:2], materialised(*few))

    def _kernel(self) -> attention_tiles.Kernel:
        return "strip" if self.n <= attention_tiles.STRIP else "online"


@dataclass(frozen=True)
class SegmentAttention:
    """A forward of ``segment_attention`` over shapes of different lengths, 8 heads."""

    columns: int
    shapes: int = 32
    longest: int = 1500
    operation: str = "segment_attention"

    def name(self, dtype: torch.dtype) -> str:
        """Return the class of problems."""
        return segment_tiles.problem("forward", dtype, self.columns)

    def candidates(self, arch: str, dtype: torch.dtype) -> list[Tile]:
        """Return the tiles to try, the table's own first."""
        return list(segment_tiles.candidates("forward", dtype, self.columns, arch))

    def prepare(self, device: torch.device, dtype: torch.dtype) -> Case:
        """Return the inputs, made for a launch by any tile."""
        rows, start = [], 0
        for i in range(self.shapes):
            end = start + self.longest * (i + 1) // self.shapes
            rows.append((start, end, start, end, 0, 0))
            start = end
        q, k, v = _normal(device, dtype, 3, (start, 8, self.columns))
        tables = Segments(rows, device).tables(q.device)
        none = q.new_empty((0, 8, self.columns))
        out, lse = torch.empty_like(q), q.new_empty((8, start), dtype=torch.float32)
        scale, first = self.columns**-0.5, rows[0][1]

        def launched(tile: Tile) -> Callable[[], object]:
            return segment_launch.forward(q, k, v, none, none, out, lse, tables, scale, tile)

        few = [t[:first].cpu().double().transpose(0, 1) for t in (q, k, v)]
        exact = materialised(*few).transpose(0, 1)
        return Case(launched, lambda: out[:first], exact)


@dataclass(frozen=True)
class GroupNorm:
    """A forward of ``group_norm_silu`` in 32 groups, x [batch, channels, side, side] in NHWC."""

    channels: int
    side: int
    batch: int = 128
    operation: str = "group_norm_silu"

    def name(self, dtype: torch.dtype) -> str:
        """Return the class of problems."""
        width = self.channels // NORM_GROUPS
        return norm_tiles.problem("forward", dtype, self.side**2, width)

    def candidates(self, arch: str, dtype: torch.dtype) -> list[Tile]:
        """Return the tiles to try, the table's own first."""
        shape = self.side**2, self.channels, NORM_GROUPS
        return list(norm_tiles.candidates(arch, "forward", dtype, *shape))

    def prepare(self, device: torch.device, dtype: torch.dtype) -> Case:
        """Return the inputs, made for a launch by any tile."""
        (x,) = _normal(device, dtype, 1, (self.batch, self.side, self.side, self.channels))
        x = x.permute(0, 3, 1, 2)
        weight, bias = _normal(device, dtype, 2, (self.channels,))
        arch, results = architecture(device), {"out": x}
        few = [t.cpu().double() for t in (x[:2], weight, bias)]

        def launched(tile: Tile) -> Callable[[], object]:
            ready = norm_launch.forward(x, weight, bias, NORM_GROUPS, 1e-6, True, None, arch, tile)
            results["out"] = ready.out

            def run() -> None:
                for step in ready.steps:
                    step()

            return run

        fixed = (NORM_GROUPS, 1e-6, True, None)
        exact = norm_reference.group_norm_silu(few[0], few[1], few[2], *fixed)
        return Case(launched, lambda: results["out"][:2], exact)


@dataclass(frozen=True)
class Case:
    """A problem's tensors.

    Attributes:
        launched: returns the launch by a tile; it fills what ``result`` returns.
        exact: what the result must be, in float64.
    """

    launched: Callable[[Tile], Callable[[], object]]
    result: Callable[[], Tensor]
    exact: Tensor

    def error(self) -> float:
        """Return the largest error over the largest value."""
        difference = self.result().cpu().double() - self.exact
        return float(difference.abs().max() / self.exact.abs().max())


Problem = Attention | SegmentAttention | GroupNorm
# The most telling first: what runs, then what 'auto' does not take yet.
PROBLEMS: tuple[Problem, ...] = (
    GroupNorm(128, 32, batch=256),
    GroupNorm(256, 16, batch=512),
    GroupNorm(128, 256, batch=8),
    SegmentAttention(32),
    Attention(256, 512, batch=256),
    GroupNorm(384, 32),
    GroupNorm(256, 8, batch=512),
    GroupNorm(128, 64),
    Attention(1024, 512),
    GroupNorm(512, 4, batch=512),
    GroupNorm(256, 32),
    SegmentAttention(64),
    SegmentAttention(128),
    Attention(256, 256, batch=256),
    Attention(1024, 256),
)
# Of the interpreter, which is thousands of times slower.
TRIAL: tuple[Problem, ...] = (
    Attention(20, 16, batch=1),
    SegmentAttention(16, shapes=1, longest=20),
    GroupNorm(32, 2, batch=2),
)


def _normal(
    device: torch.device, dtype: torch.dtype, count: int, shape: tuple[int, ...]
) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    drawn = [torch.randn(shape, generator=generator, device=device) for _ in range(count)]
    return [t.to(dtype) for t in drawn]
