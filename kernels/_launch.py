"""Starting a Triton kernel, for every operation: on its tensors' device, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor


def run(
    function: Any,
    programs: int,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    **options: int,
) -> None:
    """Run a kernel on the device of its tensors, which Triton takes from PyTorch's current one.

    Args:
        function: the jitted kernel.
        programs: size of the grid; nothing is launched for 0.
        arguments: run-time arguments by name, at least one of them a tensor.
        constants: compile-time arguments by name.
        options: Triton's own, as num_warps.
    """
    if not programs:
        return
    tensor = next(value for value in arguments.values() if isinstance(value, Tensor))
    with torch.cuda.device(tensor.device if tensor.is_cuda else -1):
        function[(programs,)](**arguments, **constants, **options)


@dataclass(frozen=True)
class StagedLaunch:
    """One launch of a kernel that is pipelined in stages; it is imported when it is called.

    Attributes:
        kernel: the function's name in ``module``.
        programs: size of the grid.
        arguments: specialized by Triton; ``constants`` are compiled in.
    """

    module: ClassVar[str]

    kernel: str
    programs: int
    arguments: dict[str, Any]
    constants: dict[str, int]
    warps: int
    stages: int

    def __call__(self) -> None:
        """Run it on its tensors' device."""
        function = getattr(import_module(self.module), self.kernel)
        options = {"num_warps": self.warps, "num_stages": self.stages}
        run(function, self.programs, self.arguments, self.constants, **options)


@cache
def architecture(device: torch.device) -> str:
    """Return a device's name in the tables of tiles, as sm_90 or gfx942; "other" off the GPU."""
    if device.type != "cuda":
        return "other"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))
