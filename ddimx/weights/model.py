"""A model ready to sample from, found by name or path."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import Config
from ..device import Precision, choose_device, choose_precision, forbid_tf32
from ..errors import DdimxError, UsageError, nearest
from ..files import sha256_file
from ..models.factory import build
from ..models.process import Process
from .native import Which, read_model
from .shapes import load_into

SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its process, and where both came from.

    ``weights`` says which of a checkpoint's two sets was taken; ``info`` is how it was trained.
    """

    network: nn.Module
    process: Process
    config: Config
    name: str
    sha256: str
    weights: str
    info: dict[str, Any]
    device: torch.device
    precision: Precision

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.config.model.classes


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package."""
    folder = resources.files("ddimx") / "pretrained"
    if not folder.is_dir():
        return []
    return sorted(p.name.removesuffix(SUFFIX) for p in folder.iterdir() if p.name.endswith(SUFFIX))


def find_model(name: str | Path) -> Path:
    """Return the file behind a shipped name, a file, or a training run's folder.

    Raises:
        UsageError: nothing of that name.
        DdimxError: a folder without a checkpoint.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted([*path.glob(f"checkpoint-*{SUFFIX}"), *path.glob(f"*/checkpoint-*{SUFFIX}")])
        if not found:
            raise DdimxError(f"{path}: no checkpoint in this folder")
        return found[-1]
    if path.is_file():
        return path
    known = shipped_models()
    if str(name) in known:
        return Path(str(resources.files("ddimx") / "pretrained" / f"{name}{SUFFIX}"))
    raise UsageError(
        f"unknown model '{name}'{nearest(str(name), known)} "
        f"Give a file, a training run's folder or one of: {', '.join(known) or '(none shipped)'}."
    )


def load_model(
    name: str | Path = "emoji",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: Which = "ema",
) -> Model:
    """Load a model for sampling.

    Args:
        name: a shipped model, a ``.safetensors`` file, or a training run's folder.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto" (bf16 where it is fast), "fp32", "bf16" or "fp16". With "fp32", TF32 is off.
        weights: of a checkpoint, the averaged ("ema") or the last ("raw") weights.

    Raises:
        UsageError: an unknown model, device or dtype.
        DdimxError: a file that is damaged or does not fit its configuration.
    """
    path = find_model(name)
    header, tensors = read_model(path, weights)
    where = choose_device(device)
    precision = choose_precision(dtype, where)
    if dtype == "fp32":
        forbid_tf32()
    network, process = build(header.config)
    load_into(network, tensors, str(path))
    network.to(where, precision.dtype).eval().requires_grad_(False)
    if process_is_image(process):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    taken = weights if header.kind == "checkpoint" else header.info.get("weights", "ema")
    return Model(
        network=network,
        process=process,
        config=header.config,
        name=path.name.removesuffix(SUFFIX) if path != Path(name) else str(name),
        sha256=sha256_file(path),
        weights=taken,
        info=header.info,
        device=where,
        precision=precision,
    )


def process_is_image(process: Process) -> bool:
    """Return whether samples are [C, H, W], for which NHWC memory is the faster layout."""
    return len(process.shape) == 3
