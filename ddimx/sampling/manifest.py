"""The record of a sampling run, and the question whether a folder holds the same run."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import DdimxError, UsageError
from ..untrusted.names import all_inside
from ..weights.model import Model
from .settings import Settings

NAME = "manifest.json"
SCHEMA = 1
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
        DdimxError: a manifest that cannot be read, or that names files outside the folder.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a readable manifest ({error})") from None
    if not isinstance(value, dict) or not isinstance(value.get("identity"), dict):
        raise DdimxError(f"{path}: not a manifest of a sampling run")
    for key in ("files", "exported"):
        names = value.get(key, [])
        if not isinstance(names, list):
            raise DdimxError(f"{path}: '{key}' is no list of names")
        all_inside(folder, names, path)
    return value


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any], count: int) -> None:
    """Raise UsageError unless the run in ``folder`` is the one that is asked for."""
    old = before["identity"]
    other = [key for key in {**now, **old} if old.get(key) != now.get(key)]
    if other:
        changes = ", ".join(f"{k}: {old.get(k)} -> {now.get(k)}" for k in other[:4])
        raise UsageError(
            f"{folder} holds a different run ({changes}); choose another --out or --overwrite"
        )
    if count < before["count"]:
        raise UsageError(
            f"{folder} holds {before['count']} samples of this run, {count} were asked for; "
            "choose another --out or --overwrite"
        )
