"""The record of a sampling run, and the question whether a folder holds the same run."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..config import Config
from ..config_file import validate
from ..device import DTYPES, choose_device, choose_precision
from ..errors import DdimxError, UsageError
from ..files import sha256_file
from ..options import ENGINES
from ..runs.formats import LISTED
from ..runs.record import NAME, Record, read_record
from ..solvers.table import AnyPlan
from ..untrusted.names import all_inside
from ..untrusted.text import shown
from ..weights.locate.source import find_model, shipped_models
from ..weights.model import Model
from .settings import Settings, labels_for

SCHEMA = 2
MOST_SAMPLES = 2**32  # a sample's index is a word of the noise's counter
SAME = 1e-9
SEED_RULE_VERSION = 1  # raised with any change of how noise follows from seed and index
SEED_RULE = (
    "Philox-4x32-10; key = seed, counter = (element // 4, sample index, row of the plan, stream)"
)


def identity(model: Model, settings: Settings, kind: str, init_noise: str | None) -> dict[str, Any]:
    """Return everything that determines the files of a run except how many there are.

    Only resolved inputs, as JSON values: no prose, and no number that a machine has computed.
    """
    return {
        "schema": SCHEMA,
        "model_sha256": model.sha256,
        "config_sha256": None if model.form.startswith("ddimx ") else config_sha256(model.config),
        "weights": model.weights,
        "schedule": schedule_of(model.config),
        **settings.plan.identity(),
        "seed_rule": SEED_RULE_VERSION,
        "seed": settings.noise.seed,
        "guidance": settings.guidance,
        "category": settings.category,
        "start_index": settings.start_index,
        "dtype": model.precision.name,
        "invariant": settings.invariant,
        "format": kind,
        "init_noise_sha256": init_noise,
        **({"engine": settings.engine} if names_engine(settings) else {}),
        **({"clean": True} if settings.clean else {}),
    }


def names_engine(settings: Settings) -> bool:
    """Return whether a run's identity names its engine.

    Under --invariant the bits are promised, and compiled code has others than the plain path, which
    graphs replay. Without, an engine changes no more than the batch's size does.
    """
    return settings.invariant and settings.engine == "compile"


# "steps" counts rows, which the times tell better.
_OF_THE_RUN = {"schema", "start_index", "category", "format", "steps"}


def about(identity: Record) -> dict[str, str]:
    """Return what a sample's file says of where it came from, by name.

    It is the same whoever makes the sample: what is the run's alone is left out, and of names the
    model has only that of a shipped one, for other files can be renamed.
    """
    names = {sha256_file(find_model(name)): name for name in shipped_models()}
    name = names.get(identity["model_sha256"])
    facts = {"model": name} | {k: v for k, v in identity.items() if k not in _OF_THE_RUN}
    if identity.get("init_noise_sha256") is not None:  # its first state is this sample's
        facts["start_index"] = identity["start_index"]
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
        if value is not None and value is not False
    }


def schedule_of(config: Config) -> list[Any]:
    """Return a model's noise schedule as a run's identity has it."""
    diffusion = config.diffusion
    if diffusion.prediction in ("flow", "edm"):
        own = {
            "flow": ("shift", "velocity"),
            "edm": ("sigma_data", "sigma_min", "sigma_max", "rho"),
        }[diffusion.prediction]
        keys = ("prediction", "num_diffusion_timesteps", "time_scale", *own)
        return [getattr(diffusion, key) for key in keys]
    numbers = (diffusion.beta_start, diffusion.beta_end, diffusion.num_diffusion_timesteps)
    described: list[Any] = [diffusion.beta_schedule, *numbers]
    if diffusion.trained_betas is not None:
        table = json.dumps(diffusion.trained_betas).encode()
        described = ["trained_betas", hashlib.sha256(table).hexdigest()]
    return [*described, "zero_terminal_snr"] if diffusion.zero_terminal_snr else described


def config_sha256(config: Config) -> str:
    """Return a hash of what a configuration says of the network and its data.

    It is for weights whose own hash does not cover it. Values that are the defaults do not enter:
    a key that a later version adds changes nothing.
    """
    data = {"image_size", "channels", "rescaled", "logit_transform", "max_depth"}
    parts = config.model_dump(
        mode="json",
        include={"data": data, "model": True, "diffusion": True},
        exclude_defaults=True,
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def translated(before: dict[str, Any], now: dict[str, Any], table: AnyPlan) -> dict[str, Any]:
    """Return the identity in a manifest as this version writes it, to be compared with ``now``.

    Version 0.1 (schema 1) hashed plans as text, with labels and all digits. Its manifests hold the
    whole plan: where that is ``table``, up to rounding, it was made from the same inputs.
    """
    old: dict[str, Any] = dict(before["identity"])
    if "prompt" in old and "negative_prompt" not in old:
        # Until version 0.2 a run with --prompt had a record of its own, which left out what it
        # could not choose.
        implied = ("config_sha256", "weights", "schedule", "category", "invariant")
        old = {name: now.get(name) for name in (*implied, "init_noise_sha256")} | old
        old |= {"negative_prompt": None, "size": None}
    if "schema" in old:
        return old
    label = old.pop("plan", None)
    for name in ("plan_sha256", "steps", "config_sha256"):
        old.pop(name, None)
    own = _config_of(before)
    if "config_sha256" in now:
        foreign = not str(before.get("model", {}).get("format")).startswith("ddimx ")
        old["config_sha256"] = config_sha256(own) if foreign and own is not None else None
        old["schedule"] = None if own is None else schedule_of(own)
    plan = table.identity()
    if not _same_table(before.get("plan"), table):
        plan["solver"] = f"another plan, {label}"
    texts: dict[str, Any] = {
        name: old[name] for name in ("prompt", "negative_prompt", "size") if name in old
    }
    return {**old, "schema": SCHEMA, "seed_rule": SEED_RULE_VERSION, **plan, **texts}


def _config_of(before: dict[str, Any]) -> Config | None:
    try:
        return validate(before["config"], "manifest")
    except (KeyError, TypeError, UsageError):
        return None


def _same_table(stored: Any, table: AnyPlan) -> bool:
    """Return whether a plan as JSON is this one, up to what machines differ by."""
    now = table.to_json()
    for prose in ("label", "notes"):
        now.pop(prose)
    if not isinstance(stored, dict) or not now.keys() <= stored.keys():
        return False
    for name, own in now.items():
        if not isinstance(own, list):
            if stored[name] != own:
                return False
            continue
        try:
            theirs, ours = (np.array(v, dtype=np.float64) for v in (stored[name], own))
        except (TypeError, ValueError):
            return False
        # Columns of 52 of 140 plans differ between CPUs, by 4e-16; any two options by far more.
        if theirs.shape != ours.shape or not np.allclose(
            theirs, ours, rtol=SAME, atol=SAME, equal_nan=True
        ):
            return False
    return True


def describe(model: Model, settings: Settings, command: str) -> dict[str, Any]:
    """Return the parts of a manifest that are known before the first sample."""
    return {
        "schema": SCHEMA,
        "command": command,
        "versions": {
            "ddimx": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        | ({"diffusers": version("diffusers")} if "pipeline" in model.form else {}),
        "model": {
            "name": model.name,
            "format": model.form,
            "sha256": model.sha256,
            "weights": model.weights,
        },
        "device": str(model.device),
        "dtype": {"name": model.precision.name, "reason": model.precision.reason},
        "seed_rule": SEED_RULE,
        "nfe": settings.plan.nfe,
        "forward_passes_per_sample": settings.passes,
        "notes": list(settings.notes),
        "plan": settings.plan.to_json(),
        "config": json.loads(model.config.model_dump_json(exclude_unset=True)),
    }


def shared_versions(settings: Settings) -> dict[str, str]:
    """Return the versions that all processes of a run in shards must have.

    The bits that --invariant promises are those of one version of torch.
    """
    return {"ddimx": __version__} | ({"torch": torch.__version__} if settings.invariant else {})


def samples(
    model: Model, settings: Settings, keys_of: Callable[[Sequence[int]], Sequence[int]]
) -> dict[str, Any]:
    """Return a table of the run's samples, in the order of their indices.

    Args:
        keys_of: returns for samples the indices of their noise and class.

    Returns:
        ``seed``, one for all, and a list for each column: ``index``, and ``class`` where the model
        has classes. Of more than :data:`LISTED` samples ``first`` and ``count`` instead: their
        files say the rest, and seed and index it all.
    """
    indices = settings.indices
    if len(indices) > LISTED:
        return {"seed": settings.noise.seed, "first": indices.start, "count": len(indices)}
    keys = keys_of(indices)
    names = class_names(model, settings, keys)
    table: dict[str, Any] = {"seed": settings.noise.seed, "index": list(keys)}
    return table | ({"class": names} if names else {})


def class_names(model: Model, settings: Settings, keys: Sequence[int]) -> list[str]:
    """Return the classes of samples by the indices of their noise, [] where the model has none."""
    labels = labels_for(settings, model, keys)
    names = (*model.classes, "none")
    return [] if labels is None else [names[label] for label in labels.tolist()]


def read(folder: Path) -> Record | None:
    """Return a folder's manifest, or None if it has none.

    Raises:
        DdimxError: a manifest that cannot be read, is of another kind, or names files outside the
            folder.
    """
    record = read_record(folder, "sampling run", SCHEMA)
    if record is None:
        return None
    path = folder / NAME
    if "count" not in record:
        raise DdimxError(f"{path}: not a manifest of a sampling run")
    wrong = [key for key, check in _CHECKS.items() if not check(record)]
    if wrong:
        found = shown(record.get(wrong[0], record["identity"]))
        raise DdimxError(f"{path}: a damaged manifest ({wrong[0]}: {found})")
    for key in ("files", "exported"):
        all_inside(folder, record.get(key, []), path)
    return record


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_SAMPLES


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What is computed with, where it is there.
_CHECKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "status": lambda value: value.get("status") in ("running", "interrupted", "complete"),
    "count": lambda value: _is_count(value.get("count")),
    "files": lambda value: isinstance(value.get("files", []), list),
    "exported": lambda value: isinstance(value.get("exported", []), list),
    "asked": lambda value: isinstance(value.get("asked", {}), dict),
    "network_calls": lambda value: _is_number(value.get("network_calls", 0)),
    "seconds": lambda value: _is_number(value.get("seconds", 0)),
    "identity": lambda value: (
        _is_count(value["identity"].get("start_index", 0))
        and re.fullmatch("[a-z0-9]*", str(value["identity"].get("format", ""))) is not None
        and isinstance(value["identity"].get("dtype", ""), str)
    ),
}


def dtype_for(asked: str | None, folder: Path | None, device: str) -> str:
    """Return the dtype to load a model in: for "auto", that in which the folder's run was begun.

    Args:
        asked: a name, "auto" or None, which is "auto" too.
        folder: where the run is, or is to be; None for a fresh one.
        device: as the command line has it.

    Raises:
        UsageError: the run was begun in a dtype that this machine does not compute in.
        DdimxError: a manifest that cannot be read.
    """
    if folder is None or asked not in (None, "auto"):
        return asked or "auto"
    before = read(folder)
    name = None if before is None else before["identity"].get("dtype")
    if name not in DTYPES:
        return "auto"
    try:
        choose_precision(name, choose_device(device))
    except UsageError as error:
        raise UsageError(
            f"{folder} was begun in {name}, and {error}; go on where it was begun, or choose "
            "another --out"
        ) from None
    return str(name)


def engine_for(asked: str | None, folder: Path | None) -> str:
    """Return the engine to sample with: for "auto", that which the folder's identity names.

    Args:
        asked: a name, "auto" or None, which is "auto" too.
        folder: where the run is, or is to be; None for a fresh one.

    Raises:
        DdimxError: a manifest that cannot be read.
    """
    before = None if folder is None or asked not in (None, "auto") else read(folder)
    named = None if before is None else before["identity"].get("engine")
    return str(named) if named in ENGINES else asked or "auto"
