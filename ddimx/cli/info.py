"""``ddimx info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DdimxError, UsageError
from . import options
from .output import show

PICTURES = (".png", ".webp")
MOST = 1000  # characters of one text that are shown


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Describe this: a model as --model of sample names it, or a file or folder of "
            "octree tokens, or a picture that ddimx drew.",
        ),
    ] = None,
    models: Annotated[
        bool, typer.Option("--models", help="Only the models and how they were trained.")
    ] = False,
    config: options.ModelConfig = None,
    weights: options.Weights = None,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
) -> None:
    """Print versions, devices, the kernels that run here and why, cache and models.

    With MODEL: the format, weights, parameters, history and configuration of that file or folder;
    of a token file (.npz, .npy) its depth, cells, connectivity and a small picture; of a picture
    (.png, .webp) that ddimx drew the model, seed, index, class and options.

    Examples:

      ddimx info

      ddimx info ckpt.pth

      ddimx info chair.npz

      ddimx info runs/0001-sample-emoji/000007.png

      ddimx info --models --json
    """
    from .info_octree import octree_info, refuse

    others = {"--config": config, "--weights": weights, "--models": models or None}
    if model is not None and octree_info(model, others, json_output):
        return
    if model is not None and Path(model).suffix.lower() in PICTURES:
        refuse(others, f"{model} is a picture")
        show(_picture(Path(model)), json_output)
        return
    show(_everything(models) if model is None else _one(model, config, weights), json_output)


def _everything(models: bool) -> dict[str, Any]:
    if models:
        from ..weights.describe import about_models
        from ..weights.locate.registry import about_published

        return {"models": about_models(), "published": about_published()}
    from ..about import about

    return about()


def _picture(path: Path) -> dict[str, Any]:
    from ..runs.pictures import facts_of
    from ..untrusted.pictures import open_picture
    from ..untrusted.text import shortened

    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with open_picture(path) as image:
            size, facts = f"{image.width}x{image.height} {image.format}", facts_of(image)
    except ValueError as error:
        raise DdimxError(f"{path}: not a readable picture ({error})") from None
    if not facts:
        raise DdimxError(f"{path}: {size}, and it does not say where it comes from")
    values = {"size": size}
    for words in facts.items():  # from anybody: nothing that a terminal takes for a command
        name, text = ("".join(c if c.isprintable() else "?" for c in word) for word in words)
        values[shortened(name)] = shortened(text, MOST)
    return {str(path): values}


def _one(model: str, config: str | None, weights: str | None) -> dict[str, Any]:
    from ..config_file import load_config
    from ..weights.describe import describe
    from ..weights.locate.source import Source
    from .common import which

    own = None if config is None else load_config(config)
    return describe(Source(model, which(weights), own, offline=True))
