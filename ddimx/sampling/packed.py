"""A network whose convolutions keep their weights in the layout that the CPU multiplies.

oneDNN, which computes PyTorch's convolutions on x86, wants weights in blocks of its own. PyTorch
keeps them in its layout and has them rearranged in every call, which at small batches takes a tenth
to a third of the time. Here that is done once for every shape of input. The products are the same.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

KEPT = 2  # shapes of input whose weights are kept: a full batch's, and the last one's


def refusal(network: nn.Module, device: torch.device) -> str | None:
    """Return why a network's weights cannot be packed, None if they can."""
    if device.type != "cpu":
        return f"weights are packed for CPUs, and this run is on {device.type}"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"weights are not packed on {platform.machine()}"
    # Both are what PyTorch's own compiler uses, and neither is promised to stay.
    ready = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not ready or not hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight"):
        return "this PyTorch comes without oneDNN"
    dtype = next(network.parameters()).dtype
    computes: dict[torch.dtype, Callable[[], bool]] = {
        torch.float32: lambda: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    if dtype not in computes or not computes[dtype]():
        return f"oneDNN does not compute in {str(dtype).removeprefix('torch.')} on this CPU"
    if not any(type(module) is nn.Conv2d for module in network.modules()):
        return "the network has no convolutions"
    return None


def packed(network: nn.Module) -> nn.Module:
    """Return a network that shares a network's parameters and packs them when it is called.

    The original, which others may have, stays as it is.
    """
    shared = {id(value): value for value in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    for module in twin.modules():
        plain = type(module) is nn.Conv2d and module.padding_mode == "zeros"
        if plain and not isinstance(module.padding, str):
            module.__class__ = _Packed
    return twin


class _Packed(nn.Conv2d):
    """A convolution with packed weights; what :func:`packed` makes of others."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C', H', W'] in its layout, without gradients."""
        weights: dict[Any, Tensor] = self.__dict__.setdefault("_packed", {})
        weight = weights.get(x.shape)
        how = (self.padding, self.stride, self.dilation, self.groups)
        if weight is None:
            plain = self.weight.contiguous().to_mkldnn()
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            weight = reorder(plain, *how, [*x.shape])
            assert weight is not None
            while len(weights) >= KEPT:
                del weights[next(iter(weights))]
            weights[x.shape] = weight
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, *how, "none", [], ""
        )
        return out
