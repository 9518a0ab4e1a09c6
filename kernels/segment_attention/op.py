"""Segment attention as operators of PyTorch: opaque to tracing, differentiable once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dispatch import Option
from . import loop


def options(device: torch.device, dtype: torch.dtype) -> list[Option]:
    """Return the implementations for inputs of this kind, in the order of preference."""
    return [
        Option("loop", "products per segment, in plain PyTorch"),
        Option("reference", "the definition, in plain PyTorch"),
    ]


@torch.library.custom_op("ddimx::segment_attention_loop", mutates_args=())
def loop_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    groups: Tensor,
    masks: Tensor,
    scale: float,
) -> Tensor:
    """Return the output [Nq, H, D], contiguous; see :func:`.loop.forward`."""
    return loop.forward(q, k, v, context_k, context_v, groups, masks, scale)


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


@torch.library.custom_op("ddimx::segment_attention_loop_backward", mutates_args=())
def loop_backward_op(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the five inputs, contiguous; they have no gradient of their own."""
    return loop.backward(grad, q, k, v, context_k, context_v, out, groups, masks, scale)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        context_k.new_empty(context_k.shape),
        context_v.new_empty(context_v.shape),
    )


def _keep_loop(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, groups, masks, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output, groups, masks)


def _differentiate_loop(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, out, groups, masks = ctx.saved_tensors
    gradients = loop_backward_op(grad, *tensors, out, groups, masks, ctx.scale)
    return *gradients, None, None, None


loop_op.register_autograd(_differentiate_loop, setup_context=_keep_loop)
