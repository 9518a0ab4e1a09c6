"""Muon: momentum whose steps are made orthogonal, for weights that are matrices or filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..device import cpu_has_bf16

# Of the polynomial that brings singular values near 1 in few turns (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
TURNS = 5


class Muon(torch.optim.Optimizer):
    """Keller Jordan's Muon (2024) for matrices and filters, AdamW for all other weights.

    PyTorch's own, which came with 2.9, takes matrices alone.

    A step of a matrix is its momentum with all singular values near 1, times 0.2 sqrt(max(rows,
    columns)), which gives it the size of AdamW's steps, so that both take one learning rate and
    one weight decay (arXiv 2502.16982, equation 4). A filter [out, in, h, w] is the matrix
    [out, in h w].

    Where the attribute ``found_inf`` is a tensor that is not 0, a step leaves weights and moments
    as they are, as PyTorch's fused optimizers do.
    """

    exact = False  # whether steps are computed in float32 where the device is fast in bfloat16

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        """Take parameters over; ``momentum`` is the matrices', ``betas`` and ``eps`` AdamW's."""
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "fused": True,  # that is: counts of steps lie where their parameters do
        }
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step with the gradients that the parameters have."""
        loss = None if closure is None else closure()
        found: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), device=p.device)
                    state["exp_avg"] = torch.zeros_like(p)
                    if not group["muon"]:
                        state["exp_avg_sq"] = torch.zeros_like(p)
                old = (
                    None if found is None else (p.clone(), {k: v.clone() for k, v in state.items()})
                )
                state["step"] += 1
                p.mul_(1 - group["lr"] * group["weight_decay"])
                if group["muon"]:
                    _muon(p, p.grad, state, group, exact=self.exact)
                else:
                    _adam(p, p.grad, state, group)
                if old is not None and found is not None:
                    p.copy_(torch.where(found > 0, old[0], p))
                    for key, value in state.items():
                        value.copy_(torch.where(found > 0, old[1][key], value))
        return loss


def _muon(
    p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any], *, exact: bool
) -> None:
    average, momentum = state["exp_avg"], group["momentum"]
    average.lerp_(grad, 1 - momentum)
    ahead = grad.lerp(average, momentum)  # Nesterov's
    # Columns in the order of memory: that of channels_last filters, which need no copy then.
    order = (0, 2, 3, 1) if ahead.dim() == 4 else tuple(range(ahead.dim()))
    stored = ahead.permute(order)
    step = orthogonal(stored.flatten(1), exact=exact).view(stored.shape)
    back = tuple(order.index(i) for i in range(ahead.dim()))
    size = 0.2 * max(step.shape[0], step[0].numel()) ** 0.5
    p.add_(step.permute(back), alpha=-group["lr"] * size)


def _adam(p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    (beta1, beta2), count = group["betas"], state["step"]  # a tensor: reading it would wait
    state["exp_avg"].lerp_(grad, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    deviation = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
    p.sub_(state["exp_avg"] / deviation * (group["lr"] / (1 - beta1**count)))


def orthogonal(matrix: Tensor, *, exact: bool = False) -> Tensor:
    """Return U V^T of a matrix U S V^T, nearly: its singular values lie between 0.7 and 1.2.

    Args:
        matrix: [rows, columns], float32; computed in bfloat16 where the device is fast in it.
        exact: compute in float32 everywhere. In bfloat16, gradients that were summed in another
            order, as of another number of processes, gave losses that differed by 6e-5 after 20
            steps.
    """
    fast = matrix.device.type == "cuda" or (matrix.device.type == "cpu" and cpu_has_bf16())
    fast = fast and not exact
    x = matrix.to(torch.bfloat16 if fast else matrix.dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.mT.contiguous() if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(TURNS):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return (x.mT if tall else x).to(matrix.dtype).contiguous()


def split(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that Muon trains, and the others: the first and last layers, the UNet's
    embedding of classes, the octree network's of tokens, and all vectors.

    Their rows are of things unlike each other (a token, a color), of which an example has few, so
    that steps of equal size in all directions would be mostly noise.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        first = name.split(".")[0]
        edge = first in ("conv_in", "conv_out", "head", "embed") or "embedding" in name
        (matrices if parameter.dim() >= 2 and not edge else others).append(parameter)
    return matrices, others
