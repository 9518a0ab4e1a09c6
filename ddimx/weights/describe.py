"""One file or folder of weights in plain values: what ``ddimx info FILE`` prints."""

from __future__ import annotations

import json
from typing import Any

from ..errors import UsageError
from .locate.registry import NAMES, about_published
from .locate.source import Source, completed, find_weights
from .weight_set import WeightSet


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


def _facts(weights: WeightSet) -> dict[str, Any]:
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in weights.tensors.values()})
    return {
        "format": weights.form,
        "file": str(weights.file),
        "megabytes": round(sum(file.stat().st_size for file in weights.files) / 1e6, 1),
        "weights": weights.which,
        "sets": ", ".join(weights.sets),
        "tensors": len(weights.tensors),
        "parameters": sum(value.numel() for value in weights.tensors.values()),
        "dtype": ", ".join(kinds),
        **({"decoder": str(weights.decoder)} if weights.decoder else {}),
        **({"architecture": str(weights.architecture)} if weights.architecture else {}),
    }
