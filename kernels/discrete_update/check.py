"""What an update of tokens refuses, before anything is launched."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from .reference import COLUMNS
from .types import IDS, TokenState, Transition, UpdateOptions

MOST_TOKENS = 2**31 - 2**8  # token numbers are 32-bit; offsets into the logits are 64-bit


def check(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    tokens: TokenState,
    seed: Tensor,
    uncond: Tensor | None,
    guidance: Tensor | None,
    options: UpdateOptions,
) -> None:
    """Raise ValueError unless the arguments of ``discrete_update`` (N tokens) fit together."""
    _check_table(table)
    _check_logits(logits, uncond, guidance)
    n = len(logits)
    if n > MOST_TOKENS:
        raise ValueError(f"{n} tokens are more than {MOST_TOKENS}")
    _check("ids", tokens.ids, torch.uint8, (n,))
    _check("keys", tokens.keys, torch.int64, (n,))
    _check("samples", tokens.samples, torch.int64, (n,))
    _check("row", row, torch.int64, ())
    _check("seed", seed, torch.int64, ())
    if options.transition not in get_args(Transition):
        names = ", ".join(get_args(Transition))
        raise ValueError(f"transition '{options.transition}' is not one of {names}")
    if not (options.route or options.want_x0):
        raise ValueError("without routing and without x0 nothing is asked for")
    # Named one by one: torch.compile of PyTorch 2.11 cannot trace vars().
    state = {"ids": tokens.ids, "keys": tokens.keys, "samples": tokens.samples}
    others = {"table": table, "row": row, "seed": seed, "uncond": uncond, "guidance": guidance}
    for name, value in {**state, **others}.items():
        if value is not None and value.device != logits.device:
            raise ValueError(f"{name} is on {value.device}, the logits on {logits.device}")


def _check_table(table: Tensor) -> None:
    if table.dim() != 2 or table.shape[1] != len(COLUMNS) or not table.is_floating_point():
        raise ValueError(
            f"table is {table.dtype} {tuple(table.shape)}, expected float [rows, {len(COLUMNS)}]"
        )


def _check_logits(logits: Tensor, uncond: Tensor | None, guidance: Tensor | None) -> None:
    for name, value in (("logits", logits), ("uncond", uncond)):
        if value is None:
            continue
        if value.dim() != 2 or value.shape[1] != IDS or not value.is_floating_point():
            raise ValueError(
                f"{name} are {value.dtype} {tuple(value.shape)}, expected float [N, {IDS}]"
            )
        if len(value) != len(logits):
            raise ValueError(f"{name} have {len(value)} rows, the logits {len(logits)}")
    if (uncond is None) != (guidance is None):
        raise ValueError("guidance needs both the unconditional logits and the weight")
    if guidance is not None and (guidance.dim() or not guidance.is_floating_point()):
        raise ValueError(
            f"guidance is {guidance.dtype} {tuple(guidance.shape)}, expected a 0-d float"
        )


def _check(name: str, value: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if value.dtype != dtype or value.shape != shape:
        raise ValueError(f"{name}: {value.dtype} {tuple(value.shape)}, expected {dtype} {shape}")
