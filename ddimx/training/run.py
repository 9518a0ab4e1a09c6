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
from ..data.images.encoded import EncodedSource
from ..data.images.folder import FolderSource
from ..data.recognize import told
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
from ..weights.formats.seal import damage
from ..weights.model import check_fits
from ..weights.tensors import load_into
from .compute import choose_compute
from .fine_tune import check_agrees, of_size, with_classes
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

    Args:
        open_distance: opens what measures samples, for ``training.fid_every``.

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
        if request.data is not None or not request.classes:
            flag = "--data" if request.data is not None else "--no-classes"
            raise UsageError(
                f"--resume goes on with the run's own data, and {flag} would change it; data that "
                "were moved are named by --set data.root=DIR"
            )
        checkpoint = _checkpoint(request.resume, None if request.out is None else progress)
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
    with ExitStack() as lock:
        return _train(request, settings, checkpoint, lock, stop, progress, open_distance)


def _train(
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
        lock.enter_context(lock_folder(folder))
        checkpoint, config = _newest(request, config, folder, checkpoint, progress)
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
    distance = None
    if config.training.fid_every is not None:
        if open_distance is None:
            raise UsageError("training.fid_every is measured by 'ddimx train' alone")
        distance = open_distance(config, source, device, request.offline, progress)
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
    )
    report = FolderReporter(folder, progress, config.training.batch_size, process.draws)
    for line in (*(told(config, source, held_out) if fresh else ()), *remarks):
        progress.say(line)
    size = sum(p.numel() for p in network.parameters())
    loop = config.training
    progress.say(
        f"{folder}: {size:,} parameters on {info['device']} in {compute.precision} "
        f"({compute.reason}), seed {seed}, "
        f"{loop.n_iters:,} steps with {loop.batch_size} examples each"
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
    return record | {"set": list(request.settings())}


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
        if same and header.config.model_dump() == config.model_dump():
            return newest, config
        if same and request.data is not None and request.config is None:
            record = _record(request)
            try:
                before = read_object(folder / RECORD)
            except (OSError, ValueError):
                before = {}
            if all(before.get(key, ...) == record[key] for key in record if key != "command"):
                return newest, header.config
    elif newest.resolve() == checkpoint.resolve():
        return checkpoint, config
    raise UsageError(
        f"{folder} holds a training run up to {newest.name}; go on with --resume {folder}, "
        "or name another folder with --out"
    )
