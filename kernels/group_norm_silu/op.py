"""Group normalization as an operator of PyTorch: opaque to tracing, differentiable once.

The operator runs the Triton kernels and nothing else. Where they cannot run, the front door takes
the reference, which tracing sees through. Where nothing is traced, it takes :func:`normalized`,
which goes around the operator: to pass through PyTorch's library takes the host longer than a
small feature map takes a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._dispatch import Candidate, triton_option, triton_refusal
from .._launch import architecture
from . import launch
from .tiles import WIDEST

MOST = 2**31 - 1  # elements of one image, which the kernels count in 32 bits

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def options(
    device: torch.device, dtype: torch.dtype, nhwc: bool, width: int, size: int
) -> list[Candidate]:
    """Return the implementations in the order of preference.

    Args:
        nhwc: whether the feature map lies in channels_last memory; if not, the kernels copy it.
        width: channels of a group.
        size: elements of one image.
    """
    triton = triton_option(device, kernel_refusal(device, dtype, width, size))
    if device.type == "cuda" and not nhwc:
        return [Candidate("reference", "PyTorch's own for NCHW"), triton]
    return [triton, Candidate("reference", "PyTorch's own")]


def kernel_refusal(device: torch.device, dtype: torch.dtype, width: int, size: int) -> str | None:
    """Return why the Triton kernels cannot run on images of this kind, or None."""
    if (refusal := triton_refusal(device)) is not None:
        return refusal
    if dtype == torch.float64:
        return "the kernels' sums are float32, not torch.float64"
    if device.type != "cuda" and dtype == torch.bfloat16:
        return "Triton's interpreter rounds torch.bfloat16 wrongly"
    if width > WIDEST:
        return f"the kernels take groups of at most {WIDEST} channels, not {width}"
    return f"an image has {size} elements, more than {MOST}" if size > MOST else None


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result [B, C, H, W] in NHWC, and mean and 1 / deviation, float32 [B, groups].

    The arguments have been checked by :func:`ddimx.kernels.group_norm_silu.group_norm_silu`.

    Raises:
        RuntimeError: tensors that the kernels cannot take.
    """
    x, add = _readable(x, groups), None if add is None else add.contiguous()
    ready = launch.forward(x, weight, bias, groups, eps, silu, add, architecture(x.device))
    for step in ready.steps:
        step()
    return ready.out, ready.mean, ready.rstd


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
) -> Gradients:
    """Return the gradients of x (in NHWC), weight, bias and add, the last one empty without it.

    Raises:
        RuntimeError: tensors that the kernels cannot take.
    """
    groups = mean.shape[1]
    x, grad = (_readable(tensor, groups) for tensor in (x, grad))
    rows = None if add is None else add.contiguous()
    arch = architecture(x.device)
    ready = launch.backward(grad, x, weight, bias, groups, silu, rows, mean, rstd, arch)
    for step in ready.steps:
        step()
    d_weight, d_bias = ready.sums.sum((0, 1)).to(weight.dtype)
    d_add = x.new_empty(0) if add is None or ready.d_add is None else ready.d_add.sum(1).to(add)
    # Results of an operator may not share memory.
    return ready.d_x, d_weight.clone(), d_bias.clone(), d_add


def _readable(x: Tensor, groups: int) -> Tensor:
    refusal = kernel_refusal(x.device, x.dtype, x.shape[1] // groups, x[:1].numel())
    if refusal is not None:
        raise RuntimeError(f"group_norm_silu: {refusal}")
    return x.contiguous(memory_format=torch.channels_last)


norm_op = torch.library.custom_op("ddimx::group_norm_silu", mutates_args=())(forward)


@norm_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty((x.shape[0], groups), dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x, memory_format=torch.channels_last), mean, rstd


# Its results have no gradient of their own: a second derivative is refused and not wrong.
backward_op = torch.library.custom_op("ddimx::group_norm_silu_backward", mutates_args=())(backward)


@backward_op.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
) -> Gradients:
    d_x = torch.empty_like(x, memory_format=torch.channels_last)
    d_add = x.new_empty(0) if add is None else add.new_empty(add.shape)
    return d_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape), d_add


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, add, _, _, ctx.silu = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, bias, add, *output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, weight, bias, add, mean, rstd = ctx.saved_tensors
    *gradients, d_add = backward_op(grad, x, weight, bias, add, mean, rstd, ctx.silu)
    return *gradients, None if add is None else d_add, None, None, None


norm_op.register_autograd(_differentiate, setup_context=_keep)


class _Normalized(torch.autograd.Function):
    """The operator's result and gradient without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        results = forward(*inputs)
        ctx.save_for_backward(*inputs[:4], *results[1:])
        ctx.silu = inputs[6]
        return results[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, add, mean, rstd = ctx.saved_tensors
        *gradients, d_add = backward(grad, x, weight, bias, add, mean, rstd, ctx.silu)
        return *gradients, None if add is None else d_add, None, None, None


def normalized(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """Return the result of :func:`forward`, which can be differentiated once.

    Raises:
        RuntimeError: tensors that the kernels cannot take.
    """
    inputs = x, weight, bias, add, groups, eps, silu
    leaves = (x, weight, bias) if add is None else (x, weight, bias, add)
    if torch.compiler.is_compiling() or type(x) is not Tensor:  # traced, or with a class of its own
        out: Tensor = norm_op(*inputs)[0]
    elif torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
        out = _Normalized.apply(*inputs)  # type: ignore[no-untyped-call]
    else:
        out = forward(*inputs)[0]
    return out
