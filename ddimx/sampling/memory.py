"""How much memory a batch needs, found by running the network on tensors without data."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import UsageError
from ..models.factory import build
from ..models.octree.process import DiscreteProcess
from ..weights.model import Model
from .batch import MICRO_BATCH
from .settings import Settings

# State, prediction, x0, noise and their temporaries in float32, and Philox's int64 words.
STATE_COPIES = 16
SHARE = 0.9  # of the memory that is free


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of living tensors that operators allocate, and their largest sum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it allocates; views share memory and count nothing."""
        result = func(*args, **(kwargs or {}))
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return result
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


def bytes_per_sample(model: Model, guidance: float) -> int:
    """Return the peak bytes of activations and state for one sample.

    Memory that views keep alive after their base's Python object is gone is not seen; networks
    here hold their skip connections by name, so that the peak is right to a few percent.
    """
    with torch.device("meta"):
        network, process = build(model.config, trust_code=True)  # it was, or there were no model
        network.to(model.precision.dtype).eval()
        x = torch.empty(1, *process.shape, dtype=model.precision.dtype)
        arguments = [x, torch.zeros(1)]
        if process.num_classes:
            arguments.append(torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), PeakMemory() as memory:
            network(*arguments)
    passes = 2 if guidance != 1.0 else 1
    peak: int = memory.peak
    return peak * passes + x.numel() * 4 * STATE_COPIES


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


def together(settings: Settings) -> int:
    """Return how many samples the network sees at once."""
    return MICRO_BATCH if settings.invariant else settings.batch_size


def check_fits(model: Model, settings: Settings) -> None:
    """Refuse a batch that will not fit into a CPU's memory, where overcommitting would kill us.

    Raises:
        UsageError: with the batch size that fits.
    """
    free = free_bytes(model.device) if model.device.type == "cpu" else None
    if free is None or isinstance(model.process, DiscreteProcess):
        return  # how many tokens a shape has is not known before it is drawn
    each = bytes_per_sample(model, settings.guidance)
    most = int(free * SHARE) // each
    batch = together(settings)
    if batch > most:
        smaller = f"use --batch-size {max(most, 1)} or less"
        remedy = "leave --invariant out" if settings.invariant else smaller
        raise UsageError(
            f"a batch of {batch} needs about {batch * each / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free: {remedy}"
        )
