"""``ddimx train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import complete, options
from .common import end_interrupted, which


def train(
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
    """Train a model.

    Ctrl-C or SIGTERM finishes the step, writes a checkpoint and ends; --resume, or the same
    command into the same --out, goes on from there and ends with the same weights as a run that
    was never stopped.

    Examples:

      ddimx prepare emoji && ddimx train --config emoji

      ddimx train --resume last

      ddimx train -c emoji --init my.safetensors --set optim.lr=1e-4
    """
    from ..config_file import load_config
    from ..progress import Progress
    from ..signals import polite_stop
    from ..training.run import TrainRequest
    from ..training.run import train as run

    chosen = load_config(config) if config is not None else None
    label = Path(config).stem if config is not None else "model"
    request = TrainRequest(
        label=label,
        config=chosen,
        overrides=tuple(settings or ()),
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
    with Progress(quiet=quiet) as progress, polite_stop() as stop:
        result = run(request, stop, progress)
        if not result.finished:
            again = shlex.join(["ddimx", "train", "--resume", str(result.folder)])
            end_interrupted(progress, stop, f"stopped at step {result.step}; go on: {again}")
        progress.say(f"{result.folder}: {result.step} steps done")
