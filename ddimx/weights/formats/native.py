"""The package's own file: safetensors with the configuration and the history in its header.

Two kinds share the format. A *model* holds the network's tensors under their own names. A
*checkpoint* holds what training needs to go on, under the prefixes ``model.``, ``ema.``, ``ema2.``
and ``optim.``; as a model it is read through one of the first three. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import DdimxError
from ...files import whole_file
from ...untrusted.text import shortened
from ..tensors import check_plain
from ..weight_set import WeightSet, Which, choose
from .header import (
    DTYPES,
    PREFIX,
    SCHEMA,
    UNREADABLE,
    Header,
    is_native,
    opened,
    read_header,
    stored_sets,
)
from .seal import EMPTY, KEY, damage, write_seal

__all__ = [
    "Header",
    "is_native",
    "read_header",
    "read_native",
    "read_shapes",
    "read_tensors",
    "save",
    "stored_sets",
    "write_safetensors",
]


def save(
    path: Path, tensors: Mapping[str, Tensor], header: Header, *, replace: bool = True
) -> None:
    """Write tensors and header, whole or not at all; ``replace`` as in :func:`whole_file`.

    A checkpoint is sealed: its header holds a digest of all of its bytes (:mod:`.seal`).
    """
    metadata = {KEY: EMPTY} if header.kind == "checkpoint" else {}
    metadata |= {
        "format": "pt",
        "ddimx.schema": str(SCHEMA),
        "ddimx.kind": header.kind,
        "ddimx.config": header.config.model_dump_json(exclude_unset=True),
        "ddimx.info": json.dumps(header.info, ensure_ascii=False, sort_keys=True),
    }
    with whole_file(path, replace=replace) as part:
        write_safetensors(part, tensors, metadata)


_KINDS = {getattr(torch, name): kind for kind, name in DTYPES.items()}


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file: the same bytes for the same tensors and metadata.

    The library's own writer shuffles the metadata anew in every process, and leaves a file of a
    name of its own if it is killed. The order of the tensors is the library's: larger types first,
    so that all are aligned, then by name. A place that the metadata keep for a digest is filled.
    https://github.com/huggingface/safetensors#format

    Raises:
        OSError: it cannot be written.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, value in ordered:
        begin, end = end, end + value.numel() * value.element_size()
        kind = _KINDS[value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    text = encoded.encode("utf-8", "backslashreplace")  # a command may name a file that is no UTF-8
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=1 << 20) as stream:  # many tensors are small
        start = struct.pack("<Q", len(text)) + text
        stream.write(start)
        digest = hashlib.sha256(start) if KEY in metadata else None
        for _, value in ordered:
            flat = value.detach().cpu().contiguous().reshape(-1)
            content = flat.view(torch.uint8).numpy().data
            stream.write(content)
            if digest is not None:
                digest.update(content)
        if digest is not None:
            write_seal(stream, start, digest)


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors whose names start with ``prefix``, on the CPU, named without it.

    Raises:
        DdimxError: not a readable safetensors file, or with tensors that are not plain numbers.
    """
    with opened(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        try:
            tensors = {name[len(prefix) :]: file.get_tensor(name) for name in names}
        except UNREADABLE as error:
            raise DdimxError(f"{path}: not readable ({shortened(str(error))})") from None
    check_plain(tensors, str(path))
    return tensors


def read_shapes(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Return tensors as :func:`read_tensors` names them, without their numbers: on "meta".

    Raises:
        DdimxError: not a readable safetensors file.
    """
    with opened(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        try:
            shapes = {name[len(prefix) :]: file.get_slice(name).get_shape() for name in names}
            return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        except UNREADABLE as error:
            raise DdimxError(f"{path}: not readable ({shortened(str(error))})") from None


def read_native(path: Path, which: Which | None = None) -> WeightSet:
    """Read a model file, or a checkpoint's averaged (``ema``, ``ema2``) or last (``raw``) weights.

    Raises:
        DdimxError: as :func:`read_header`, a file without the weights asked for, or a checkpoint
            whose bytes are not those that were written.
        UsageError: a wish for one set of a file that does not say which it holds.
    """
    header = read_header(path)
    reason = damage(path) if header.kind == "checkpoint" else None
    if reason is not None:
        raise DdimxError(f"{path}: damaged: {reason}; name another checkpoint")
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
