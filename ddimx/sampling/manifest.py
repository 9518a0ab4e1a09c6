"""The record of a sampling run, and the question whether a folder holds the same run."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import DdimxError, UsageError
from ..untrusted.text import read_json, shortened, shown
from ..weights.model import Model
from .settings import Settings

NAME = "manifest.json"
SCHEMA = 1
MOST_SAMPLES = 2**32  # a sample's index is a word of the noise's counter
SEED_RULE = (
    "Philox-4x32-10; key = seed, counter = (element // 4, sample index, row of the plan, stream)"
)


def identity(model: Model, settings: Settings, kind: str, init_noise: str | None) -> dict[str, Any]:
    """Return everything that determines the files of a run except how many there are."""
    plan = json.dumps(settings.table.to_json(), sort_keys=True)
    return {
        "model_sha256": model.sha256,
        "config_sha256": _config_sha256(model),
        "weights": model.weights,
        "plan_sha256": hashlib.sha256(plan.encode()).hexdigest(),
        "plan": settings.table.label,
        "steps": len(settings.table),
        "seed": settings.noise.seed,
        "guidance": settings.guidance,
        "category": settings.category,
        "start_index": settings.start_index,
        "dtype": model.precision.name,
        "invariant": settings.invariant,
        "format": kind,
        "init_noise_sha256": init_noise,
    }


def describe(model: Model, settings: Settings, command: str) -> dict[str, Any]:
    """Return the parts of a manifest that are known before the first sample."""
    passes = 2 if settings.guidance != 1.0 else 1
    return {
        "schema": SCHEMA,
        "command": command,
        "versions": {
            "ddimx": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "model": {
            "name": model.name,
            "format": model.form,
            "sha256": model.sha256,
            "weights": model.weights,
        },
        "device": str(model.device),
        "dtype": {"name": model.precision.name, "reason": model.precision.reason},
        "seed_rule": SEED_RULE,
        "nfe": settings.table.nfe,
        "forward_passes_per_sample": settings.table.nfe * passes,
        "notes": list(settings.notes),
        "plan": settings.table.to_json(),
        "config": json.loads(model.config.model_dump_json(exclude_unset=True)),
    }


def _config_sha256(model: Model) -> str | None:
    """Return a hash of the configuration where the model's own does not cover it."""
    if model.form.startswith("ddimx "):
        return None
    parts = model.config.model_dump(mode="json", include={"data", "model", "diffusion"})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read(folder: Path) -> dict[str, Any] | None:
    """Return a folder's manifest, or None if it has none.

    Raises:
        DdimxError: a manifest that cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable manifest ({shortened(str(error))})") from None
    if not isinstance(value, dict) or "identity" not in value:
        raise DdimxError(f"{path}: not a manifest of a sampling run")
    wrong = [key for key, check in _CHECKS.items() if not check(value)]
    if wrong:
        found = shown(value.get(wrong[0], value["identity"]))
        raise DdimxError(f"{path}: a damaged manifest ({wrong[0]}: {found})")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_SAMPLES


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What is computed with, where it is there.
_CHECKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "status": lambda value: value.get("status") in ("running", "interrupted", "complete"),
    "count": lambda value: _is_count(value.get("count")),
    "files": lambda value: _are_names(value.get("files", [])),
    "exported": lambda value: _are_names(value.get("exported", [])),
    "asked": lambda value: isinstance(value.get("asked", {}), dict),
    "network_calls": lambda value: _is_number(value.get("network_calls", 0)),
    "seconds": lambda value: _is_number(value.get("seconds", 0)),
    "identity": lambda value: (
        isinstance(value["identity"], dict)
        and _is_count(value["identity"].get("start_index", 0))
        and isinstance(value["identity"].get("format", ""), str)
    ),
}


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any], count: int) -> None:
    """Raise UsageError unless the run in ``folder`` is the one that is asked for."""
    old = before["identity"]
    other = [key for key in {**now, **old} if old.get(key) != now.get(key)]
    if other:
        changes = ", ".join(
            f"{shortened(k)}: {_told(old.get(k))} -> {_told(now.get(k))}" for k in other[:4]
        )
        raise UsageError(
            f"{folder} holds a different run ({changes}); choose another --out or --overwrite"
        )
    if count < before["count"]:
        raise UsageError(
            f"{folder} holds {before['count']} samples of this run, {count} were asked for; "
            "choose another --out or --overwrite"
        )


def _told(value: Any) -> str:
    return shortened(value) if isinstance(value, str) else shown(value)
