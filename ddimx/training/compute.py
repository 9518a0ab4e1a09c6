"""How a network is computed in training: its precision and whether it is compiled, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import OCTREE_MODELS, Config
from ..device import cpu_has_bf16
from ..errors import UsageError
from ..models.layers import AttnBlock, ResnetBlock
from ..sampling import compiled

Precision = Literal["fp32", "bf16"]
# Steps from which on "auto" compiles, by kind of device, where that has been measured to pay. On a
# CPU it does not: convolutions and their gradients, which stay as they are, take two thirds of a
# step, and some minutes of compiling buy a few percent (docs/findings.md).
WORTH_COMPILING: dict[str, int] = {}


@dataclass(frozen=True)
class Compute:
    """How a network is computed in training; weights, losses and moments are float32 always.

    Attributes:
        device: where.
        precision: that of activations and of what is derived from them.
        reason: why this one.
        compiled: whether torch.compile makes the code.
        compiled_reason: why, or why not.
    """

    device: torch.device
    precision: Precision
    reason: str
    compiled: bool = False
    compiled_reason: str = ""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network runs."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def choose_compute(
    config: Config,
    device: torch.device,
    network: nn.Module,
    history: Mapping[str, Any] | None = None,
) -> Compute:
    """Return how to train ``network``, so that a run that goes on does so as it began.

    It depends on configuration and machine, not on any measured time: the same command gives the
    same bits.

    Args:
        history: the ``info`` of the checkpoint that the run goes on from.

    Raises:
        UsageError: ``training.compile`` is on, and nothing can be compiled here.
    """
    precision, reason = _precision(config.training.precision, device, history)
    wish = config.training.compile
    if wish == "off":
        return Compute(device, precision, reason, False, "asked for")
    refusal = compiled.refusal(device)
    if refusal is None and config.model.name in OCTREE_MODELS:
        refusal = "octrees have other shapes in every step"
    if wish == "on":
        if refusal is not None:
            raise UsageError(f"training.compile on: {refusal}; training.compile=off does without")
        return Compute(device, precision, reason, True, "asked for")
    if refusal is None and history is not None and not history.get("compiled", False):
        refusal = "as the run began"
    if refusal is None and not type(network).__module__.startswith("ddimx."):
        refusal = "a network from outside the package"
    if refusal is None and device.type not in WORTH_COMPILING:
        refusal = f"it has not been measured to pay on {device.type.upper()}"
    elif refusal is None and config.training.n_iters < WORTH_COMPILING[device.type]:
        refusal = "the run is too short for compiling to pay"
    why = "saves more than it costs in a long run" if refusal is None else refusal
    return Compute(device, precision, reason, refusal is None, why)


def keep_inputs_alone(network: nn.Module) -> None:
    """Have the UNet's blocks keep their inputs for the gradient, and nothing that they compute.

    That is computed again when the gradient comes to it (arXiv 1604.06174), from the same draws:
    dropout is a function of the step and the example, and of no generator's state.
    """
    for block in network.modules():
        if isinstance(block, ResnetBlock | AttnBlock):
            block.forward = _recomputed(block.forward)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        result: Tensor = checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
        return result

    return call


def _precision(
    wish: str, device: torch.device, history: Mapping[str, Any] | None
) -> tuple[Precision, str]:
    """Return the precision and why; a run that began in fp32 goes on in it."""
    if wish == "fp32" or wish == "bf16":
        return ("fp32" if wish == "fp32" else "bf16"), "asked for"
    if history is not None:
        # Version 0.1 says no precision: it was bf16 on CUDA alone.
        old = "bf16" if str(history.get("device")).startswith("cuda") else "fp32"
        if history.get("precision", old) == "fp32":
            return "fp32", "as the run began"
    if device.type == "cuda":
        return "bf16", "CUDA devices are faster in it"
    if device.type == "cpu" and cpu_has_bf16():
        return "bf16", "this CPU multiplies it in hardware"
    return "fp32", f"this {device.type.upper()} has no fast bf16"
