"""What this installation is and can do, as plain values."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from . import __version__
from .device import choose_device, choose_precision
from .kernels import (
    attention,
    discrete_update,
    group_norm_silu,
    octree_decode,
    segment_attention,
    update,
)
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
    """Return versions, devices, kernels, cache folder and models."""
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
        "kernels": {
            name: "{} ({})".format(*preference(device)) for name, preference in OPERATIONS.items()
        },
        "cache": str(cache_folder()),
        "models": about_models(),
    }


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
