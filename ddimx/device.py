"""Choosing where and in which precision to compute, with the reason in words."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .errors import UsageError
from .launch import local_rank

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Precision:
    """The network's dtype and why it was chosen; the sampler's state is float32 always."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """The dtype as the command line spells it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; "auto" takes CUDA, then MPS, then the CPU.

    Of several processes on a machine (:func:`ddimx.launch.local_rank`) each takes a GPU of its own,
    unless ``name`` says which. Where a process sees one GPU only, that is its own.

    Raises:
        UsageError: an unknown device, one that this machine lacks, or more processes than GPUs.
    """
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if _present(n))
    if name == "cuda" and _present("cuda") and (rank := local_rank()):
        count = torch.cuda.device_count()
        if 1 < count <= rank:
            raise UsageError(
                f"this is process {rank + 1} on a machine with {count} GPUs; begin no more "
                f"processes than GPUs, or name one by --device cuda:N"
            )
        return torch.device("cuda", rank if count > 1 else 0)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"unknown device '{name}'. Allowed: auto, cpu, cuda, cuda:N, mps."
        ) from None
    if not _present(device.type) or (device.type == "cuda" and _beyond(device)):
        raise UsageError(f"device '{name}' is not available here")
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision called ``name`` on a device; "auto" takes bf16 where it is fast.

    Raises:
        UsageError: an unknown name, or one the device cannot compute in.
    """
    if name == "auto":
        return _automatic(device)
    if name not in DTYPES:
        raise UsageError(f"unknown dtype '{name}'. Allowed: auto, {', '.join(DTYPES)}.")
    _check_computes(name, device)
    return Precision(DTYPES[name], "asked for")


def describe(device: torch.device) -> str:
    """Return a device's kind and name: "cuda (NVIDIA H200)", "cpu (AMD EPYC, 2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({_cpu_name()}, {torch.get_num_threads()} threads)"
    return device.type


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor on a device, as ``dtype`` there, without waiting for the device.

    CUDA copies from pinned memory beside its work; from other memory it would finish that first.
    """
    tensor = tensor.to(dtype or tensor.dtype)
    if device.type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class _Unset(TorchFunctionMode):
    """Leaves out the initial values that ``torch.nn.init`` would set."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks of shapes alone within: no memory, and no initial values.

    To set initial values where there are none, PyTorch imports TorchDynamo, which takes a second.
    """
    with torch.device("meta"), _Unset():
        yield


def forbid_tf32() -> None:
    """Make float32 mean float32 in matrix products and convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _check_computes(name: str, device: torch.device) -> None:
    """Refuse a dtype that the device has no product in, before a network is loaded for it."""
    try:
        one = torch.ones(1, 1, dtype=DTYPES[name], device=device)
        one @ one
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"this {device.type.upper()} cannot compute in {name} ({reason})"
        ) from None


def _automatic(device: torch.device) -> Precision:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(torch.bfloat16, "this GPU computes bf16 natively")
        return Precision(torch.float16, "this GPU has no native bf16")
    if device.type == "cpu" and cpu_has_bf16():
        return Precision(torch.bfloat16, "this CPU has bf16 instructions (AVX512_BF16 or AMX)")
    return Precision(torch.float32, f"no fast bf16 on this {device.type.upper()}")


def cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies bf16 in hardware; emulated bf16 is far slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(
        capabilities.get("avx512_bf16")
        or capabilities.get("amx_bf16")
        or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )


def _present(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return kind == "cpu"


def _beyond(device: torch.device) -> bool:
    return device.index is not None and device.index >= torch.cuda.device_count()
