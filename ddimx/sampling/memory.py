"""How much memory a batch needs, found by running the network on tensors without data."""

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
QUICK = 5e10  # weights times positions of a network that is run to see what it needs


def bytes_per_sample(model: Model, guidance: float) -> int | None:
    """Return the peak bytes of activations and state for one sample, None where it is unknown."""

    def network() -> nn.Module:
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


def shortage(device: torch.device, need: int) -> str | None:
    """Return why so many bytes more are too many for a CPU, None if they are not or on a GPU."""
    free = free_bytes(device) if device.type == "cpu" else None
    if free is None or need <= free * SHARE:
        return None
    return f"needs {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def together(model: Model, settings: Settings) -> int:
    """Return how many samples the network sees at once."""
    return model.process.micro_batch if settings.invariant else settings.batch_size


def check_fits(model: Model, settings: Settings) -> None:
    """Refuse a batch that will not fit into a CPU's memory, where overcommitting would kill us.

    Raises:
        UsageError: with the batch size that fits.
    """
    free = free_bytes(model.device) if model.device.type == "cpu" else None
    batch = together(model, settings)
    weights = sum(p.numel() for p in model.network.parameters())
    if free is not None and 0 < weights * math.prod(model.process.shape[1:]) <= QUICK:
        # For tensors without data PyTorch imports a second's worth of Python; a small network is
        # sooner run. What an operator needs within itself may differ, so twice as much must fit.
        real = model.process.bytes_per_sample(lambda: model.network, settings.guidance)
        if real is not None and 2 * real * batch <= free * SHARE:
            return
    each = None if free is None else bytes_per_sample(model, settings.guidance)
    if free is None or each is None:
        return
    most = int(free * SHARE) // each
    if batch > most:
        smaller = f"use --batch-size {max(most, 1)} or less"
        remedy = "omit --invariant" if settings.invariant else smaller
        raise UsageError(
            f"a batch of {batch} needs about {batch * each / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free: {remedy}"
        )
