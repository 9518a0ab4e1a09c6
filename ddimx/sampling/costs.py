"""What compiling a network costs and gains on this machine: measured once, and remembered.

The record is one small JSON file beside the compiled code, in the user's cache folder. It decides
about seconds and never about samples; one that is damaged, foreign or too long is begun anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from ..device import describe
from ..files import write_json
from ..untrusted.text import parse_json, read_bytes
from ..weights.locate.cache import cache_folder
from ..weights.model import Model

NAME = "engines.json"
SCHEMA = 1
MOST_ENTRIES = 64
MOST_BYTES = 64 << 10  # an entry takes 300
MOST_SECONDS = 1e6

# Until something is measured here. Seconds of compiling for each layer with weights: CIFAR-10's
# UNet has 164 and took 85 to 158 s on two cores of an AMD EPYC, where every fused loop is compiled
# as C++, and 26 s beside an H200.
COLD_PER_LAYER = {"cpu": 0.8, "cuda": 0.15}
WARM_SHARE = 0.15  # of that, where the code is in the cache already: 13 s of 85
# The time of a compiled call by that of one without compiling. What compiling gained on CPUs in
# bfloat16 was mostly that it packs weights, which "pack" does too: with AMX 1.47 times, and nothing
# where it did not; with AVX512_BF16 alone 1.13 times, as packing alone. On an H200 the graph of
# the compiled network took 1.12 ms of 2.07, at batch 512 19 ms of 56.
RATIO = {"cpu bf16": 0.95, "cpu fp32": 1.0, "cuda": 0.6}


@dataclass(frozen=True)
class Entry:
    """What was measured of one network at one size.

    Attributes:
        kind: machine, precision and versions, within which figures of one network say something of
            another.
        layers: how many layers with weights it has.
        cold: seconds of compiling with an empty cache; None if that was not seen. Networks share
            pieces of code, so that those of a second one may be there already; that is not told
            apart.
        warm: the same where the cache held the code.
        plain, compiled: seconds of a call on a CPU, plain and compiled; None if not measured, as
            ``plain`` where each call was compiled because the user wanted that. On a GPU neither
            is measured: to wait for each call would cost more than it teaches.
    """

    kind: str
    layers: int
    cold: float | None = None
    warm: float | None = None
    plain: float | None = None
    compiled: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What compiling is expected to cost, in seconds, and a compiled call by a plain one."""

    seconds: float
    ratio: float


def layers_of(network: nn.Module) -> int:
    """Return how many layers with weights a network has, at least 1."""
    return max(1, sum(any(True for _ in m.parameters(recurse=False)) for m in network.modules()))


def names_of(model: Model, size: int) -> tuple[str, str]:
    """Return what the record calls a network at a size, and the kind that it is of."""
    kind = "; ".join([describe(model.device), model.precision.name, f"torch {torch.__version__}"])
    shapes = [[*p.shape] for p in model.network.parameters()]
    facts = json.dumps([kind, size, type(model.network).__name__, [*model.process.shape], shapes])
    return hashlib.sha256(facts.encode()).hexdigest()[:32], kind


def engine_folder() -> Path:
    """Return the folder of compiled code and of the record, which need not exist."""
    return cache_folder() / "engines"


def private_folder(path: Path) -> Path | None:
    """Make a folder that nobody else can write to, and return it; None where that cannot be.

    What it holds is run as machine code. One that lets others write is removed with all that is in
    it; one that belongs to another user, or is a link, is not used.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.lstat()
        owner = os.getuid() if hasattr(os, "getuid") else facts.st_uid
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != owner:
            return None
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            shutil.rmtree(path)
            path.mkdir(mode=0o700)
        path.chmod(0o700)
    except OSError:
        return None
    return path


def read() -> dict[str, Entry]:
    """Return the record by key; empty where there is none that can be used."""
    try:
        value = parse_json(read_bytes(engine_folder() / NAME, MOST_BYTES))
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            return {}
        return {key: _entry(entry) for key, entry in value["entries"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _entry(value: Any) -> Entry:
    """Return an entry of a record.

    Raises:
        ValueError, TypeError: something else than that.
    """
    entry = Entry(**value)
    times = (entry.cold, entry.warm, entry.plain, entry.compiled)
    if not isinstance(entry.kind, str) or type(entry.layers) is not int or entry.layers < 1:
        raise ValueError("kind and layers")
    for seconds in times:
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError("seconds")
        if not 0 < seconds < MOST_SECONDS:
            raise ValueError("seconds")
    return entry


def remember(key: str, entry: Entry) -> None:
    """Add to the record what was measured; times that are None leave the older ones.

    A cache that cannot be written is no reason to end a run.
    """
    entries = read()
    if key in entries:
        older = asdict(entries.pop(key))
        news = {name: value for name, value in asdict(entry).items() if value is not None}
        entry = Entry(**(older | news))
    entries[key] = entry
    newest = dict(list(entries.items())[-MOST_ENTRIES:])
    folder = private_folder(engine_folder())
    if folder is None:
        return
    with suppress(OSError):
        write_json(
            folder / NAME,
            {"schema": SCHEMA, "entries": {name: asdict(value) for name, value in newest.items()}},
        )


def estimate(
    entries: Mapping[str, Entry],
    key: str,
    kind: str,
    device: str,
    speed: str,
    layers: int,
    plain: float | None = None,
) -> Estimate:
    """Return what compiling would cost and gain.

    Args:
        entries: the record.
        key: of the network at its size.
        kind: as of :class:`Entry`.
        device: "cpu" or "cuda".
        speed: a key of ``RATIO``.
        layers: how many layers with weights the network has.
        plain: seconds of a plain call as measured now, for a record that has only compiled ones.
    """
    alike = [entry for entry in entries.values() if entry.kind == kind]
    colds = [entry.cold / entry.layers for entry in alike if entry.cold is not None]
    cold = layers * (median(colds) if colds else COLD_PER_LAYER[device])
    ratios = [
        entry.compiled / entry.plain
        for entry in alike
        if entry.compiled is not None and entry.plain is not None
    ]
    ratio = median(ratios) if ratios else RATIO[speed]
    own = entries.get(key)
    if own is None or not compiled_code().is_dir():
        return Estimate(cold, ratio)
    if own.compiled is not None and (before := own.plain or plain):
        ratio = own.compiled / before
    warm = own.warm if own.warm is not None else (own.cold or cold) * WARM_SHARE
    return Estimate(warm, ratio)


def compiled_code() -> Path:
    """Return the folder of inductor's compiled code."""
    return engine_folder() / "code"


def code_is_held(entries: Mapping[str, Entry], key: str) -> bool | None:
    """Return whether there is compiled code of a network at its size; None if nobody can say.

    Nobody can where the record was lost and the code was not.
    """
    try:
        code = any(compiled_code().iterdir())
    except OSError:  # no such folder, or not one for us
        code = False
    return None if code and not entries else code and key in entries
