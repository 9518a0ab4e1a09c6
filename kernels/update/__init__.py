"""One row of a plan: from the network's output to the next state, for every solver."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._dispatch import Impl, choose
from . import reference
from .types import Extras, Stepped

__all__ = ["Extras", "Stepped", "update"]

IMPLEMENTATIONS: tuple[Impl, ...] = ("reference",)


def update(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Sequence[Tensor] = (),
    extras: Extras = Extras(),  # noqa: B008 - frozen
    *,
    impl: Impl = "auto",
) -> Stepped:
    """Apply one row of a plan (the formulas are in :mod:`ddimx.plan`).

    Args:
        table: [rows, 10 + 2 depth], the plan's coefficients, in the state's dtype or wider.
        row: 0-d int64, which row; also the row ordinal of the noise.
        x, y: [B, ...] float32 or float64, the state and the point the network was evaluated at.
        out: the network's raw output, of any floating dtype and any strides, or None for a row
            that calls no network.
        history: earlier predictions, newest first, each [B, ...] in the state's dtype.
        extras: guidance, clip, noise and known pixels.
        impl: "auto", "triton" or "reference".

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or extras that lack a companion.
        RuntimeError: an implementation that was asked for and is not there.
    """
    _check(table, x, y, out, history, extras)
    choose("update", impl, IMPLEMENTATIONS, x.device)
    return reference.update(table, row, x, y, out, history, extras)


def _check(
    table: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Sequence[Tensor],
    extras: Extras,
) -> None:
    width = table.shape[-1] - len(reference.SCALARS)
    if table.dim() != 2 or width < 2 or width % 2:
        raise ValueError(f"table has shape {tuple(table.shape)}, expected [rows, 10 + 2 depth]")
    _check_tensors(x, y, out, history, extras)
    if (extras.uncond is None) != (extras.guidance is None):
        raise ValueError("guidance needs both the unconditional output and the weight")
    keyed = extras.step_stream is not None or extras.known_stream is not None
    if keyed and (extras.seed is None or extras.samples is None):
        raise ValueError("drawing noise needs a seed and the sample indices")
    if extras.samples is not None and extras.samples.shape != x.shape[:1]:
        raise ValueError(f"{len(extras.samples)} sample indices for a batch of {len(x)}")
    if extras.known is not None and (extras.mask is None or extras.known_stream is None):
        raise ValueError("known pixels need a mask and a noise stream")


def _check_tensors(
    x: Tensor, y: Tensor, out: Tensor | None, history: Sequence[Tensor], extras: Extras
) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x has dtype {x.dtype}, expected float32 or float64")
    states = {"y": y, **{f"history[{i}]": m for i, m in enumerate(history)}}
    for name, state in states.items():
        if state.dtype != x.dtype:
            raise ValueError(f"{name} has dtype {state.dtype}, the state {x.dtype}")
    others = {"out": out, "uncond": extras.uncond, "z": extras.z, "known": extras.known}
    for name, value in {**states, **others}.items():
        if value is not None and value.shape != x.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the state {tuple(x.shape)}")
        if value is not None and value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, the state on {x.device}")
