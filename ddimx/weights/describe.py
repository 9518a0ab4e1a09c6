"""Models in plain values: what ``ddimx info FILE`` and ``ddimx info --models`` print.

A file of ours is described by its header, without PyTorch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import UsageError
from ..progress import Progress
from .formats.header import PREFIX, read_contents, read_header, stored_sets
from .locate.registry import NAMES, about_published
from .locate.source import (
    Source,
    completed,
    find_model,
    find_weights,
    is_own_file,
    locate,
    shipped_models,
)
from .weight_set import WeightSet, choose

SHOWN = ("command", "images_seen", "shapes_seen", "hours", "device", "data_sha256", "licence")


def about_models() -> dict[str, Any]:
    """Return each shipped model's size and history from its own header."""
    models: dict[str, Any] = {}
    for name in shipped_models():
        path = find_model(name)
        header = read_header(path)
        models[name] = {
            "network": header.config.model.name,
            "sample": _sample(header.config),
            "classes": _classes(header.config),
            "megabytes": _megabytes(path),
            **{key: header.info[key] for key in SHOWN if key in header.info},
        }
    return models


def describe(source: Source) -> dict[str, Any]:
    """Return format, weights, parameters, history and configuration of what a name stands for.

    Nothing is downloaded: of a published model that is not in the cache, its address is returned.

    Raises:
        UsageError: nothing of that name.
        DdimxError: a file that cannot be read or represented.
    """
    published = {k: v for k, v in about_published().items() if k.split(",")[0] == source.name}
    request = f"{source.name}, {source.which or 'ema'}"
    entry = published.get(request, published.get(source.name))
    if source.name in NAMES and entry is not None and entry["state"] != "in the cache":
        return {source.name: published}
    if source.name not in NAMES:
        path = locate(source, Progress())
        if is_own_file(path):
            return _own(path, source)
    weights = find_weights(source, latents=True)
    try:
        weights, config = completed(weights, source)
        settings: Any = json.loads(config.model_dump_json(exclude_unset=True))
    except (
        UsageError
    ) as error:  # bare tensors that no configuration fits are described all the same
        settings = str(error)
    return {
        "model": _facts(weights),
        "history": weights.info,
        "notes": dict(enumerate(weights.notes, 1)),
        "configuration": settings,
    }


def _own(path: Path, source: Source) -> dict[str, Any]:
    """Return the same of a file of ours, of which only the header is read."""
    header = read_header(path)
    sets = stored_sets(path, header)
    which = choose(path, sets, source.which)
    contents = read_contents(path, PREFIX[which] if header.kind == "checkpoint" else "")
    settings: Any = json.loads(header.config.model_dump_json(exclude_unset=True))
    if source.config is not None:
        settings = f"{source.name} carries its own configuration: omit --config"
    return {
        "model": {
            "format": f"ddimx {header.kind}",
            "file": str(path),
            "megabytes": _megabytes(path),
            "weights": which,
            "sets": ", ".join(sets),
            "tensors": contents.tensors,
            "parameters": contents.parameters,
            "dtype": ", ".join(contents.dtypes),
        },
        "history": header.info,
        "notes": {},
        "configuration": settings,
    }


def _sample(config: Config) -> str:
    """Return what one sample is: "3x32x32", or "octree of depth 5"."""
    if config.data.octrees:
        return f"octree of depth {config.data.max_depth}"
    return "x".join(str(n) for n in config.sample_shape)


def _classes(config: Config) -> str:
    """Return the classes' names; those of groups as "animals/ bird, bug; food/ fruit"."""
    groups: dict[str, list[str]] = {}
    for name in config.model.classes:
        group, slash, rest = name.partition("/")
        groups.setdefault(group + slash if slash else "", []).append(rest or name)
    return "; ".join(f"{g} {', '.join(names)}".strip() for g, names in groups.items()) or "none"


def _megabytes(*files: Path) -> float:
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)


def _facts(weights: WeightSet) -> dict[str, Any]:
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in weights.tensors.values()})
    return {
        "format": weights.form,
        "file": str(weights.file),
        "megabytes": _megabytes(*weights.files),
        "weights": weights.which,
        "sets": ", ".join(weights.sets),
        "tensors": len(weights.tensors),
        "parameters": sum(value.numel() for value in weights.tensors.values()),
        "dtype": ", ".join(kinds),
        **({"decoder": str(weights.decoder)} if weights.decoder else {}),
        **({"architecture": str(weights.architecture)} if weights.architecture else {}),
    }
