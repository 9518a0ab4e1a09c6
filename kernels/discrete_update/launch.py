"""The host's side of the kernel: addresses, compile-time switches, the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._launch import run
from .kernel import discrete_update_kernel
from .types import Drawn, TokenState, UpdateOptions

BLOCK = 8  # tokens of a program
WARPS = 4  # two tokens each: 16 columns of a token for each thread


@dataclass(frozen=True)
class TokenLaunch:
    """One launch in full: what runs is what the compile-only tests compile.

    Attributes:
        arguments: the kernel's run-time arguments by name.
        constants: its compile-time arguments by name.
        grid: number of programs.
        warps: warps per program.
        results: the tensors that are written.
    """

    arguments: dict[str, Any]
    constants: dict[str, Any]
    grid: int
    warps: int
    results: Drawn


def discrete_update(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    tokens: TokenState,
    seed: Tensor,
    uncond: Tensor | None,
    guidance: Tensor | None,
    options: UpdateOptions,
) -> Drawn:
    """Launch the kernel; arguments and results, uint8 and float32 [N], as of the reference."""
    launch = prepare(table, row, logits, tokens, seed, uncond, guidance, options)
    start(launch)
    return launch.results


def start(launch: TokenLaunch) -> None:
    """Run a launch on the device of its tensors."""
    kernel, options = discrete_update_kernel, {"num_warps": launch.warps}
    run(kernel, launch.grid, launch.arguments, launch.constants, **options)


def prepare(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    tokens: TokenState,
    seed: Tensor,
    uncond: Tensor | None,
    guidance: Tensor | None,
    options: UpdateOptions,
) -> TokenLaunch:
    """Return the launch for checked arguments (also on meta tensors: nothing is read).

    Shapes and dtypes as of :func:`ddimx.kernels.discrete_update.discrete_update`, N tokens.
    """
    ids_to = torch.empty_like(tokens.ids, memory_format=torch.contiguous_format)
    x0_to = torch.empty_like(ids_to) if options.want_x0 else None
    confidence = torch.empty_like(ids_to, dtype=torch.float32) if options.want_x0 else None
    logits = _rows(logits)
    without = logits if uncond is None else _rows(uncond)
    arguments = {
        "ids_to": ids_to,
        "x0_to": ids_to if x0_to is None else x0_to,
        "confidence_to": ids_to if confidence is None else confidence,
        "logits": logits,
        "uncond": without,
        "ids": tokens.ids.contiguous(),
        "keys": tokens.keys.contiguous(),
        "samples": tokens.samples.contiguous(),
        "table": table.contiguous(),
        "row": row,
        "guidance": table if guidance is None else guidance,
        "seed": seed,
        "rows": len(table),
        "count": len(logits),
        "logits_stride": logits.stride(0),
        "uncond_stride": without.stride(0),
    }
    constants = {
        "ABSORBING": options.transition == "absorbing",
        "ROUTE": options.route,
        "WANT_X0": options.want_x0,
        "GUIDED": uncond is not None,
        "STREAM": options.stream,
        "BLOCK": BLOCK,
    }
    grid = -(-len(logits) // BLOCK)
    return TokenLaunch(arguments, constants, grid, WARPS, Drawn(ids_to, x0_to, confidence))


def _rows(value: Tensor) -> Tensor:
    """Return the tensor, copied only if a row's columns do not follow each other."""
    return value if value.stride(1) == 1 else value.contiguous()
