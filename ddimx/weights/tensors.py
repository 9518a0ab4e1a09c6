"""Loading tensors into a network, with errors that name what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import DdimxError
from ..untrusted.text import shortened, shown

_SHOWN = 3
# What can be cast to a parameter and tested for being finite.
_KINDS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def check_plain(tensors: Mapping[str, Tensor], label: str) -> None:
    """Refuse tensors that are more than numbers in memory.

    A view may show one number of its file as a billion, a sparse tensor or one of the "meta"
    device holds none at all.

    Raises:
        DdimxError: such a tensor, or one of complex, quantized or eight-bit floating numbers.
    """
    for name, value in tensors.items():
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise DdimxError(f"{label}: {shortened(name)} is {value.layout} on {value.device}")
        if value.dtype not in _KINDS:
            raise DdimxError(f"{label}: {shortened(name)} holds numbers of {value.dtype}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            shape = shown(list(value.shape))
            raise DdimxError(f"{label}: {shortened(name)} is {shape}, more than the file holds")


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], label: str) -> None:
    """Copy ``tensors`` into the network's parameters of the same names, casting their dtype.

    Raises:
        DdimxError: names that are missing or too many, shapes that do not fit, or values that
            are not finite.
    """
    check_shapes(network, tensors, label)
    bad_names = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad_names:
        raise DdimxError(f"{label}: values that are not finite in {', '.join(bad_names[:_SHOWN])}")
    own = network.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def check_shapes(network: nn.Module, tensors: Mapping[str, Tensor], label: str) -> None:
    """Refuse tensors that are not those of this network, which may be on the "meta" device.

    Raises:
        DdimxError: names that are missing or too many, or shapes that do not fit.
    """
    own = network.state_dict()
    problems = [
        *_listed("missing", sorted(own.keys() - tensors.keys())),
        *_listed("not part of this model", sorted(tensors.keys() - own.keys())),
        *_listed("of another shape", _misshapen(own, tensors)),
    ]
    if problems:
        raise DdimxError(
            f"{label}: the weights do not fit the configuration: {'; '.join(problems)}"
        )


def _misshapen(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {shown(list(tensors[name].shape))} instead of {list(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(map(shortened, names[:_SHOWN]))}{more}"]
