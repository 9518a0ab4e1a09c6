"""The update as an operator of PyTorch: opaque to tracing, with a shape rule of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import Candidate, Impl, check_row, choose, triton_option
from . import reference
from .types import Extras, Stepped


def options(device: torch.device, dtype: torch.dtype) -> list[Candidate]:
    """Return the implementations for a state of this kind, in the order of preference."""
    refusal = None if dtype == torch.float32 else f"the kernel's state is float32, not {dtype}"
    return [triton_option(device, refusal), Candidate("reference", "plain PyTorch")]


def run(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None,
    extras: Extras,
    impl: Impl,
) -> Stepped:
    """Apply one row by the implementation that is chosen; the arguments have been checked."""
    check_row(table, row)
    if choose("update", impl, options(x.device, x.dtype)) == "triton":
        from . import launch

        return launch.update(table, row, x, y, out, history, extras)
    return reference.update(table, row, x, y, out, history, extras)


@torch.library.custom_op("ddimx::update", mutates_args=("history",))
def update_op(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None,
    uncond: Tensor | None,
    guidance: Tensor | None,
    seed: Tensor | None,
    samples: Tensor | None,
    z: Tensor | None,
    known: Tensor | None,
    mask: Tensor | None,
    clip: float | None,
    step_stream: int | None,
    known_stream: int | None,
    history_is_x0: bool,
    same_point: bool,
    want_x0: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x', y' and x0, [B, ...] as x; the last two may be empty, [0] (see :func:`wanted`).

    The arguments are those of :func:`ddimx.kernels.update.update` with its extras spread out,
    for an operator's schema knows no dataclass. They have been checked there. An operator that
    writes to an argument must return a fixed number of tensors.
    """
    extras = Extras(
        history_is_x0=history_is_x0,
        same_point=same_point,
        want_x0=want_x0,
        clip=clip,
        uncond=uncond,
        guidance=guidance,
        seed=seed,
        samples=samples,
        step_stream=step_stream,
        z=z,
        known=known,
        mask=mask,
        known_stream=known_stream,
    )
    wish: Impl = impl  # type: ignore[assignment]
    stepped = run(table, row, x, y, out, history, extras, wish)
    point, x0 = wanted(out is not None, same_point, want_x0)
    return (
        stepped.x.contiguous(),
        stepped.y.contiguous() if point else x.new_empty(0),
        stepped.x0.contiguous() if x0 and stepped.x0 is not None else x.new_empty(0),
    )


@update_op.register_fake
def _(
    table: Tensor,
    row: Tensor,
    x: Tensor,
    y: Tensor,
    out: Tensor | None,
    history: Tensor | None,
    uncond: Tensor | None,
    guidance: Tensor | None,
    seed: Tensor | None,
    samples: Tensor | None,
    z: Tensor | None,
    known: Tensor | None,
    mask: Tensor | None,
    clip: float | None,
    step_stream: int | None,
    known_stream: int | None,
    history_is_x0: bool,
    same_point: bool,
    want_x0: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    def result(exists: bool) -> Tensor:
        return x.new_empty(x.shape) if exists else x.new_empty(0)

    point, x0 = wanted(out is not None, same_point, want_x0)
    return result(True), result(point), result(x0)


def wanted(calls_network: bool, same_point: bool, want_x0: bool) -> tuple[bool, bool]:
    """Return whether an update returns a y' of its own, and whether it returns an x0."""
    return not same_point, want_x0 and calls_network
