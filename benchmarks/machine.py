"""What a figure was measured on: without it, a figure means nothing a month later."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import ddimx

if TYPE_CHECKING:
    from resource import struct_rusage

ROOT = Path(__file__).resolve().parent.parent
WIDEST = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16", "avx512f": "AVX-512", "avx2": "AVX2"}


def describe(device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    """Return date, command, commit, versions, device, threads and load average."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "commit": _commit(),
        "versions": _versions(),
        "device": device_name(device),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": load_average(),
        **({"clocks": clocks()} if device.type == "cuda" else {}),
    }


def device_name(device: torch.device) -> str:
    """Return the name of the processor that computes, with the number of threads for a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpu_name() if device.type == "cpu" else device.type
    return f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else name


def slug(name: str) -> str:
    """Return a device's name as a file's: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def load_average() -> list[float] | None:
    """Return the load over 1, 5 and 15 minutes, None on systems that have no such thing."""
    if not hasattr(os, "getloadavg"):
        return None
    return [round(value, 2) for value in os.getloadavg()]


def clocks() -> str | None:
    """Return a card's clocks, power and temperature as nvidia-smi tells them, None without it.

    It only reads.
    """
    query = "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def peak_mb(usage: struct_rusage | None = None) -> float:
    """Return the largest memory in MB that a process has had, by default this one."""
    import resource  # Windows has none

    usage = usage or resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {
        "ddimx": ddimx.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    try:
        versions["triton"] = version("triton")
    except PackageNotFoundError:
        versions["triton"] = "not installed"
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return versions


def _cpu_name() -> str:
    """Return the CPU's name and what distinguishes it from others of that name.

    Virtual machines say "AMD EPYC" or "Intel(R) Xeon(R) Processor" of several generations: family,
    model and the widest instructions for products tell them apart. ``platform.processor`` is empty
    on most Linux systems.
    """
    try:
        stated = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        stated = ""
    return cpu_kind(stated) or platform.processor() or platform.machine()


def cpu_kind(stated: str) -> str:
    """Return the name of the first CPU of a Linux ``/proc/cpuinfo``; empty if it names none.

    It is followed by family and model, and by the widest of AMX, AVX512_BF16, AVX-512 and AVX2.
    """
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", stated.split("\n\n")[0], re.MULTILINE))
    if "model name" not in fields:
        return ""
    name = fields["model name"].strip()
    if {"cpu family", "model"} <= fields.keys():
        name += f" {fields['cpu family']}-{fields['model']}"
    flags = fields.get("flags", "").split()
    widest = next((shown for flag, shown in WIDEST.items() if flag in flags), None)
    return f"{name} {widest}" if widest else name


def _commit() -> str | None:
    """Return the commit that is checked out, marked where the work tree differs from it.

    A copy of a checkout without its history is told by DDIMX_COMMIT.
    """
    if commit := os.environ.get("DDIMX_COMMIT"):
        return commit
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
