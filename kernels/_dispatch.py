"""Which implementation of an operation runs, and why: decided by device, logged once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch

Impl = Literal["auto", "triton", "reference"]

log = logging.getLogger("ddimx.kernels")


def choose(op: str, impl: Impl, available: Sequence[Impl], device: torch.device) -> Impl:
    """Return the implementation to run; an explicit wish is met or refused, never replaced.

    Raises:
        ValueError: an unknown name.
        RuntimeError: an implementation that this operation, device or machine does not offer.
    """
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl '{impl}' is none of auto, triton, reference")
    chosen, reason = reason_for(op, tuple(available), device.type)
    if impl in ("auto", chosen):
        return chosen
    if impl == "reference":
        return "reference"
    raise RuntimeError(f"{op}: impl '{impl}' cannot run here ({reason}); what can: reference")


@cache
def reason_for(op: str, available: tuple[Impl, ...], device_type: str) -> tuple[Impl, str]:
    """Return what "auto" means for an operation on a kind of device, with the reason in words."""
    if "triton" not in available:
        chosen: tuple[Impl, str] = ("reference", "no Triton kernel for this operation yet")
    elif device_type != "cuda":
        chosen = ("reference", f"Triton kernels do not run on {device_type}")
    else:
        chosen = ("triton", "a CUDA device")
    log.info("%s on %s: %s, %s", op, device_type, *chosen)
    return chosen
