"""How a network is computed in training: its precision and whether it is compiled, with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..config import Config
from ..device import cpu_has_bf16

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """The precision of a network's activations and gradients; weights and losses are float32."""

    device: torch.device
    precision: Precision
    reason: str
    compiled: bool

    def of(self, network: nn.Module) -> nn.Module:
        """Return what computes ``network``, with its weights and in its modes."""
        return network

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

    Args:
        history: the ``info`` of the checkpoint that the run goes on from.
    """
    precision, reason = _precision(config.training.precision, device, history)
    return Compute(device, precision, reason, False)


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
