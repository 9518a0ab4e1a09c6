"""What this installation is and can do, as plain values."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from . import __version__
from .config import Config
from .device import choose_device, choose_precision
from .kernels import (
    attention,
    discrete_update,
    group_norm_silu,
    octree_decode,
    segment_attention,
    update,
)
from .weights.formats.native import read_header
from .weights.locate.cache import cache_folder
from .weights.locate.source import find_model, shipped_models

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
SHOWN = ("command", "images_seen", "shapes_seen", "hours", "device", "data_sha256", "licence")


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


def about_models() -> dict[str, Any]:
    """Return each shipped model's size and history from its own header."""
    found: dict[str, Any] = {}
    for name in shipped_models():
        path = find_model(name)
        header = read_header(path)
        found[name] = {
            "network": header.config.model.name,
            "sample": _sample(header.config),
            "classes": ", ".join(header.config.model.classes) or "none",
            "megabytes": round(path.stat().st_size / 1e6, 1),
            **{key: header.info[key] for key in SHOWN if key in header.info},
        }
    return found


def _sample(config: Config) -> str:
    """Return what one sample is: "3x32x32", or "octree of depth 5"."""
    if config.data.octrees:
        return f"octree of depth {config.data.max_depth}"
    return "x".join(str(n) for n in config.sample_shape)


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
