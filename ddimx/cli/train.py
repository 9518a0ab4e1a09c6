"""``ddimx train``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete, options
from .common import end_interrupted, which

if TYPE_CHECKING:
    import torch

    from ..config import Config
    from ..data.examples import Examples
    from ..progress import Progress
    from ..training.measure import Distance


def train(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="A folder, zip or tars of pictures (a folder per class, if there are any), a "
            "packed .npy, an .npz, or a folder of octrees.",
            rich_help_panel="What to train",
        ),
    ] = None,
    size: Annotated[
        str | None,
        options.shared(
            "size", panel="What to train", help="Pixels of an image (default: by the data)."
        ),
    ] = None,
    no_classes: Annotated[
        bool,
        typer.Option(
            "--no-classes",
            help="Train without the classes that the data have.",
            rich_help_panel="What to train",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse a folder with pictures that cannot be read, instead of skipping them.",
            rich_help_panel="What to train",
        ),
    ] = False,
    steps: Annotated[
        int | None,
        options.shared(
            "steps", panel="What to train", help="Number of training steps (default: by the data)."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        options.shared(
            "batch_size",
            panel="What to train",
            help="Examples in a step (default: by the data).",
        ),
    ] = None,
    config: options.Config = None,
    settings: options.Settings = None,
    out: options.Out = None,
    seed: Annotated[int, options.shared("seed", panel="What to train")] = 0,
    device: options.Device = "auto",
    resume: Annotated[
        str | None,
        options.shared(
            "resume",
            metavar="last|RUN|FILE",
            help="Go on with a run from its newest checkpoint.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Start from these weights (as sample's --model) instead of random ones.",
            autocompletion=complete.models,
        ),
    ] = None,
    weights: Annotated[str | None, options.shared("weights", panel="What to train")] = None,
    offline: options.Offline = False,
    trust_code: options.TrustCode = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on your own data, or as a configuration says.

    --data alone chooses network and settings by the size and the number of the examples. With
    --config the network is that of the configuration, with --init that of the weights.

    Ctrl-C or SIGTERM finishes the step, writes a checkpoint and ends; --resume, or the same
    command into the same --out, goes on from there and ends with the same weights as a run that
    was never stopped.

    Examples:

      ddimx train --data pictures --size 64

      ddimx train --data pictures --init emoji

      ddimx train --resume last

      ddimx prepare emoji && ddimx train --config emoji
    """
    from ..launch import this_process

    if not this_process().is_alone:
        # PyTorch's C++ code warns of what is meant so (weights are looked for in vain), and prints
        # its own stack where another process ends. It reads this when it is imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from ..config_file import load_config
    from ..progress import Progress
    from ..signals import polite_stop
    from ..training.launches import launched
    from ..training.run import train as run
    from ..training.settings import TrainRequest

    sides: Any = size  # width and height, once it is checked
    chosen = load_config(config) if config is not None else None
    roots = [item.partition("=")[2] for item in settings or () if item.startswith("data.root=")]
    named = Path(data or (roots or [config or init or "model"])[-1])
    request = TrainRequest(
        # The run is called as what is trained on.
        label=named.resolve().name if named.is_dir() else named.stem,
        config=chosen,
        overrides=tuple(settings or ()),
        data=data,
        size=sides,
        steps=steps,
        batch_size=batch_size,
        classes=not no_classes,
        strict=strict,
        out=out,
        seed=seed,
        device=device,
        resume=resume,
        init=init,
        init_weights=which(weights),
        offline=offline,
        trust_code=trust_code,
        config_file=str(config),
        command=shlex.join(["ddimx", *sys.argv[1:]]),
    )
    launch = launched()
    if launch.source == "SLURM array" and not quiet:
        print(
            "note: each task of a SLURM job array trains by itself; 'srun ddimx train' makes one "
            "training of the tasks of a job",
            file=sys.stderr,
        )
    with Progress(quiet=quiet or launch.rank > 0) as progress, polite_stop() as stop:
        result = run(request, stop, progress, _open_distance)
        if not result.finished:
            again = shlex.join(["ddimx", "train", "--resume", str(result.folder)])
            end_interrupted(progress, stop, f"stopped at step {result.step}; go on: {again}")
        progress.say(f"{result.folder}: {result.step} steps done")


def _open_distance(
    config: Config, source: Examples, device: torch.device, offline: bool, progress: Progress
) -> Distance:
    """Open what ``training.fid_every`` asks for; evaluation lies above training."""
    from ..evaluation.fid.in_training import open_distance

    return open_distance(config, source, device, offline, progress)
