"""From a configuration to a finished training run: what ``ddimx train`` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..config import Config
from ..config_file import dump_yaml, override
from ..data.obtain import obtain
from ..data.open import open_examples
from ..device import choose_device, describe
from ..errors import DdimxError, UsageError
from ..files import write_bytes
from ..models.factory import build
from ..noise import Noise
from ..progress import Progress
from ..runs import fresh_run, last_run
from ..signals import Stop
from ..weights.found import Which
from ..weights.native import read_header
from ..weights.shapes import load_into
from ..weights.source import Source, find_weights
from .loop import Trainer
from .report import FolderReporter
from .state import CHECKPOINTS, TrainState, checkpoints, restore


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for; ``resume`` and ``init`` exclude each other.

    ``init`` names weights as :class:`ddimx.weights.source.Source` does, ``init_weights`` which of
    them.
    """

    label: str
    config: Config | None
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    resume: str | None = None
    init: str | None = None
    init_weights: Which | None = None
    offline: bool = False
    command: str = ""


@dataclass(frozen=True)
class TrainResult:
    """Where a run is and how far it came."""

    folder: Path
    step: int
    finished: bool


def train(request: TrainRequest, stop: Stop, progress: Progress) -> TrainResult:
    """Train as asked, from the beginning, from other weights or from a checkpoint.

    Raises:
        UsageError: the request contradicts itself or its data.
        DdimxError: data or weights cannot be read, or the loss left the finite numbers.
    """
    if request.resume is not None and request.init is not None:
        raise UsageError("--resume goes on with a run, --init starts a new one: choose one")
    if request.init_weights is not None and request.init is None:
        raise UsageError(f"--weights {request.init_weights} chooses among those of --init")
    checkpoint = _checkpoint(request.resume) if request.resume is not None else None
    config = _config(request, checkpoint)
    obtain(config.data, offline=request.offline, progress=progress)
    source = open_examples(config)
    held_out = open_examples(config, held_out=True)
    if not len(source):
        raise UsageError("the training split is empty")
    device = choose_device(request.device)
    torch.manual_seed(request.seed)  # the initial weights; every later draw is keyed
    network, process = build(config)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if request.init is not None:
        source_of = Source(request.init, request.init_weights, offline=request.offline)
        load_into(network, find_weights(source_of, progress).tensors, request.init)
    state = TrainState.fresh(network, config)
    info = _info(request, source.fingerprint, device)
    seed = request.seed
    if checkpoint is not None:
        before = restore(checkpoint, state)
        if "seed" not in before:
            raise DdimxError(f"{checkpoint}: its header names no seed, so the run cannot go on")
        seed = int(before["seed"])
        info["resumed"] = [*before.get("resumed", []), {"step": state.step, "on": info["device"]}]
    folder = _folder(request, checkpoint)
    write_bytes(folder / "config.yml", dump_yaml(config).encode())
    trainer = Trainer(config, state, process, source, held_out, folder, Noise(seed), device, info)
    report = FolderReporter(folder, progress, config.training.batch_size)
    progress.say(f"{folder}: {_size(network)} parameters on {info['device']}, seed {seed}")
    try:
        finished = trainer.run(stop, report)
    finally:
        report.close()
    return TrainResult(folder, state.step, finished)


def _config(request: TrainRequest, checkpoint: Path | None) -> Config:
    if checkpoint is None:
        if request.config is None:
            raise UsageError("name a configuration with --config")
        return override(request.config, request.overrides)
    return override(read_header(checkpoint).config, request.overrides)


def _checkpoint(resume: str) -> Path:
    """Return the checkpoint that ``--resume`` names: a file, a run folder, or "last"."""
    path = last_run("train") if resume == "last" else Path(resume)
    if path.is_file():
        return path
    found = checkpoints(path / CHECKPOINTS) or checkpoints(path)
    if not found:
        raise UsageError(f"--resume {resume}: no checkpoint in {path}")
    return found[-1]


def _folder(request: TrainRequest, checkpoint: Path | None) -> Path:
    """Return the run's folder, in which no other checkpoint may be newer than the one given."""
    folder = request.out
    if folder is None and checkpoint is not None and checkpoint.parent.name == CHECKPOINTS:
        folder = checkpoint.parent.parent
    if folder is None:
        return fresh_run("train", request.label)
    there = checkpoints(folder / CHECKPOINTS)
    if there and (checkpoint is None or there[-1].resolve() != checkpoint.resolve()):
        raise UsageError(
            f"{folder} holds a training run up to {there[-1].name}; go on with --resume {folder}, "
            "or name another folder with --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _info(request: TrainRequest, fingerprint: str, device: torch.device) -> dict[str, Any]:
    return {
        "command": request.command,
        "init": Path(request.init).name if request.init is not None else None,
        "data_sha256": fingerprint,
        "device": describe(device),
        "ddimx": __version__,
        "torch": torch.__version__,
    }


def _size(network: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()):,}"
