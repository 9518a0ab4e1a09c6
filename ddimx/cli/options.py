"""Options that several verbs share, so that they are spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="NAME|FILE", help="A shipped configuration or a .yml."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: training.batch_size=64."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Folder to write to (default: a new run)."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="64-bit seed of all noise.")]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.")
]
Dtype = Annotated[
    str, typer.Option("--dtype", metavar="auto|fp32|bf16|fp16", help="Precision of the network.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages.")]


def _limit_memory(text: str | None) -> str | None:
    """Raise the bounds on what a file may become, before any is read."""
    from ..untrusted.limits import raise_memory

    if text is not None:
        raise_memory(text)
    return text


LimitMemory = Annotated[
    str | None,
    typer.Option(
        "--limit-memory",
        metavar="SIZE",
        callback=_limit_memory,
        help="What one file may take once it is unpacked (default: 256M, or 8 times its size).",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FILE|DIR|HUB",
        help="emoji (default), furniture, cifar10, bedroom, cat, church, celeba; a file or folder "
        "of weights in any known format; or a hub id.",
    ),
]
ModelConfig = Annotated[
    str | None,
    typer.Option(
        "--config", "-c", metavar="NAME|FILE", help="For weights that come without their settings."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ema|raw",
        help="Averaged or last weights, where there are both (default: ema).",
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Refuse to download anything.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import, that is run, the network's class that a file names as package.module:Class.",
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Number of steps (default: the model's, else 50).")
]
Count = Annotated[int | None, typer.Option("--count", "-n", help="How many samples (default: 16).")]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", help="Classifier-free guidance; 1 is off (default: the model's, else 1)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Category = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Class to draw (default: none, the pixels say enough)."),
]
StartIndex = Annotated[
    int,
    typer.Option(min=0, help="First sample index: --start-index 7 -n 1 makes sample 7 again."),
]
Solver = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Update rule (default: the model's, else ddim)."),
]
Eta = Annotated[
    float | None,
    typer.Option(help="ddim's noise: 0 none, 1 as DDPM (default: the model's, else 0)."),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        metavar="ddim|leading|linspace|trailing|quad",
        help="Which timesteps to visit (default: the model's, else ddim).",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another run in --out.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Samples computed together; does not change the noise.")
]
Invariant = Annotated[
    bool,
    typer.Option("--invariant", help="Bit-identical files whatever the batch size; slower."),
]
Resize = Annotated[
    bool, typer.Option("--resize", help="Cut images to the model's proportions and scale them.")
]
