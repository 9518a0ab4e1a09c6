"""From a checkpoint of tens of megabytes to a model file that is shared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..config_file import override
from ..device import DTYPES
from ..errors import DdimxError, UsageError
from .model import find_model
from .native import Header, Which, read_model, save


def publish(
    source: Path,
    target: Path,
    *,
    dtype: str = "fp32",
    weights: Which = "ema",
    notes: Sequence[str] = (),
    settings: Sequence[str] = (),
    overwrite: bool = False,
) -> int:
    """Write one set of a checkpoint's weights as a model and return the file's size in bytes.

    The header keeps the configuration and the history (command, data, device, images seen,
    hours); ``notes`` are "key=text" pairs added to it, ``settings`` are overrides of the
    configuration's sampling section, the defaults that the model brings along.

    Raises:
        UsageError: the target exists or has another suffix, a malformed note, or weights that do
            not fit into the dtype's range.
        DdimxError: a source that cannot be read, a target that cannot be written.
    """
    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: a model file ends in .safetensors")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; --overwrite replaces it")
    header, tensors = read_model(find_model(source), weights)
    other = [item for item in settings if not item.startswith("sampling.")]
    if other:
        raise UsageError(f"--set {other[0]}: only sampling.* can change without training again")
    config = override(header.config, settings)
    stored = {name: value.to(DTYPES[dtype]) for name, value in tensors.items()}
    if not all(torch.isfinite(value).all() for value in stored.values()):
        raise UsageError(f"{source}: some weights exceed the range of {dtype}; use bf16 or fp32")
    taken = weights if header.kind == "checkpoint" else header.info.get("weights", weights)
    info = {**_history(header), **_parsed(notes), "weights": taken, "dtype": dtype}
    try:
        save(target, stored, Header("model", config, info))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DdimxError(f"cannot write {target}: {reason}") from None
    return target.stat().st_size


def _history(header: Header) -> dict[str, Any]:
    info = dict(header.info)
    if header.kind == "checkpoint":
        info["images_seen"] = info["step"] * header.config.training.batch_size
        info["hours"] = round(info.get("seconds", 0.0) / 3600, 2)
    return info


def _parsed(notes: Sequence[str]) -> dict[str, str]:
    pairs = [note.partition("=") for note in notes]
    bad = [key for key, sign, _ in pairs if not (key and sign)]
    if bad:
        raise UsageError(f"--note {bad[0]}: write KEY=TEXT")
    return {key: text for key, _, text in pairs}
