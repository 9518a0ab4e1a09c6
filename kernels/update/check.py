"""What an update refuses, before anything is launched."""

from __future__ import annotations

import torch
from torch import Tensor

from .columns import TABLE
from .types import Extras

MOST_ELEMENTS = 2**31 - 2**12  # of one sample: offsets within a sample are 32-bit


def check(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None,
    extras: Extras,
) -> None:
    """Raise ValueError unless all arguments fit the state x [B, ...].

    They are those of :func:`ddimx.kernels.update.update`.
    """
    _check_table(table, row, x, history)
    _check_states(x, y, history)
    _check_others(x, {"out": out, **{n: getattr(extras, n) for n in ("uncond", "z", "known")}})
    _check_companions(extras)
    _check_small(x, extras)


def _check_table(table: Tensor, row: Tensor, x: Tensor, history: Tensor | None) -> None:
    """Check the table, the row's number, and that the history has the table's depth."""
    width = table.shape[-1] - len(TABLE)
    if table.dim() != 2 or width < 2 or width % 2 or not table.is_floating_point():
        raise ValueError(
            f"table is {table.dtype} {tuple(table.shape)}, expected float "
            f"[rows, {len(TABLE)} + 2 depth]"
        )
    if row.dim() or row.dtype != torch.int64:
        raise ValueError(f"row is {row.dtype} {tuple(row.shape)}, expected a 0-d int64")
    _same_device("table", table, x)
    _same_device("row", row, x)
    slots = 0 if history is None else len(history)
    if slots != width // 2 - 1:
        raise ValueError(
            f"history has {slots} slots, a table of depth {width // 2} needs {width // 2 - 1}"
        )


def _check_states(x: Tensor, y: Tensor, history: Tensor | None) -> None:
    """Check the state, the point and the history, which share shape and dtype."""
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x has dtype {x.dtype}, expected float32 or float64")
    if x.dim() < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected [B, ...]")
    if x.numel() // max(x.shape[0], 1) > MOST_ELEMENTS:
        raise ValueError(f"one sample has {x[0].numel()} elements, more than {MOST_ELEMENTS}")
    if y.dtype != x.dtype:
        raise ValueError(f"y has dtype {y.dtype}, the state {x.dtype}")
    _check_others(x, {"y": y})
    if history is None:
        return
    if history.shape[1:] != x.shape:
        raise ValueError(f"history has shape {tuple(history.shape)}, the state {tuple(x.shape)}")
    if history.dtype != x.dtype:
        raise ValueError(f"history has dtype {history.dtype}, the state {x.dtype}")
    if not history.is_contiguous():
        raise ValueError("history must be contiguous, for it is written in place")
    _same_device("history", history, x)


def _check_others(x: Tensor, others: dict[str, Tensor | None]) -> None:
    """Check what has the state's shape, and any floating dtype."""
    for name, value in others.items():
        if value is None:
            continue
        if value.shape != x.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the state {tuple(x.shape)}")
        if not value.is_floating_point():
            raise ValueError(f"{name} has dtype {value.dtype}, expected floating point")
        _same_device(name, value, x)


def _check_companions(extras: Extras) -> None:
    """Check that no extra lacks another one that it needs."""
    if (extras.uncond is None) != (extras.guidance is None):
        raise ValueError("guidance needs both the unconditional output and the weight")
    keyed = extras.step_stream is not None or extras.known_stream is not None
    if keyed and (extras.seed is None or extras.samples is None):
        raise ValueError("drawing noise needs a seed and the sample indices")
    if extras.known is not None and (extras.mask is None or extras.known_stream is None):
        raise ValueError("known pixels need a mask and a noise stream")
    if extras.clip is not None and not extras.clip > 0:
        raise ValueError(f"clip is {extras.clip}, expected a positive bound")


def _check_small(x: Tensor, extras: Extras) -> None:
    """Check what is not shaped as the state: guidance, seed, sample indices, mask."""
    for name in ("guidance", "seed", "samples", "mask"):
        value = getattr(extras, name)
        if value is not None:
            _same_device(name, value, x)
    for name in ("guidance", "seed"):
        value = getattr(extras, name)
        if value is not None and value.dim():
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected a 0-d tensor")
    for name in ("seed", "samples"):
        value = getattr(extras, name)
        if value is not None and value.dtype != torch.int64:
            raise ValueError(f"{name} has dtype {value.dtype}, expected int64")
    if extras.samples is not None and extras.samples.shape != x.shape[:1]:
        raise ValueError(f"{len(extras.samples)} sample indices for a batch of {len(x)}")
    if extras.mask is not None and not _broadcasts(extras.mask, x):
        raise ValueError(
            f"mask has shape {tuple(extras.mask.shape)}, which does not broadcast to the state's "
            f"{tuple(x.shape)}"
        )


def _broadcasts(value: Tensor, x: Tensor) -> bool:
    sizes = zip(reversed(value.shape), reversed(x.shape), strict=False)
    return value.dim() <= x.dim() and all(size in (1, full) for size, full in sizes)


def _same_device(name: str, value: Tensor, x: Tensor) -> None:
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device}, the state on {x.device}")
