"""``ddimx convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A checkpoint, model or run.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The .safetensors to write.")],
    dtype: Annotated[
        str, typer.Option(metavar="fp32|fp16|bf16", help="Precision of the stored weights.")
    ] = "fp32",
    weights: Annotated[
        str, typer.Option(metavar="ema|raw", help="Which weights of a checkpoint.")
    ] = "ema",
    note: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=TEXT", help="Add to the header: licence='OFL 1.1'."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Sampling defaults: sampling.eta=1."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn a training checkpoint into one small model file that describes itself.

    Examples:

      ddimx convert runs/0001-train-emoji emoji.safetensors --dtype fp16
    """
    from ..progress import Progress
    from ..weights.publish import publish
    from .parse import one_of

    one_of("dtype", dtype, ("fp32", "fp16", "bf16"))
    one_of("weights", weights, ("ema", "raw"))
    with Progress(quiet=quiet) as progress:
        size = publish(
            source,
            target,
            dtype=dtype,
            weights="raw" if weights == "raw" else "ema",
            notes=note or [],
            settings=settings or [],
            overwrite=overwrite,
        )
        progress.say(f"{target}: {size / 1e6:.1f} MB, {weights} weights in {dtype}")
