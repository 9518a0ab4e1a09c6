"""From a configuration to a finished training run: what ``ddimx train`` does."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..config import Config
from ..config_file import dump_yaml, load_config, override
from ..data.examples import open_examples
from ..data.images.download import obtain
from ..data.shapes.octrees import with_depth_of_files
from ..device import choose_device, describe
from ..errors import DdimxError, UsageError
from ..files import sweep, write_bytes, write_json
from ..models.factory import build, check_trusted
from ..noise import Noise
from ..progress import Progress
from ..runs.folder import fresh_run, last_run
from ..runs.lock import lock_folder
from ..signals import Stop
from ..untrusted.text import read_object, shown
from ..weights.formats.native import read_header, read_shapes
from ..weights.locate.source import Source, find_weights
from ..weights.model import check_fits
from ..weights.tensors import load_into
from ..weights.weight_set import Which
from .loop import Trainer
from .report import FolderReporter
from .state import CHECKPOINTS, TrainState, checkpoints, restore

CONFIG, RECORD = "config.yml", "train.json"  # of a run: with what it runs, with what it began


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for; ``resume`` and ``init`` exclude each other.

    ``init`` names weights as :class:`ddimx.weights.locate.source.Source` does, ``init_weights``
    which of them. ``config_file`` says where ``config`` is from, for messages; ``trust_code``
    allows its ``model.name`` to be imported as ``package.module:Class``.
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
    trust_code: bool = False
    config_file: str = "the configuration"
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
        UsageError: the request contradicts itself, its data or the folder, or another process
            trains there.
        DdimxError: data or weights cannot be read, a checkpoint cannot be written, or the loss
            left the finite numbers.
    """
    if request.resume is not None and request.init is not None:
        raise UsageError("--resume goes on with a run, --init starts a new one: choose one")
    if request.init_weights is not None and request.init is None:
        raise UsageError(f"--weights {request.init_weights} chooses among those of --init")
    checkpoint = None
    if request.resume is not None:
        checkpoint = _checkpoint(request.resume)
        if checkpoint is None:
            request = _from_the_beginning(request)
            progress.say(f"{request.out}: no checkpoint yet; beginning again")
    if checkpoint is not None:
        config, named_in = read_header(checkpoint).config, str(checkpoint)
    elif request.config is not None:
        config, named_in = request.config, request.config_file
    else:
        raise UsageError("name a configuration with --config")
    name = config.model.name
    config = override(config, request.overrides)
    if config.model.name != name:
        named_in = "--set"
    check_trusted(config, trust_code=request.trust_code, named_in=named_in)
    depth = config.data.max_depth
    if checkpoint is None and not any(o.startswith("data.max_depth=") for o in request.overrides):
        config = with_depth_of_files(config)
        if config.data.max_depth != depth:
            progress.say(
                f"{config.data.root}: octrees of depth {config.data.max_depth}, so the model is "
                f"of that depth, not {depth}"
            )
    with ExitStack() as lock:
        return _train(request, config, named_in, checkpoint, lock, stop, progress)


