"""Attention as an operator of PyTorch: opaque to tracing, differentiable once.

The operator runs the Triton kernels on a CUDA device, on a CPU the reference (under
``TRITON_INTERPRET=1`` the kernels in Triton's interpreter, where they can compute the dtype).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dispatch import Candidate, product_refusal, triton_option
from . import launch, reference

WIDEST_OF_SDPA = 256  # above it PyTorch's flash and cuDNN backends refuse
# Scores of one sample that "auto" keeps in memory: 4,096 tokens squared, 32 MiB in 16 bits. It goes
# by one sample, so that the choice, and with it a sample's bits, does not depend on the batch.
MOST_SCORES = 1 << 24


def options(
    device: torch.device,
    dtype: torch.dtype,
    n: int,
    m: int,
    d: int,
    *,
    differentiates: bool = False,
) -> list[Candidate]:
    """Return the implementations for n queries, m keys and d columns, in the order of preference.

    The order is that of an H200's clock in bfloat16 (docs/findings.md): above 256 columns two
    products with the scores between them in memory are 1.6 to 3 times as fast as PyTorch's own and
    ours. Where there are too many scores to keep, ours differentiates three times as fast as
    PyTorch's own, which is the faster one only forward. On a CPU PyTorch's own multiplies 16 bits
    in float32, and two products take half of its time forward and backward.
    """
    triton = triton_option(device, product_refusal(device, dtype))
    sdpa = Candidate("sdpa", f"PyTorch's own attention for D = {d}")
    products = Candidate("products", f"two products for D = {d}")
    plain = Candidate("reference", "plain PyTorch")
    if device.type == "cpu" and dtype.itemsize == 2 and differentiates and n * m <= MOST_SCORES:
        return [products, sdpa, triton, plain]
    if d <= WIDEST_OF_SDPA or device.type != "cuda":
        return [sdpa, triton, products, plain]
    if n * m <= MOST_SCORES:
        return [products, triton, sdpa, plain]
    return [triton, sdpa, products, plain] if differentiates else [sdpa, triton, products, plain]


@torch.library.custom_op("ddimx::attention", mutates_args=())
def attention_op(
    q: Tensor, k: Tensor, v: Tensor, scale: float, fused_backward: bool
) -> tuple[Tensor, Tensor]:
    """Return the output [B, N, D], contiguous, and the logsumexp [B, N] of the scores.

    The arguments have been checked by :func:`ddimx.kernels.attention.attention`.
    ``fused_backward`` is for the gradient: Triton's kernels instead of PyTorch's products.
    """
    if product_refusal(q.device, q.dtype) is not None:
        out, lse = reference.attention(q, k, v, scale)
        return out.contiguous(), lse
    out, lse = _results(q)
    if out.numel():
        arch = launch.architecture(q.device)
        launch.forward(q, k, v, out, lse, scale, arch)()
    return out, lse


@attention_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, fused_backward: bool) -> tuple[Tensor, Tensor]:
    return _results(q)


def _results(q: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=wide)


@torch.library.custom_op("ddimx::attention_backward", mutates_args=())
def backward_op(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q [B, N, D], k and v [B, M, D], contiguous, in their dtype.

    It has no gradient of its own, so that a second derivative is refused and not wrong.
    """
    if not fused or product_refusal(q.device, q.dtype) is not None:
        d_q, d_k, d_v = reference.gradients(grad, q, k, v, scale)
        return d_q.contiguous(), d_k.contiguous(), d_v.contiguous()
    results = _gradients(q, k, v)
    if not q.numel():  # no query has read the keys
        return results[0], results[1].zero_(), results[2].zero_()
    delta = (grad.float() * out.float()).sum(dim=-1)
    arch = launch.architecture(q.device)
    for step in launch.backward(grad, q, k, v, lse, delta, results, scale, arch):
        step()
    return results


@backward_op.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(q, k, v)


def _gradients(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.scale, ctx.fused = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    return *backward_op(grad, q, k, v, out, lse, ctx.scale, ctx.fused), None, None


attention_op.register_autograd(_differentiate, setup_context=_keep)
