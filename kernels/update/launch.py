"""The host's side of the update kernel: addresses, compile-time switches, the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._launch import run
from .columns import TABLE
from .kernel import update_kernel
from .layout import Strides, addressable, inner_size, is_flat
from .types import Extras, Stepped


@dataclass(frozen=True)
class UpdateLaunch:
    """One launch in full: what runs is what the compile-only tests compile.

    Attributes:
        arguments: the kernel's run-time arguments by name.
        constants: its compile-time arguments by name.
        grid: number of programs.
        warps: warps per program.
        results: x', y' (x' itself if it is the same) and x0 if it is written.
    """

    arguments: dict[str, Any]
    constants: dict[str, Any]
    grid: int
    warps: int
    results: Stepped


def update(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None,
    extras: Extras,
) -> Stepped:
    """Launch the kernel; arguments and results, float32 [B, ...], as those of the reference."""
    launch = prepare(table, row, x, y, out, history, extras)
    start(launch)
    return launch.results


def start(launch: UpdateLaunch) -> None:
    """Run a launch on the device of its tensors."""
    run(update_kernel, launch.grid, launch.arguments, launch.constants, num_warps=launch.warps)


def prepare(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None,
    extras: Extras,
) -> UpdateLaunch:
    """Return the launch for checked arguments (also on meta tensors: nothing is read).

    Shapes and dtypes as of :func:`ddimx.kernels.update.update`; the state is float32 [B, ...].
    """
    same_input = y is x
    x = x.contiguous()
    y = x if same_input else y.contiguous()
    want_x0 = extras.want_x0 and out is not None
    x_to = torch.empty_like(x)
    y_to = x_to if extras.same_point else torch.empty_like(x)
    x0_to = torch.empty_like(x) if want_x0 else None
    numel = x[0].numel() if len(x) else 0
    block, warps = tile(numel)
    blocks = -(-numel // block)
    inner, channels = inner_size(x), x.shape[1]
    mask = None if extras.mask is None else extras.mask.expand(x.shape)
    # How the network's outputs and the mask are addressed, whose memory may lie in any order.
    addresses: dict[str, Any] = {}
    flat = True
    for name, value in (("out", out), ("uncond", extras.uncond), ("mask", mask)):
        tensor, strides = (x, Strides(0, 0, 0)) if value is None else addressable(value)
        addresses[name] = tensor
        addresses |= {f"{name}_{k}": stride for k, stride in strides._asdict().items()}
        if name != "mask" and value is not None:
            flat = flat and is_flat(strides, channels, inner)
    arguments = {
        "x_to": x_to,
        "y_to": y_to,
        "x0_to": x_to if x0_to is None else x0_to,
        "history": x_to if history is None else history,
        "x": x,
        "y": y,
        "z": x if extras.z is None else extras.z.contiguous(),
        "known": x if extras.known is None else extras.known.contiguous(),
        "table": table.contiguous(),
        "row": row,
        "guidance": table if extras.guidance is None else extras.guidance,
        "seed": row if extras.seed is None else extras.seed,
        "samples": row if extras.samples is None else extras.samples.contiguous(),
        "clip": extras.clip or 0.0,
        "rows": len(table),
        "numel": numel,
        "blocks": blocks,
        "slot_size": x.numel(),
        "inner_size": inner,
        **addresses,
    }
    constants = {
        "HAS_OUT": out is not None,
        "OUT_FLAT": flat,
        "INNER_BY_4": inner % 4 == 0,
        "GUIDED": out is not None and extras.uncond is not None,
        "CLIPPED": extras.clip is not None,
        "HISTORY_IS_X0": extras.history_is_x0,
        "DEPTH": (table.shape[1] - len(TABLE)) // 2,
        "STEP_STREAM": -1 if extras.step_stream is None else extras.step_stream,
        "HAS_Z": extras.z is not None,
        "HAS_KNOWN": extras.known is not None,
        "KNOWN_STREAM": -1 if extras.known_stream is None else extras.known_stream,
        "SAME_Y_IN": same_input,
        "SAME_Y_OUT": extras.same_point,
        "WANT_X0": want_x0,
        "BLOCK": block,
    }
    results = Stepped(x_to, y_to, x0_to)
    return UpdateLaunch(arguments, constants, len(x) * blocks, warps, results)


def tile(numel: int) -> tuple[int, int]:
    """Return (BLOCK, warps) for samples of ``numel`` elements: 8 elements per thread.

    The batch does not enter, nor is anything measured at run time.
    """
    block = min(1024, max(256, 1 << (numel - 1).bit_length()))
    return block, block // 256
