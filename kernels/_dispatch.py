"""Which implementation of an operation runs, and why: decided by device, logged once."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

Impl = Literal["auto", "triton", "sdpa", "products", "loop", "numpy", "reference"]

log = logging.getLogger("ddimx.kernels")
_logged: set[tuple[str, ...]] = set()  # choices that this process has logged: each only once

PLAIN = (Tensor, torch.nn.Parameter)

# Facts about this process, looked up once: a choice is also made while torch.compile traces.
TRITON_INSTALLED = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Candidate:
    """One implementation of an operation; a list of them is in the order of preference.

    Attributes:
        impl: its name.
        why: why "auto" takes it, in words.
        refusal: why it cannot run on these arguments, None if it can.
        automatic: whether "auto" may take it.
    """

    impl: Impl
    why: str
    refusal: str | None = None
    automatic: bool = True


def triton_option(device: torch.device, refusal: str | None = None) -> Candidate:
    """Return Triton's place among the options for a device.

    Kernels run on CUDA (and ROCm, which PyTorch calls cuda too), and anywhere in the interpreter,
    which "auto" never takes: it is for tests and thousands of times slower.

    Args:
        refusal: what the operation itself cannot do in Triton, None if nothing.
    """
    refusal = refusal or triton_refusal(device)
    return Candidate("triton", f"a {device.type} device", refusal, device.type == "cuda")


def triton_refusal(device: torch.device) -> str | None:
    """Return why Triton kernels cannot run on a device, or None."""
    if not TRITON_INSTALLED:
        return "Triton is not installed"
    if device.type != "cuda" and not INTERPRETED:
        return f"Triton kernels do not run on {device.type}"
    return None


def product_refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why Triton kernels made of matrix products cannot run on such tensors, or None."""
    if (refusal := triton_refusal(device)) is not None:
        return refusal
    if dtype == torch.float64:
        return "the kernels' products are float32 at most, not torch.float64"
    if device.type != "cuda" and dtype == torch.bfloat16:
        return "Triton's interpreter computes torch.bfloat16 wrongly"
    return None


def autocast(*tensors: Tensor) -> list[Tensor]:
    """Return floating tensors of one dtype in autocast's dtype where it is on for their device.

    They keep their shapes, which may be any.
    PyTorch does this for its own operators. As there, float64 stays as it is.
    """
    kind = tensors[0].device.type
    wide = tensors[0].dtype == torch.float64
    if wide or kind == "meta" or not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [tensor.to(dtype) for tensor in tensors]


def recorded(*tensors: Tensor) -> bool:
    """Return whether somebody records what is done with these tensors.

    That is autograd, ``torch.compile`` and the like, or a subclass of tensors (fake ones). Only
    then an operation has to be an operator of ``torch.library``, whose call takes 15 us on the
    host and whose first one imports TorchDynamo, which takes a second.
    """
    if torch.compiler.is_compiling():
        return True
    wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return wants_gradient or any(type(tensor) not in PLAIN for tensor in tensors)


def check_row(table: Tensor, row: Tensor) -> None:
    """Raise ValueError for a row (0-d int64) outside a table [rows, ...], if it is on the CPU.

    Reading it from an accelerator would wait for it; there the kernels return NaN or [MASK].
    """
    if row.device.type == "cpu" and not 0 <= int(row) < len(table):
        raise ValueError(f"row {int(row)} lies outside the table's {len(table)} rows")


def choose(op: str, impl: Impl, options: Sequence[Candidate]) -> Impl:
    """Return the implementation to run; an explicit wish is met or refused, never replaced.

    Raises:
        ValueError: an unknown name.
        RuntimeError: an implementation that this operation, device or machine does not offer.
    """
    if impl not in get_args(Impl):
        raise ValueError(f"impl '{impl}' is not one of {', '.join(get_args(Impl))}")
    if impl == "auto":
        best, reason = preferred(options)
        choice = (op, best, reason)
        if not torch.compiler.is_compiling() and choice not in _logged:
            _logged.add(choice)
            log.info("%s: %s (%s)", *choice)
        return best
    refusals = {option.impl: option.refusal for option in options}
    if impl not in refusals or refusals[impl] is not None:
        reason = refusals.get(impl) or "this operation has no such implementation"
        able = ", ".join(name for name, refusal in refusals.items() if refusal is None)
        raise RuntimeError(f"{op}: impl '{impl}' cannot run here ({reason}); what can: {able}")
    return impl


def preferred(options: Sequence[Candidate]) -> tuple[Impl, str]:
    """Return what "auto" means, and why: the choice's reason and what spoke against the others."""
    against: list[str] = []
    for option in options:
        if option.automatic and option.refusal is None:
            return option.impl, "; ".join([*against, option.why] if option.why else against)
        against.append(option.refusal or f"{option.impl} is in the interpreter here")
    raise ValueError("no implementation is left")
