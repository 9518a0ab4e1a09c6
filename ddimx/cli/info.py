"""``ddimx info``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options
from .output import show


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Describe this: a model as --model of sample names it, or a file or folder of "
            "octree tokens.",
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
    of a token file (.npz, .npy) its depth, cells, connectivity and a small picture.

    Examples:

      ddimx info

      ddimx info ckpt.pth

      ddimx info chair.npz

      ddimx info --models --json
    """
    from .info_octree import octree_info

    others = {"--config": config, "--weights": weights, "--models": models or None}
    if model is not None and octree_info(model, others, json_output):
        return
    show(_everything(models) if model is None else _one(model, config, weights), json_output)


def _everything(models: bool) -> dict[str, Any]:
    from ..about import about, about_models
    from ..weights.locate.registry import about_published

    return {"models": about_models(), "published": about_published()} if models else about()


def _one(model: str, config: str | None, weights: str | None) -> dict[str, Any]:
    from ..config_file import load_config
    from ..weights.describe import describe
    from ..weights.locate.source import Source
    from .common import which

    own = None if config is None else load_config(config)
    return describe(Source(model, which(weights), own, offline=True))
