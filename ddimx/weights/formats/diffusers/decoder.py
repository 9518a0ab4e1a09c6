"""The part of a pipeline that turns latents into pictures, loaded and run by diffusers itself.

A pipeline such as LDMPipeline (``model_index.json``) has a VQ model or a VAE beside its UNet, whose
outputs are latents: written as they are, they would be no pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import DdimxError, optional_module
from ....untrusted.names import all_inside, relative
from ....untrusted.text import read_object, shown
from .pipeline_code import INDEX, refuse_class_map

_PARTS = ("vqvae", "vae", "vqgan", "movq", "first_stage")
_CLASSES = ("VQModel", "AutoencoderKL", "AutoencoderTiny")


def decoder_of(path: Path, index: Mapping[str, Any]) -> Path | None:
    """Return the folder of a pipeline's decoder, None of a pipeline that draws pixels.

    Args:
        path: the pipeline's folder.
        index: what its ``model_index.json`` says.

    Raises:
        DdimxError: a decoder of a kind that is not known, or outside the folder.
    """
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list) or value[:1] in ([], [None]):
            continue
        kind = str(value[-1])
        if part in _PARTS or kind in _CLASSES or kind.startswith(("Autoencoder", "VQ")):
            if kind not in _CLASSES:
                raise DdimxError(
                    f"{path}: draws latents, which {shown(kind)} turns into pictures; known are "
                    f"{', '.join(_CLASSES)}"
                )
            return all_inside(path, [part], path / INDEX)[0]
    return None


def decoder_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that a decoder consists of, by name."""
    return tuple(sorted(p for p in folder.glob("*") if p.suffix in (".json", ".safetensors")))


class Decoder:
    """A decoder in float32 on a device; it returns pictures on the CPU."""

    def __init__(self, folder: Path, channels: int, device: torch.device) -> None:
        """Load a decoder's folder, for latents of so many channels.

        Raises:
            MissingPackage: diffusers is not installed.
            UsageError: a part that brings code.
            DdimxError: a part that cannot be loaded, or is for other latents.
        """
        diffusers = optional_module("diffusers", "models that draw latents", "hub")
        file = folder / "config.json"
        try:
            settings = read_object(file, finite=False)
            for index in folder.glob("*.index*.json"):
                places = read_object(index).get("weight_map")
                for name in places.values() if isinstance(places, dict) else [places]:
                    relative(name, index)
        except (OSError, ValueError) as error:
            raise DdimxError(f"cannot read {file}: {error}") from None
        refuse_class_map(settings, file)
        kind = settings.get("_class_name")
        if kind not in _CLASSES:
            raise DdimxError(f"{file}: _class_name is {shown(kind)}; known are {_CLASSES}")
        self.name = f"{folder.name} ({kind})"
        diffusers.utils.logging.set_verbosity_error()
        try:
            model = getattr(diffusers, kind).from_pretrained(
                folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DdimxError(f"{folder}: the decoder cannot be loaded: {reason}") from None
        if model.config.latent_channels != channels:
            raise DdimxError(
                f"{file}: latent_channels is {model.config.latent_channels}, the network draws "
                f"{channels}"
            )
        self._model = model.to(device, torch.float32).eval().requires_grad_(False)
        # As the pipelines have it: latents are kept near unit variance.
        self._scale = float(settings.get("scaling_factor") or model.config.scaling_factor)
        self._shift = float(model.config.get("shift_factor") or 0.0)
        self._device = device

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Return pictures [B, 3, H', W'] of latents float32 [B, C, H, W]."""
        scaled = latents.to(self._device) / self._scale + self._shift
        pixels: Tensor = self._model.decode(scaled).sample
        return pixels.to("cpu", torch.float32)
