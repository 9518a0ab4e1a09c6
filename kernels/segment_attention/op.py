"""Segment attention as operators of PyTorch: opaque to tracing, differentiable once.

One operator runs the Triton kernels, the other the host's loop; they share the order of their five
inputs (q, k, v, context_k, context_v) and differ in the tables that describe the segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._dispatch import Candidate, product_refusal, triton_option
from . import launch, loop
from .blocks import Tables
from .tiles import COLUMNS

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def options(device: torch.device, dtype: torch.dtype, d: int) -> list[Candidate]:
    """Return the implementations for inputs of this kind, in the order of preference."""
    return [
        triton_option(device, kernel_refusal(device, dtype, d)),
        Candidate("loop", "products per segment, in plain PyTorch"),
        Candidate("reference", "the definition, in plain PyTorch"),
    ]


def kernel_refusal(device: torch.device, dtype: torch.dtype, d: int) -> str | None:
    """Return why the Triton kernels cannot run on tensors of this kind, or None."""
    if d not in COLUMNS:
        return f"the kernels take heads of {', '.join(map(str, COLUMNS))} columns, not {d}"
    return product_refusal(device, dtype)


def kernel_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    tables: Sequence[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the output [Nq, H, D] and the scores' logsumexp float32 [H, Nq], both contiguous.

    Args:
        tables: the fields of :class:`.blocks.Tables` on the inputs' device.

    Raises:
        RuntimeError: tensors that the kernels cannot take.
    """
    _refuse(q)
    q, k, v, context_k, context_v = map(_dense, (q, k, v, context_k, context_v))
    out, lse = _results(q)
    launch.forward(q, k, v, context_k, context_v, out, lse, Tables(*tables), scale)()
    return out, lse


# The same as kernel_forward, for autograd and tracing, which record it as one operation.
kernel_op = torch.library.custom_op("ddimx::segment_attention", mutates_args=())(kernel_forward)


@kernel_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    tables: Sequence[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor]:
    return _results(q)


@torch.library.custom_op("ddimx::segment_attention_backward", mutates_args=())
def kernel_backward_op(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    out: Tensor,
    lse: Tensor,
    tables: Sequence[Tensor],
    scale: float,
) -> Gradients:
    """Return the gradients of q, k, v, context_k and context_v, contiguous, [N, H, D] as they are.

    They have no gradient of their own.
    """
    _refuse(q)
    grad, q, k, v, context_k, context_v = map(_dense, (grad, q, k, v, context_k, context_v))
    results = _gradients(q, k, v, context_k, context_v)
    for result in results[1:]:
        result.zero_()  # keys without readers are not in the tables
    delta = (grad.float() * out.float()).sum(dim=-1).t().contiguous()
    steps = launch.backward(
        grad, q, k, v, context_k, context_v, lse, delta, results, Tables(*tables), scale
    )
    for step in steps:
        step()
    return results


@kernel_backward_op.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    out: Tensor,
    lse: Tensor,
    tables: Sequence[Tensor],
    scale: float,
) -> Gradients:
    return _gradients(q, k, v, context_k, context_v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, tables, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output, *tables)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    inputs, tables = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
    gradients = kernel_backward_op(grad, *inputs, tables, ctx.scale)
    return *gradients, [None] * len(tables), None


kernel_op.register_autograd(_differentiate, setup_context=_keep)


def _refuse(q: Tensor) -> None:
    refusal = kernel_refusal(q.device, q.dtype, q.shape[-1])
    if refusal is not None:
        raise RuntimeError(f"segment_attention: {refusal}")


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _results(q: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


def _gradients(*inputs: Tensor) -> Gradients:
    q, k, v, context_k, context_v = (tensor.new_empty(tensor.shape) for tensor in inputs)
    return q, k, v, context_k, context_v


loop_op = torch.library.custom_op("ddimx::segment_attention_loop", mutates_args=())(loop.forward)


@loop_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    groups: Tensor,
    masks: Tensor,
    scale: float,
) -> Tensor:
    return q.new_empty(q.shape)


# Its results have no gradient of their own.
loop_backward_op = torch.library.custom_op(
    "ddimx::segment_attention_loop_backward", mutates_args=()
)(loop.backward)


@loop_backward_op.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    out: Tensor,
    groups: Tensor,
    masks: Tensor,
    scale: float,
) -> Gradients:
    return _gradients(q, k, v, context_k, context_v)


def _keep_loop(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, groups, masks, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output, groups, masks)


def _differentiate_loop(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, out, groups, masks = ctx.saved_tensors
    gradients = loop_backward_op(grad, *tensors, out, groups, masks, ctx.scale)
    return *gradients, None, None, None


loop_op.register_autograd(_differentiate_loop, setup_context=_keep_loop)
