"""The update of tokens as an operator of PyTorch: opaque to tracing, with a shape rule."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import Candidate, Impl, check_row, choose, triton_option
from . import reference
from .types import TokenState, UpdateOptions


def options(device: torch.device, dtype: torch.dtype) -> list[Candidate]:
    """Return the implementations for logits of this kind, in the order of preference."""
    refusal = "the kernel computes in float32, not float64" if dtype == torch.float64 else None
    return [triton_option(device, refusal), Candidate("reference", "plain PyTorch")]


def run(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    ids: Tensor,
    keys: Tensor,
    samples: Tensor,
    seed: Tensor,
    uncond: Tensor | None,
    guidance: Tensor | None,
    transition: str,
    stream: int,
    route: bool,
    want_x0: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and x0, uint8 [N], and the confidence, float32 [N].

    Without ``want_x0`` the last two are empty, [0].
    The arguments are those of :func:`ddimx.kernels.discrete_update.discrete_update`, spread out,
    and have been checked there. An operator must return a fixed number of tensors.
    """
    check_row(table, row)
    fixed = UpdateOptions(transition, stream, route, want_x0)  # type: ignore[arg-type]
    tokens = TokenState(ids, keys, samples)
    wish: Impl = impl  # type: ignore[assignment]
    if choose("discrete_update", wish, options(logits.device, logits.dtype)) == "triton":
        from . import launch

        drawn = launch.discrete_update(table, row, logits, tokens, seed, uncond, guidance, fixed)
    else:
        drawn = reference.discrete_update(table, row, logits, tokens, seed, uncond, guidance, fixed)
    if drawn.x0 is None or drawn.confidence is None:
        return drawn.ids, ids.new_empty(0), ids.new_empty(0, dtype=torch.float32)
    return drawn.ids, drawn.x0, drawn.confidence


# The same as run, for tracing, which records it as one operation.
discrete_update_op = torch.library.custom_op("ddimx::discrete_update", mutates_args=())(run)


@discrete_update_op.register_fake
def _(
    table: Tensor,
    row: Tensor,
    logits: Tensor,
    ids: Tensor,
    keys: Tensor,
    samples: Tensor,
    seed: Tensor,
    uncond: Tensor | None,
    guidance: Tensor | None,
    transition: str,
    stream: int,
    route: bool,
    want_x0: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = ids.shape if want_x0 else (0,)
    confidence = ids.new_empty(shape, dtype=torch.float32)
    return ids.new_empty(ids.shape), ids.new_empty(shape), confidence
