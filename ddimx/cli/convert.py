"""``ddimx convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="As --model of sample: a file, folder, run, name.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The file or folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="native|diffusers|ddim",
            help="One .safetensors (native), a pipeline's folder (diffusers), or a .pth for "
            "ermongroup/ddim with its .yml (ddim).",
        ),
    ] = "native",
    dtype: Annotated[
        str, typer.Option(metavar="fp32|fp16|bf16", help="Precision of the stored weights.")
    ] = "fp32",
    weights: options.Weights = None,
    config: options.ModelConfig = None,
    note: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=TEXT", help="Add to the history: licence='OFL 1.1'."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Sampling defaults: sampling.eta=1."),
    ] = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace DST if it is another model.")
    ] = False,
    offline: options.Offline = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Turn weights of any known format into one of three; the numbers stay the same, bit by bit.

    Examples:

      ddimx convert runs/0001-train-emoji emoji.safetensors --dtype fp16

      ddimx convert ckpt.pth pipeline --to diffusers

      ddimx convert pipeline ckpt.pth --to ddim
    """
    from ..config_file import load_config
    from ..progress import Progress
    from ..weights.locate.source import Source
    from ..weights.publish import FORMS, publish, size_of
    from .common import one_of, which

    one_of("dtype", dtype, ("fp32", "fp16", "bf16"))
    one_of("form", to, FORMS)
    own = None if config is None else load_config(config)
    with Progress(quiet=quiet) as progress:
        model = publish(
            Source(source, which(weights), own, offline),
            target,
            form=next(form for form in FORMS if form == to),
            dtype=dtype,
            notes=note or [],
            settings=settings or [],
            overwrite=overwrite,
            progress=progress,
        )
        for remark in model.notes:
            progress.say(f"note: {remark}")
        both = to == "ddim" and weights is None and len(model.sets) > 1
        kind = "ema and raw" if both else model.which
        progress.say(f"{target}: {size_of(target) / 1e6:.1f} MB, {kind} weights in {dtype}")
