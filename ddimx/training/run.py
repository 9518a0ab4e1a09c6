"""From a configuration to a finished training run: what ``ddimx train`` does."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..config import Config
from ..config_file import dump_yaml, load_config, override, validate
from ..data.examples import open_examples
from ..data.images.download import obtain
from ..data.images.encoded import EncodedSource
from ..data.images.folder import FolderSource
from ..data.recognize import told
from ..device import choose_device, describe
from ..errors import DdimxError, UsageError
from ..files import sweep, write_bytes, write_json
from ..models.factory import build, check_trusted
from ..noise import Noise
from ..progress import Progress
from ..runs.folder import fresh_run, last_run, runs_of
from ..runs.lock import lock_folder
from ..signals import Stop
from ..untrusted.text import read_object, shown
from ..weights.formats.native import read_header, read_shapes
from ..weights.formats.seal import damage
from ..weights.model import check_fits
from ..weights.tensors import load_into
from .compute import choose_compute
from .distributed import Group, SilentReporter
from .fine_tune import check_agrees, of_size, with_classes
from .launches import agent, launched
from .loop import Trainer
from .measure import OpenDistance
from .report import FolderReporter
from .settings import Settings, TrainRequest, resolve
from .state import CHECKPOINTS, TrainState, newest_whole, restore, set_aside

CONFIG, RECORD = "config.yml", "train.json"  # of a run: with what it runs, with what it began


@dataclass(frozen=True)
class TrainResult:
    """Where a run is and how far it came."""

    folder: Path
    step: int
    finished: bool


def train(
    request: TrainRequest,
    stop: Stop,
    progress: Progress,
    open_distance: OpenDistance | None = None,
) -> TrainResult:
    """Train as asked, from the beginning, from other weights or from a checkpoint.

    Of the processes of one launch (:mod:`ddimx.training.distributed`) each computes its part, and
    rank 0 alone writes and speaks.

    Args:
        open_distance: opens what measures samples, for ``training.fid_every``.

    Raises:
        UsageError: the request contradicts itself, its data or the folder, or another process
            trains there.
        DdimxError: data or weights cannot be read, a checkpoint cannot be written, or the loss
            left the finite numbers.
    """
    with Group(launched()) as group:
        return _train_in(group, request, stop, progress, open_distance)


def _train_in(
    group: Group,
    request: TrainRequest,
    stop: Stop,
    progress: Progress,
    open_distance: OpenDistance | None,
) -> TrainResult:
    # First of all, for these decide which exchanges follow: ranks that differ here would wait for
    # each other, or take one answer for another. What options and --set make of the configuration
    # is compared below, key by key.
    group.check_same(
        {
            "version": f"ddimx {__version__}, torch {torch.__version__}",
            "--resume": request.resume,
            "--out": _text(request.out),
            "--init": request.init,
            "--weights": None if request.init_weights is None else str(request.init_weights),
            "--data": request.data,
            "--no-classes": not request.classes,
        }
    )
    if request.resume is not None and request.init is not None:
        raise UsageError("--resume goes on with a run, --init starts a new one: choose one")
    if request.init_weights is not None and request.init is None:
        raise UsageError(f"--weights {request.init_weights} chooses among those of --init")
    checkpoint = None
    if request.resume is not None:
        if request.data is not None or not request.classes:
            flag = "--data" if request.data is not None else "--no-classes"
            raise UsageError(
                f"--resume goes on with the run's own data, and {flag} would change it; data that "
                "were moved are named by --set data.root=DIR"
            )
        if group.is_first:
            checkpoint = _checkpoint(request.resume, None if request.out is None else progress)
        checkpoint = _path(group.told(_text(checkpoint)))
        if checkpoint is None:
            request = _from_the_beginning(request)
            progress.say(f"{request.out}: no checkpoint yet; beginning again")
    if checkpoint is not None:
        header = read_header(checkpoint)
        config = override(header.config, request.settings())
        check_agrees(header.config, config, f"--resume {request.resume}")
        named_in = str(checkpoint) if config.model.name == header.config.model.name else "--set"
        remarks = of_size(header.config, config, "the run")
        settings = Settings(config, None, named_in, None, tuple(remarks))
    else:
        settings = resolve(request, progress)
    check_trusted(settings.config, trust_code=request.trust_code, named_in=settings.named_in)
    group.check_same(
        {
            "seed": request.seed,
            "weights to start from": request.init,
            **_flat(settings.config),
        }
    )
    if request.resume is None and request.out is None:
        before = _earlier_attempt(request) if group.is_first else None
        request = replace(request, out=_path(group.told(_text(before))))
    with ExitStack() as lock:
        return _train(group, request, settings, checkpoint, lock, stop, progress, open_distance)


def _train(
    group: Group,
    request: TrainRequest,
    settings: Settings,
    checkpoint: Path | None,
    lock: ExitStack,
    stop: Stop,
    progress: Progress,
    open_distance: OpenDistance | None,
) -> TrainResult:
    config, start = settings.config, settings.start
    folder = request.out
    if folder is None and checkpoint is not None and checkpoint.parent.name == CHECKPOINTS:
        folder = checkpoint.parent.parent
    if folder is not None:
        if group.is_first:
            lock.enter_context(lock_folder(folder))
            checkpoint, config = _newest(request, config, folder, checkpoint, progress)
        told_of = group.told([_text(checkpoint), json.loads(config.model_dump_json())])
        if not group.is_first:
            checkpoint, config = _path(told_of[0]), validate(told_of[1], "rank 0")
    if group.is_first:
        obtain(config.data, offline=request.offline, progress=progress)
    group.told()
    if not group.is_first:  # on another machine, its own
        obtain(config.data, offline=request.offline, progress=progress)
    # The headers of a folder's pictures are read once, and what a run begins with is said of them.
    fresh = checkpoint is None
    scan = settings.data.scan if fresh and settings.data is not None else None
    source = open_examples(config, strict=request.strict, scan=scan)
    if fresh and isinstance(source, FolderSource):
        scan = source.scan
    held_out = open_examples(config, held_out=True, scan=scan)
    for part in (source, held_out):
        if isinstance(part, EncodedSource):
            part.say = progress.say
    if not len(source):
        raise UsageError("the training split is empty")
    device = choose_device(request.device)
    if config.training.batch_size < group.size:
        raise UsageError(
            f"training.batch_size {config.training.batch_size} is that of all {group.size} "
            "processes together, and fewer than one example each"
        )
    torch.manual_seed(request.seed)  # the initial weights; every later draw is keyed
    if checkpoint is not None:
        check_fits(config, read_shapes(checkpoint, "model."), str(checkpoint))
    network, process = build(config, trust_code=request.trust_code, named_in=settings.named_in)
    remarks = list(settings.remarks) if fresh or request.resume is not None else []
    if start is not None and fresh:
        if start.config is not None:
            start, told_of_classes = with_classes(start, network, config)
            remarks += [told_of_classes] if told_of_classes else []
        load_into(network, start.tensors, start.name)
        remarks += start.notes
        if config.model.patch_size != 1:
            remarks.append(
                f"the network of {start.name} works on patches of pixels (model.patch_size "
                f"{config.model.patch_size}), which diffusers' UNet2DModel cannot: the result "
                "cannot be converted to diffusers; what is trained without --init can"
            )
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainState.fresh(network, config)
    info: dict[str, Any] = {
        "command": request.command,
        "init": Path(request.init).name if request.init is not None else None,
        "data_sha256": source.fingerprint,
        "device": describe(device),
        "ddimx": __version__,
        "torch": torch.__version__,
    }
    seed, history = request.seed, None
    if checkpoint is not None:
        history = restore(checkpoint, state)
        if "seed" not in history:
            raise DdimxError(f"{checkpoint}: its header names no seed, so the run cannot go on")
        seed = int(history["seed"])
        remarks += state.remarks
        info["init"] = history.get("init")
        info["resumed"] = [*history.get("resumed", []), {"step": state.step, "on": info["device"]}]
        if history.get("data_sha256", source.fingerprint) != source.fingerprint:
            remarks.append(
                f"the data have changed since step {state.step}: training goes on with what is "
                "there now, and ends with other weights than it would have"
            )
    compute = choose_compute(config, device, network, history)
    info |= {"precision": compute.precision, "compiled": compute.compiled}
    if not group.is_alone:
        info["processes"] = group.size
    group.check_same(
        {
            "data": [source.fingerprint, len(source)],
            "step": state.step,
            "kind of device": device.type,
            "training.precision": compute.precision,
            "compiled": compute.compiled,
        }
    )
    distance = None
    if config.training.fid_every is not None and group.is_first:
        if open_distance is None:
            raise UsageError("training.fid_every is measured by 'ddimx train' alone")
        distance = open_distance(config, source, device, request.offline, progress)
    group.begin(config.training.backend, device, config.training.rank_timeout)
    if group.is_first:
        if folder is None:  # not before it is known that there is something to put into it
            folder = fresh_run("train", request.label)
            lock.enter_context(lock_folder(folder))
        # Clear away what a killed process left, and write what the run is, before anything else.
        try:
            for place in (folder, folder / CHECKPOINTS, folder / "samples"):
                sweep(place)
            if fresh:
                write_json(folder / RECORD, _record(request))
            write_bytes(folder / CONFIG, dump_yaml(config).encode())
        except OSError as error:
            raise DdimxError(
                f"cannot write {folder}: {error.strerror or error}; no step was done, and the same "
                "command goes on"
            ) from None
    folder = Path(group.told(_text(folder)))
    trainer = Trainer(
        config,
        state,
        process,
        source,
        held_out,
        folder,
        Noise(seed),
        device,
        info,
        compute,
        distance,
        group,
    )
    report: FolderReporter | SilentReporter = SilentReporter()
    if group.is_first:
        report = FolderReporter(folder, progress, config.training.batch_size, process.draws)
    for line in (*(told(config, source, held_out) if fresh else ()), *remarks):
        progress.say(line)
    size = sum(p.numel() for p in network.parameters())
    loop = config.training
    progress.say(
        f"{folder}: {size:,} parameters on {info['device']} in {compute.precision} "
        f"({compute.reason}), seed {seed}, "
        f"{loop.n_iters:,} steps with {loop.batch_size} examples each"
        + ("" if group.is_alone else f", on {group.size} processes")
    )
    if state.step:
        progress.say(f"{folder}: going on from step {state.step}")
    if compute.compiled:
        progress.say(f"{folder}: compiling the network ({compute.compiled_reason})")
        try:
            progress.say(f"{folder}: compiled in {trainer.compile():.0f} s")
        except DdimxError as error:
            if loop.compile == "on":
                raise DdimxError(f"{error}; --set training.compile=off does without") from None
            info["compiled"] = False
            progress.say(f"{folder}: {error}; training without")
    try:
        is_complete = trainer.run(stop, report)
    finally:
        report.close()
    return TrainResult(folder, state.step, is_complete)


def _checkpoint(resume: str, progress: Progress | None) -> Path | None:
    """Return the checkpoint that ``--resume`` names: a file, a run folder, or "last".

    Of a folder the newest that is not damaged; ``progress`` is told of those that are. None where a
    run has begun, but was ended before its first one.

    Raises:
        DdimxError: the file is damaged, or all checkpoints of the folder are.
    """
    path = _run_of(resume)
    if path.is_file():
        reason = damage(path)
        if reason is not None:
            raise DdimxError(f"{path}: damaged: {reason}; --resume RUN takes the newest whole one")
        return path
    for folder in (path / CHECKPOINTS, path):
        newest, damaged = newest_whole(folder)
        if progress is not None:
            for bad, reason in damaged:
                progress.say(f"{bad} is damaged: {reason}; passing over it")
        if newest is not None:
            return newest
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


def _record(request: TrainRequest) -> dict[str, Any]:
    """Return what a run was begun with, for the same command to go on with it."""
    names = ("command", "seed", "init", "init_weights", "data", "classes")
    record = {name: getattr(request, name) for name in names}
    return record | {"set": list(request.settings()), **agent()}


def _earlier_attempt(request: TrainRequest) -> Path | None:
    """Return the run that an earlier attempt of this torchrun has begun by the same command."""
    own, attempt = agent(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if not own:
        return None
    for folder in reversed(runs_of("train")):
        try:
            before = read_object(folder / RECORD)
        except (OSError, ValueError):
            continue
        same = all(before.get(key) == value for key, value in own.items())
        # Another agent of the same job, where rank 0 has moved to another machine. "none" is what
        # every job is called that nobody has named.
        moved = attempt != "0" and own["run_id"] not in ("", "none")
        moved = moved and before.get("run_id") == own["run_id"]
        if (same or moved) and before.get("command") == request.command:
            return folder
    return None


def _flat(config: Config) -> dict[str, Any]:
    sections = config.model_dump(mode="json")
    return {f"{name}.{key}": v for name, keys in sections.items() for key, v in keys.items()}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _results(config: Config) -> dict[str, Any]:
    """Return what of a configuration decides the results, and not by which machines they come."""
    tree = config.model_dump()
    for key in ("accumulate", "activation_checkpointing", "backend", "rank_timeout"):
        del tree["training"][key]
    return tree


def _newest(
    request: TrainRequest,
    config: Config,
    folder: Path,
    checkpoint: Path | None,
    progress: Progress,
) -> tuple[Path | None, Config]:
    """Return the checkpoint to go on from, which must be the folder's newest, if it has one.

    Damaged ones do not count: those after the newest whole one are renamed, and it is said.

    Without ``--resume``, the command that a run was begun with goes on with it. What such a command
    left to the choice by its data is not chosen again: the data may have changed.

    Raises:
        UsageError: the folder holds another run, or the run is further.
    """
    newest, damaged = newest_whole(folder / CHECKPOINTS)
    for path, reason in damaged:
        place = set_aside(path)
        progress.say(f"{path} is damaged: {reason}; it is {place.name} now, and passed over")
    if newest is None:
        return checkpoint, config
    if checkpoint is None:
        header = read_header(newest)
        init = None if request.init is None else Path(request.init).name
        same = header.info.get("seed") == request.seed and header.info.get("init") == init
        if same and _results(header.config) == _results(config):
            return newest, config
        if same and request.data is not None and request.config is None:
            record = _record(request)
            try:
                before = read_object(folder / RECORD)
            except (OSError, ValueError):
                before = {}
            names = {*record} - {"command", *agent()}
            if all(before.get(key, ...) == record[key] for key in names):
                return newest, header.config
    elif newest.resolve() == checkpoint.resolve():
        return checkpoint, config
    raise UsageError(
        f"{folder} holds a training run up to {newest.name}; go on with --resume {folder}, "
        "or name another folder with --out"
    )
