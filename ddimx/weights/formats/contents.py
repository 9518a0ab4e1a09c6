"""Weights inside mappings and under prefixes: which there are, and which of them are averages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...untrusted.text import shortened
from ..weight_set import SetName
from .families import NETWORKS, Network

_DEPTH = 5  # of mappings in mappings; Lightning's and lucidrains' have two or three
_OF_TRAINING = re.compile(
    r"opt|optim.*|.*optimizer.*|.*sched.*|scaler|loops|hyper_parameters|config|args"
)
_AVERAGE = re.compile(
    r"(?i:(.*[._])?(ema(_?net|_?model)?|averaged?|avg|swa|shadow|polyak)([._].*)?)"
    r"|.*[a-z]EMA([._].*)?"  # modelEMA
)
_LAST = re.compile(r"(.*\.)?online_model\..*")  # ema-pytorch's copy of what is trained
# Lightning's WeightAveraging: the average takes the usual place of what is trained, moved to here.
_MOVED, _USUAL = "current_model_state.", "state_dict."


@dataclass(frozen=True)
class Part:
    """One network's weights in a file: all names that start with ``prefix``."""

    network: Network
    prefix: str
    set_name: SetName


@dataclass(frozen=True)
class Contents:
    """At most one average and one other set of a file, and the prefixes of further sets."""

    parts: tuple[Part, ...]
    further: tuple[str, ...]


def flattened(content: Mapping[Any, Any], depth: int = _DEPTH) -> dict[str, Tensor]:
    """Return the tensors of mappings in mappings, by their keys joined with dots.

    What belongs to the optimizer and to the rest of a training run is left out.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(value, Mapping) and depth > 1 and not _OF_TRAINING.fullmatch(key):
            inner = flattened(value, depth - 1)
            tensors |= {f"{key}.{name}": tensor for name, tensor in inner.items()}
    return tensors


def contents_of(tensors: Mapping[str, Tensor]) -> Contents:
    """Return the weights of networks that are known.

    An average is what bears such a name, lies beside ``n_averaged`` (PyTorch's AveragedModel) or
    where Lightning's WeightAveraging puts it. If there is none, nothing says what the weights are.
    """
    places = []
    for network in NETWORKS:
        first, second = network.anchors
        for name in tensors:
            prefix = name.removesuffix(first)
            is_place = prefix != name and (not prefix or prefix.endswith("."))
            if is_place and prefix + second in tensors:
                places.append((network, prefix))
    places.sort(key=lambda place: len(place[1]))  # ema-pytorch keeps what is trained twice
    has_moved = any(name.startswith(_MOVED) for name in tensors)
    averages: list[tuple[Network, str]] = []
    others: list[tuple[Network, str]] = []
    for place in places:
        (averages if _is_average(place[1], tensors, has_moved) else others).append(place)
    parts = [Part(*place, "ema") for place in averages[:1]]
    parts += [Part(*place, "raw" if averages else "unstated") for place in others[:1]]
    further = (prefix for _, prefix in (*averages[1:], *others[1:]))
    return Contents(tuple(parts), tuple(p for p in further if not _LAST.fullmatch(p)))


def remarks(contents: Contents, chosen: Part) -> tuple[str, ...]:
    """Return what a person should know of the choice of a file's weights."""
    parts = contents.parts
    if not chosen.prefix and len(parts) < 2:
        return ()
    kind = {"ema": "the averaged", "raw": "the last (raw)", "unstated": "the"}[chosen.set_name]
    place = f" under '{shortened(chosen.prefix)}'" if chosen.prefix else ""
    other = {"ema": "raw", "raw": "ema"}.get(chosen.set_name)
    text = f"{kind} weights{place} are taken"
    if len(parts) > 1:
        text += f"; --weights {other} takes the others"
    elif chosen.set_name == "unstated":
        text += "; the file does not say whether they are an average"
    if not contents.further:
        return (text,)
    prefixes = ", ".join(f"'{shortened(prefix)}'" for prefix in contents.further[:4])
    return (text, f"there are further weights under {prefixes}, which are not read")


def _is_average(prefix: str, tensors: Mapping[str, Tensor], has_moved: bool) -> bool:
    """Return whether an average lies there; ``has_moved``: Lightning's is in the usual place."""
    if _LAST.fullmatch(prefix):
        return False
    if has_moved and prefix.startswith(_USUAL):
        return True
    place = prefix.removesuffix("module.")
    return bool(_AVERAGE.fullmatch(prefix)) or f"{place}n_averaged" in tensors
