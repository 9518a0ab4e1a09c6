"""Which implementations group normalization has, in the order of preference."""

from __future__ import annotations

import torch

from .._dispatch import Candidate


def options(device: torch.device) -> list[Candidate]:
    """Return the implementations on a device, in the order of preference."""
    return [Candidate("reference", f"PyTorch's own on {device.type}")]
