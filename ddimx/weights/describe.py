"""One file or folder of weights in plain values: what ``ddimx info FILE`` prints."""

from __future__ import annotations

import json
from typing import Any

from ..errors import UsageError
from .locate.registry import NAMES, about_published
from .locate.source import Source, completed, find_weights
from .weight_set import Found


def describe(source: Source) -> dict[str, Any]:
    """Return format, weights, parameters, history and configuration of what a name stands for.

    Nothing is downloaded: of a published model that is not in the cache, its address is returned.

    Raises:
        UsageError: nothing of that name.
        DdimxError: a file that cannot be read or represented.
    """
    published = {k: v for k, v in about_published().items() if k.split(",")[0] == source.name}
    wanted = f"{source.name}, {source.which or 'ema'}"
    entry = published.get(wanted, published.get(source.name))
    if source.name in NAMES and entry is not None and entry["state"] != "in the cache":
        return {source.name: published}
    found = find_weights(source)
    try:
        found, config = completed(found, source)
        settings: Any = json.loads(config.model_dump_json(exclude_unset=True))
    except (
        UsageError
    ) as error:  # bare tensors that no configuration fits are described all the same
        settings = str(error)
    return {
        "model": _facts(found),
        "history": found.info,
        "notes": dict(enumerate(found.notes, 1)),
        "configuration": settings,
    }


def _facts(found: Found) -> dict[str, Any]:
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in found.tensors.values()})
    return {
        "format": found.form,
        "file": str(found.file),
        "megabytes": round(found.file.stat().st_size / 1e6, 1),
        "weights": found.taken,
        "sets": ", ".join(found.sets),
        "tensors": len(found.tensors),
        "parameters": sum(value.numel() for value in found.tensors.values()),
        "dtype": ", ".join(kinds),
        **({"architecture": str(found.architecture)} if found.architecture else {}),
    }
