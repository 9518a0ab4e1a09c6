"""How much memory a computation takes at most, counted while it runs on tensors without data."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of living tensors that operators allocate, and their largest sum."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return no: only to keep its compiler away, PyTorch would import it, which takes 1 s."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it allocates; views share memory and count nothing."""
        result = func(*args, **(kwargs or {}))
        if any(output.alias_info is not None for output in func._schema.returns):
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