def _train(
    request: TrainRequest,
    config: Config,
    named_in: str,
    checkpoint: Path | None,
    lock: ExitStack,
    stop: Stop,
    progress: Progress,
) -> TrainResult:
    folder = request.out
    if folder is None and checkpoint is not None and checkpoint.parent.name == CHECKPOINTS:
        folder = checkpoint.parent.parent
    if folder is not None:
        lock.enter_context(lock_folder(folder))
        checkpoint = _newest(request, config, folder, checkpoint)
    obtain(config.data, offline=request.offline, progress=progress)
    source = open_examples(config)
    held_out = open_examples(config, held_out=True)
    if not len(source):
        raise UsageError("the training split is empty")
    device = choose_device(request.device)
    torch.manual_seed(request.seed)  # the initial weights; every later draw is keyed
    if checkpoint is not None:
        check_fits(config, read_shapes(checkpoint, "model."), str(checkpoint))
    network, process = build(config, trust_code=request.trust_code, named_in=named_in)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if request.init is not None and checkpoint is None:
        source_of = Source(request.init, request.init_weights, offline=request.offline)
        load_into(network, find_weights(source_of, progress).tensors, request.init)
    state = TrainState.fresh(network, config)
    info: dict[str, Any] = {
        "command": request.command,
        "init": Path(request.init).name if request.init is not None else None,
        "data_sha256": source.fingerprint,
        "device": describe(device),
        "ddimx": __version__,
        "torch": torch.__version__,
    }
    seed = request.seed
    if checkpoint is not None:
        history = restore(checkpoint, state)
        if "seed" not in history:
            raise DdimxError(f"{checkpoint}: its header names no seed, so the run cannot go on")
        seed = int(history["seed"])
        info["init"] = history.get("init")
        info["resumed"] = [*history.get("resumed", []), {"step": state.step, "on": info["device"]}]
    if folder is None:  # not before it is known that there is something to put into it
        folder = fresh_run("train", request.label)
        lock.enter_context(lock_folder(folder))
    # Clear away what a killed process left, and write what the run is, before anything else.
    fresh = checkpoint is None
    try:
        for place in (folder, folder / CHECKPOINTS, folder / "samples"):
            sweep(place)
        if fresh:
            record = {key: getattr(request, key) for key in ("command", "seed", "init")}
            write_json(folder / RECORD, record | {"init_weights": request.init_weights})
        write_bytes(folder / CONFIG, dump_yaml(config).encode())
    except OSError as error:
        raise DdimxError(
            f"cannot write {folder}: {error.strerror or error}; no step was done, and the same "
            "command goes on"
        ) from None
    trainer = Trainer(config, state, process, source, held_out, folder, Noise(seed), device, info)
    report = FolderReporter(folder, progress, config.training.batch_size)
    size = sum(p.numel() for p in network.parameters())
    progress.say(f"{folder}: {size:,} parameters on {info['device']}, seed {seed}")
    if state.step:
        progress.say(f"{folder}: going on from step {state.step}")
    try:
        is_complete = trainer.run(stop, report)
    finally:
        report.close()
    return TrainResult(folder, state.step, is_complete)


def _checkpoint(resume: str) -> Path | None:
    """Return the checkpoint that ``--resume`` names: a file, a run folder, or "last".

    None where a run has begun, but was ended before its first one.
    """
    path = _run_of(resume)
    if path.is_file():
        return path
    paths = checkpoints(path / CHECKPOINTS) or checkpoints(path)
    if paths:
        return paths[-1]
    if not (path / RECORD).is_file() or not (path / CONFIG).is_file():
        raise UsageError(
            f"--resume {resume}: no checkpoint in {path}, and no record of how a run began; give "
            "its command again"
        )
    return None


def _run_of(resume: str) -> Path:
    return last_run("train") if resume == "last" else Path(resume)


def _from_the_beginning(request: TrainRequest) -> TrainRequest:
    """Return what a run that has no checkpoint yet was begun with."""
    assert request.resume is not None
    folder = _run_of(request.resume)
    try:
        record = read_object(folder / RECORD)
        options = {key: record[key] for key in ("seed", "init", "init_weights")}
        kinds = (int, str | None, str | None)
        if not all(isinstance(v, k) for v, k in zip(options.values(), kinds, strict=True)):
            raise ValueError(f"it holds {shown(options)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DdimxError(f"{folder / RECORD}: not readable ({error}); begin anew") from None
    config = load_config(str(folder / CONFIG))
    return replace(
        request,
        resume=None,
        config=config,
        config_file=str(folder / CONFIG),
        out=request.out or folder,
        **options,
    )


def _newest(
    request: TrainRequest, config: Config, folder: Path, checkpoint: Path | None
) -> Path | None:
    """Return the checkpoint to go on from, which must be the folder's newest, if it has one.

    Without ``--resume``, the command that a run was begun with goes on with it.

    Raises:
        UsageError: the folder holds another run, or the run is further.
    """
    paths = checkpoints(folder / CHECKPOINTS)
    if not paths:
        return checkpoint
    newest = paths[-1]
    if checkpoint is None:
        header = read_header(newest)
        init = None if request.init is None else Path(request.init).name
        same = header.info.get("seed") == request.seed and header.info.get("init") == init
        if same and header.config.model_dump() == config.model_dump():
            return newest
    elif newest.resolve() == checkpoint.resolve():
        return checkpoint
    raise UsageError(
        f"{folder} holds a training run up to {newest.name}; go on with --resume {folder}, "
        "or name another folder with --out"
    )
