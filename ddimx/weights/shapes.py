"""Loading tensors into a network, with errors that name what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import DdimxError

_SHOWN = 3


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], label: str) -> None:
    """Copy ``tensors`` into the network's parameters of the same names, casting their dtype.

    Raises:
        DdimxError: names that are missing or too many, shapes that do not fit, or values that
            are not finite.
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
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise DdimxError(f"{label}: values that are not finite in {', '.join(broken[:_SHOWN])}")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def _misshapen(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {list(tensors[name].shape)} instead of {list(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]
