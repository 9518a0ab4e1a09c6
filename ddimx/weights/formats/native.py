"""The package's own file: safetensors with the configuration and the history in its header.

Two kinds share the format. A *model* holds the network's tensors under their own names. A
*checkpoint* holds what training needs to go on, under the prefixes ``model.``, ``ema.`` and
``optim.``; as a model it is read through one of the first two. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...config import Config
from ...config_file import validate
from ...errors import DdimxError
from ...files import whole_file
from ...untrusted.text import parse_json, shortened, shown
from ..tensors import check_plain
from ..weight_set import SetName, WeightSet, Which, choose

SCHEMA = 1
PREFIX: dict[SetName, str] = {"ema": "ema.", "raw": "model."}
# What safetensors and the making of a tensor raise on a file that is damaged or made to be.
_UNREADABLE = (SafetensorError, OSError, ValueError, RuntimeError, TypeError, OverflowError)


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    ``kind`` is "model" or "checkpoint"; ``info`` is free JSON: for a model how it was trained,
    for a checkpoint the position of the run.
    """

    kind: str
    config: Config
    info: dict[str, Any]


def save(
    path: Path, tensors: Mapping[str, Tensor], header: Header, *, replace: bool = True
) -> None:
    """Write tensors and header, whole or not at all; ``replace`` as in :func:`whole_file`."""
    metadata = {
        "format": "pt",
        "ddimx.schema": str(SCHEMA),
        "ddimx.kind": header.kind,
        "ddimx.config": header.config.model_dump_json(exclude_unset=True),
        "ddimx.info": json.dumps(header.info, ensure_ascii=False, sort_keys=True),
    }
    with whole_file(path, replace=replace) as part:
        write_safetensors(part, tensors, metadata)


_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file: the same bytes for the same tensors and metadata.

    The library's own writer shuffles the metadata anew in every process, and leaves a file of a
    name of its own if it is killed. The order of the tensors is the library's: larger types first,
    so that all are aligned, then by name.
    https://github.com/huggingface/safetensors#format

    Raises:
        OSError: it cannot be written.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, value in ordered:
        begin, end = end, end + value.numel() * value.element_size()
        kind = _DTYPES[value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    text = encoded.encode("utf-8", "backslashreplace")  # a command may name a file that is no UTF-8
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=1 << 20) as stream:  # many tensors are small
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, value in ordered:
            flat = value.detach().cpu().contiguous().reshape(-1)
            stream.write(flat.view(torch.uint8).numpy().data)


def read_header(path: Path) -> Header:
    """Read a file's header without its tensors.

    Raises:
        DdimxError: not a safetensors file, truncated, or not written by this package.
    """
    with _open(path) as file:
        return _parse(path, file.metadata() or {})


def is_native(path: Path) -> bool:
    """Return whether a safetensors file was written by this package.

    Raises:
        DdimxError: not a readable safetensors file.
    """
    with _open(path) as file:
        return "ddimx.schema" in (file.metadata() or {})


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors whose names start with ``prefix``, on the CPU, named without it.

    Raises:
        DdimxError: not a readable safetensors file, or with tensors that are not plain numbers.
    """
    with _open(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        try:
            tensors = {name[len(prefix) :]: file.get_tensor(name) for name in names}
        except _UNREADABLE as error:
            raise DdimxError(f"{path}: not readable ({shortened(str(error))})") from None
    check_plain(tensors, str(path))
    return tensors


def read_shapes(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Return tensors as :func:`read_tensors` names them, without their numbers: on "meta".

    Raises:
        DdimxError: not a readable safetensors file.
    """
    with _open(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        try:
            shapes = {name[len(prefix) :]: file.get_slice(name).get_shape() for name in names}
            return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        except _UNREADABLE as error:
            raise DdimxError(f"{path}: not readable ({shortened(str(error))})") from None


def read_native(path: Path, which: Which | None = None) -> WeightSet:
    """Read a model file, or a checkpoint's averaged (``ema``) or last (``raw``) weights.

    Raises:
        DdimxError: as :func:`read_header`, or a file without the weights asked for.
        UsageError: a wish for one set of a file that does not say which it holds.
    """
    header = read_header(path)
    sets = stored_sets(path, header)
    which_set = choose(path, sets, which)
    return WeightSet(
        form=f"ddimx {header.kind}",
        file=path,
        tensors=read_tensors(path, PREFIX[which_set] if header.kind == "checkpoint" else ""),
        which=which_set,
        sets=sets,
        config=header.config,
        info=header.info,
    )


def stored_sets(path: Path, header: Header) -> tuple[SetName, ...]:
    """Return which weights a file of ours holds."""
    if header.kind != "checkpoint":
        name = header.info.get("weights")
        return (name if name in PREFIX else "unstated",)
    with _open(path) as file:
        names = list(file.keys())
    return tuple(t for t, prefix in PREFIX.items() if any(n.startswith(prefix) for n in names))


def _open(path: Path) -> Any:
    if not path.is_file():
        raise DdimxError(f"no weights file {path}")
    try:
        return safe_open(os.fspath(path), framework="pt", device="cpu")
    except _UNREADABLE as error:
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
    losses, norm = info.get("losses", []), info.get("grad_norm", 0.0)
    if not isinstance(losses, list) or not all(
        isinstance(value, int | float) for value in (*losses, norm)
    ):
        raise ValueError(f"losses and grad_norm are {shown([losses, norm])}")
