"""One row of a plan: from the network's output to the next state, for every solver."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import Impl, preferred
from .check import check
from .op import options, run, update_op, wanted
from .types import Extras, Stepped

__all__ = ["Extras", "Stepped", "preference", "update"]


def update(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None = None,
    extras: Extras = Extras(),  # noqa: B008 - frozen
    *,
    impl: Impl = "auto",
) -> Stepped:
    """Apply one row of a plan (the formulas are in :mod:`ddimx.solvers.plan`).

    Everything that changes from row to row is a tensor on the state's device, so that a captured
    graph can be replayed for the next row after adding 1 to ``row``.

    Args:
        table: float [rows, len(TABLE) + 2 depth], a plan's coefficients as
            :mod:`ddimx.kernels.update.columns` lists them (:meth:`ddimx.solvers.plan.Plan.table`).
        row: 0-d int64, which row; also the row ordinal of the noise.
        x, y: [B, ...] float32 (the reference takes float64 too), the state and the point the
            network was evaluated at; they may be one tensor.
        out: the network's raw output, of any floating dtype and any strides, or None for a row
            that calls no network.
        history: earlier predictions [depth - 1, B, ...] in the state's dtype, contiguous, zero
            before the first row; None at depth 1. A row that calls the network puts its own
            prediction over the oldest one, **in place**.
        extras: guidance, clip, noise, known pixels, and which results are wanted.
        impl: "auto", "triton" or "reference".

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, extras that lack a companion, or a
            row outside the table where the host can know it (on an accelerator such a row gives
            NaN).
        RuntimeError: an implementation that was asked for and is not there.
    """
    check(table, row, x, y, out, history, extras)
    has_point, has_x0 = wanted(out is not None, extras.same_point, extras.want_x0)
    plain = type(x) is Tensor and x.device.type == "cpu" and not torch.is_grad_enabled()
    if plain and not torch.compiler.is_compiling():
        # An operator's way to its implementation takes 0.15 ms, three times what a small row takes.
        moved, point, x0 = run(table, row, x, y, out, history, extras, impl)
        moved = moved.contiguous()
        point = point.contiguous() if has_point else moved
        return Stepped(moved, point, x0.contiguous() if has_x0 and x0 is not None else None)
    moved, point, x0 = update_op(
        table,
        row,
        x,
        y,
        out,
        history,
        extras.uncond,
        extras.guidance,
        extras.seed,
        extras.samples,
        extras.z,
        extras.known,
        extras.mask,
        extras.clip,
        extras.step_stream,
        extras.known_stream,
        extras.history_is_x0,
        extras.same_point,
        extras.want_x0,
        impl,
    )
    return Stepped(moved, point if has_point else moved, x0 if has_x0 else None)


def preference(device: torch.device) -> tuple[Impl, str]:
    """Return what ``impl="auto"`` runs for a float32 state on a device, and why."""
    return preferred(options(device, torch.float32))
