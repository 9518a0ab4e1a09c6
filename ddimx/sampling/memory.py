"""How much memory a batch needs: by a call of the network, or by one on tensors without data."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from ..device import without_memory
from ..errors import UsageError
from ..models.factory import build
from ..weights.model import Model
from .settings import Settings

SHARE = 0.9  # of the memory that is free
# Of an image, up to which one call of the network is waited for less than TorchDynamo's import,
# which PyTorch cannot do without where tensors have no data: 0.02 s (emoji) against 2.
SMALL = 64 * 64


def bytes_per_sample(model: Model, guidance: float, may_call: bool = False) -> int | None:
    """Return the peak bytes of activations and state for one sample, None where it is unknown.

    Args:
        may_call: whether the network itself may be called where its images are small, and is on
            a CPU, which is sooner done than without data.
    """

    def network() -> nn.Module:
        small = math.prod(model.process.shape[1:]) <= SMALL
        if may_call and small and model.device.type == "cpu":
            return model.network
        with without_memory():
            # The code was trusted when the model was loaded.
            module, _ = build(model.config, trust_code=True)
        return module.to(model.precision.dtype).eval()

    return model.process.bytes_per_sample(network, guidance)


def weight_bytes(model: Model) -> int:
    """Return the bytes of the network's parameters."""
    return sum(p.numel() * p.element_size() for p in model.network.parameters())


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes are free on a device, None where that cannot be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kilobytes.get("MemAvailable", 0) * 1024 or None


def together(model: Model, settings: Settings) -> int:
    """Return how many samples the network sees at once."""
    return model.process.micro_batch if settings.invariant else settings.batch_size


def check_fits(model: Model, settings: Settings) -> None:
    """Refuse a batch that will not fit into a CPU's memory, where overcommitting would kill us.

    Raises:
        UsageError: with the batch size that fits.
    """
    free = free_bytes(model.device) if model.device.type == "cpu" else None
    each = None if free is None else bytes_per_sample(model, settings.guidance, True)
    if free is None or each is None:
        return
    most = int(free * SHARE) // each
    batch = together(model, settings)
    if batch > most:
        smaller = f"use --batch-size {max(most, 1)} or less"
        remedy = "omit --invariant" if settings.invariant else smaller
        raise UsageError(
            f"a batch of {batch} needs about {batch * each / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free: {remedy}"
        )
