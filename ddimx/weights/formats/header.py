"""What a file of ours says of itself, read without its numbers and without PyTorch.

The file is safetensors; configuration and history stand in its header.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from ...config import Config
from ...config_file import validate
from ...errors import DdimxError
from ...untrusted.text import parse_json, shortened, shown
from ..weight_set import SetName

SCHEMA = 1
PREFIX: dict[SetName, str] = {"ema": "ema.", "ema2": "ema2.", "raw": "model."}
# PyTorch's name of the numbers that safetensors calls so, of those that are read.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# What safetensors and the making of a tensor raise on a file that is damaged or made to be.
UNREADABLE = (SafetensorError, OSError, ValueError, RuntimeError, TypeError, OverflowError)


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    ``kind`` is "model" or "checkpoint"; ``info`` is free JSON: for a model how it was trained,
    for a checkpoint the position of the run.
    """

    kind: str
    config: Config
    info: dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """How many tensors and numbers a file holds of one set of weights, and of which dtypes.

    The dtypes bear PyTorch's names, in alphabetical order.
    """

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read a file's header without its tensors.

    Raises:
        DdimxError: not a safetensors file, truncated, or not written by this package.
    """
    with opened(path) as file:
        return _parse(path, file.metadata() or {})


def is_native(path: Path) -> bool:
    """Return whether a safetensors file was written by this package.

    Raises:
        DdimxError: not a readable safetensors file.
    """
    with opened(path) as file:
        return "ddimx.schema" in (file.metadata() or {})


def read_contents(path: Path, prefix: str = "") -> Contents:
    """Count the tensors whose names start with ``prefix``.

    Raises:
        DdimxError: not a readable safetensors file, or numbers of a kind that no model has.
    """
    with opened(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        slices = {name: file.get_slice(name) for name in names}
        kinds = {name: str(one.get_dtype()) for name, one in slices.items()}
        parameters = sum(math.prod(one.get_shape()) for one in slices.values())
    for name, kind in kinds.items():
        if kind not in DTYPES:
            raise DdimxError(f"{path}: {shortened(name)} holds numbers of {shortened(kind)}")
    return Contents(len(names), parameters, tuple(sorted({DTYPES[k] for k in kinds.values()})))


def stored_sets(path: Path, header: Header) -> tuple[SetName, ...]:
    """Return which weights a file of ours holds."""
    if header.kind != "checkpoint":
        name = header.info.get("weights")
        return (name if name in PREFIX else "unstated",)
    with opened(path) as file:
        names = list(file.keys())
    return tuple(t for t, prefix in PREFIX.items() if any(n.startswith(prefix) for n in names))


def opened(path: Path, framework: Literal["np", "pt"] = "np") -> Any:
    """Return safetensors' own view of a file; with "np" it is read without PyTorch.

    Raises:
        DdimxError: not a readable safetensors file.
    """
    if not path.is_file():
        raise DdimxError(f"no weights file {path}")
    try:
        return safe_open(os.fspath(path), framework=framework, device="cpu")
    except UNREADABLE as error:
        raise DdimxError(
            f"{path}: not a readable safetensors file, perhaps truncated ({shortened(str(error))})"
        ) from None


def _parse(path: Path, metadata: Mapping[str, str]) -> Header:
    schema = metadata.get("ddimx.schema")
    if schema is None:
        raise DdimxError(f"{path}: a safetensors file, but without this package's header")
    if not re.fullmatch(r"[0-9]{1,9}", schema) or int(schema) > SCHEMA:
        raise DdimxError(
            f"{path}: written in schema {shortened(schema)}, this version reads up to {SCHEMA}; "
            "update ddimx"
        )
    try:
        config = parse_json(metadata["ddimx.config"])
        # A checkpoint remembers losses and the gradient's norm, which may have overflowed.
        info = parse_json(metadata.get("ddimx.info", "{}"), finite=False)
        _check_info(info)
    except (KeyError, ValueError) as error:
        raise DdimxError(f"{path}: its header is damaged ({shortened(str(error))})") from None
    return Header(metadata.get("ddimx.kind", "model"), validate(config, str(path)), info)


def _check_info(info: Any) -> None:
    """Raise ValueError unless what is computed with is of its kind, where it is there."""
    if not isinstance(info, dict):
        raise ValueError("its history is not a mapping")
    for key, kind in {"step": int, "seed": int, "seconds": int | float}.items():
        value = info.get(key, 0)
        if not isinstance(value, kind) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{key} is {shown(value)}")
    if not isinstance(info.get("resumed", []), list):
        raise ValueError(f"resumed is {shown(info['resumed'])}")
    for key, kind in {"time_sums": int | float, "time_counts": int}.items():
        values = info.get(key, [])
        if not isinstance(values, list) or not all(isinstance(one, kind) for one in values):
            raise ValueError(f"{key} are {shown(values)}")
    rate = info.get("learning_rate", 0.0)
    if not isinstance(rate, int | float):
        raise ValueError(f"learning_rate is {shown(rate)}")
    losses, norm = info.get("losses", []), info.get("grad_norm", 0.0)
    if not isinstance(losses, list) or not all(
        isinstance(value, int | float) for value in (*losses, norm)
    ):
        raise ValueError(f"losses and grad_norm are {shown([losses, norm])}")
