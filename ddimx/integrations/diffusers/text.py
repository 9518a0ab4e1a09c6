"""Find, check and load text-to-image pipelines."""

from __future__ import annotations

import hashlib
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import ModelCard

from ...device import Precision, choose_device, choose_precision, forbid_tf32
from ...errors import DdimxError, UsageError
from ...files import sha256_file
from ...untrusted.names import all_inside, relative
from ...untrusted.text import read_json
from ...weights.formats.diffusers.folder import draws_from_text, read_index
from ...weights.formats.diffusers.pipeline_code import INDEX, refuse_class_map
from ...weights.locate.hub import is_hub_id, snapshot
from ...weights.locate.registry import NAMES
from ...weights.locate.source import find_model

# Read when transformers is imported; else it prints what its own image processors would need.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@dataclass(frozen=True, eq=False)
class TextModel:
    """A pipeline ready to draw from a text, and where it came from.

    Attributes:
        pipe: a diffusers pipeline whose network is a UNet.
        sha256: over the weights of all its parts.
    """

    pipe: Any
    name: str
    sha256: str
    device: torch.device
    precision: Precision

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one sample's latents, [C, H, W], at the size the model was trained for."""
        settings = self.pipe.unet.config
        size = settings.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return settings.in_channels, height, width

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels a side of one latent covers."""
        return int(getattr(self.pipe, "vae_scale_factor", 1))

    def takes(self, name: str) -> bool:
        """Return whether the pipeline's call has a parameter of this name."""
        return name in inspect.signature(self.pipe.__call__).parameters

    def default(self, name: str, otherwise: float) -> float:
        """Return the default of a numeric parameter of the pipeline's call."""
        if not self.takes(name):
            return otherwise
        return float(inspect.signature(self.pipe.__call__).parameters[name].default)


def load_text_model(
    name: str, *, device: str = "auto", dtype: str = "auto", offline: bool = False
) -> TextModel:
    """Load a text-to-image pipeline from a folder or the Hugging Face hub; safetensors only.

    Raises:
        UsageError: a model that draws without a text, one that brings code of its own, or an
            unknown one.
        DdimxError: a download that failed, or parts that cannot be loaded or sampled.
    """
    folder = _folder(name, offline)
    where = choose_device(device)
    precision = choose_precision(dtype, where)
    if dtype == "fp32":
        forbid_tf32()
    _refuse_code(folder)
    pipe = _loaded(folder)
    _check(pipe, folder)
    return TextModel(pipe.to(where, precision.dtype), name, _sha256(folder), where, precision)


def text_model_sha256(name: str, *, offline: bool = False) -> str:
    """Return the hash that :func:`load_text_model` would state, without loading anything.

    Raises:
        UsageError, DdimxError: where the folder cannot be found, as for :func:`load_text_model`.
    """
    folder = _folder(name, offline)
    _refuse_code(folder)
    return _sha256(folder)


def _folder(name: str, offline: bool) -> Path:
    """Return the local folder of a text-to-image pipeline, downloading it where it has an id."""
    if name in NAMES:
        raise _unconditional(name)
    if not is_hub_id(name):
        path = find_model(name)
        if not (path.is_dir() and draws_from_text(path)):
            raise _unconditional(name)
        return path
    if not draws_from_text(snapshot(name, ["model_index.json"], offline)):
        raise _unconditional(name)
    try:
        folder = diffusers.DiffusionPipeline.download(
            name, use_safetensors=True, local_files_only=offline
        )
    except (OSError, ValueError) as error:
        raise DdimxError(
            f"'{name}' cannot be downloaded from the hub: {_first_line(error)}"
        ) from None
    return Path(folder)


def _unconditional(name: str) -> UsageError:
    return UsageError(
        f"--prompt: model '{name}' draws without a text; give a text-to-image pipeline's folder or "
        "hub id with --model, or omit --prompt"
    )


def _refuse_code(folder: Path) -> None:
    """Look through everything by which a pipeline could have diffusers run code or read elsewhere.

    Raises:
        UsageError: it brings code of its own.
        DdimxError: a part, or a file of weights, outside the folder.
    """
    index = read_index(folder)
    for part in all_inside(folder, index, folder / INDEX):
        for file in sorted(part.glob("*.json")):
            try:
                settings = read_json(file, finite=False)  # -Infinity is a default there
            except (OSError, ValueError) as error:
                raise DdimxError(f"cannot read {file}: {error}") from None
            if isinstance(settings, dict):
                refuse_class_map(settings, file)
                shards = settings.get("weight_map", {})
                for name in shards.values() if isinstance(shards, dict) else [shards]:
                    relative(name, file)  # in the hub's cache each is a link to a place beside
    if getattr(getattr(diffusers, str(index.get("_class_name")), None), "_load_connected_pipes", 0):
        # diffusers loads the pipelines that the folder's README names beside this one.
        for prior in getattr(ModelCard.load(folder / "README.md").data, "prior", None) or []:
            place = Path(str(prior))
            _refuse_code(place if place.is_dir() else snapshot(str(prior), [INDEX], offline=True))


def _loaded(folder: Path) -> Any:
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, ImportError, AttributeError, RuntimeError) as error:
        raise DdimxError(f"{folder}: the pipeline cannot be loaded: {_first_line(error)}") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _check(pipe: Any, folder: Path) -> None:
    kind = type(pipe).__name__
    if type(getattr(pipe, "unet", None)).__name__ != "UNet2DConditionModel":
        raise DdimxError(f"{folder}: the network of {kind} is not a UNet2DConditionModel")
    parameters = inspect.signature(pipe.__call__).parameters
    missing = [name for name in ("prompt", "latents") if name not in parameters]
    if missing:
        raise DdimxError(f"{folder}: {kind} takes no {' and no '.join(missing)}")
    requirements = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
        and name != "prompt"
    ]
    if requirements or "image" in parameters:
        raise DdimxError(
            f"{folder}: {kind} draws from more than a text ({requirements or 'image'})"
        )


def _sha256(folder: Path) -> str:
    """Return a hash over the weights of the pipeline's parts and their settings."""
    parts = all_inside(folder, sorted(read_index(folder)), folder / INDEX)
    files = [p for part in parts for p in sorted(part.rglob("*"))]
    model_files = [p for p in files if p.suffix in {".safetensors", ".json", ".txt"}]
    lines = [f"{p.relative_to(folder).as_posix()} {sha256_file(p)}\n" for p in model_files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
