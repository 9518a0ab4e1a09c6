"""What this installation is and can do, as plain values."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from . import __version__
from .device import choose_device, choose_precision
from .errors import UsageError
from .kernels import (
    attention,
    discrete_update,
    group_norm_silu,
    octree_decode,
    segment_attention,
    update,
)
from .launch import this_process
from .weights.describe import about_models
from .weights.locate.cache import cache_folder

PACKAGES = ("torch", "triton", "numpy", "safetensors", "pydantic", "pillow", "tensorboard")
# What "auto" runs of every operation on a device, and why; a new kernel folder adds itself here.
OPERATIONS = {
    "update": update.preference,
    "attention": attention.preference,
    "group_norm_silu": group_norm_silu.preference,
    "discrete_update": discrete_update.preference,
    "segment_attention": segment_attention.preference,
    "octree_decode": octree_decode.preference,
}


def about() -> dict[str, Any]:
    """Return versions, devices, the launch, kernels, cache folder and models."""
    device = choose_device()
    precision = choose_precision("auto", device)
    return {
        "versions": {"ddimx": __version__, "python": platform.python_version(), **_packages()},
        "devices": {
            "default": str(device),
            "cuda": _cuda(),
            "mps": "available" if torch.backends.mps.is_available() else "not available",
            "cpu threads": torch.get_num_threads(),
            "dtype auto": f"{precision.name}: {precision.reason}",
        },
        "launch": _launch(),
        "kernels": {
            name: "{} ({})".format(*preference(device)) for name, preference in OPERATIONS.items()
        },
        "cache": str(cache_folder()),
        "models": about_models(),
    }


def _launch() -> dict[str, Any]:
    """Return which of several processes this is, or what is wrong with what says it."""
    try:
        launch = this_process()
    except UsageError as error:
        return {"process": f"unknown: {error}"}
    if launch.source == "alone":
        return {"process": "alone (no variables of torchrun or SLURM)"}
    gpu = {"local rank": str(launch.local_rank)}
    return {"process": str(launch), **gpu, **launch.variables}


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "not available"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names)
