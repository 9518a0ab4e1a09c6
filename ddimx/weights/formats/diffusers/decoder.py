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
from ....untrusted.text import read_object, shortened, shown
from ..native import read_shapes
from .pipeline_code import INDEX, refuse_class_map
from .settings import is_number

_PARTS = ("vqvae", "vae", "vqgan", "movq", "first_stage")
_CLASSES = ("VQModel", "AutoencoderKL", "AutoencoderTiny")
_SIDE, _MOST_LARGER = 8, 64  # pixels of a trial; how many a latent may become, one way
# What diffusers raises on settings and files that do not fit, or are damaged.
_UNFIT = (
    *(OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError),
    *(AssertionError, ArithmeticError, ImportError, MemoryError),
)


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


def _check_size(kind: Any, settings: Mapping[str, Any], folder: Path, channels: int) -> None:
    """Raise ValueError if settings make more of a network than the folder's tensors fill.

    Or if it takes latents of other than ``channels``, or makes no picture of them.

    Names are left to diffusers, which still reads those of old versions.
    """
    files = [file for file in decoder_files(folder) if file.suffix == ".safetensors"]
    sizes = [value.numel() for file in files for value in read_shapes(file).values()]
    for key in ("layers_per_block", "num_encoder_blocks", "num_decoder_blocks"):
        counts = settings.get(key, 0)
        for count in counts if isinstance(counts, list | tuple) else [counts]:
            if not isinstance(count, int) or count > len(sizes):
                raise ValueError(f"{key} is {shown(counts)}, in a file of {len(sizes)} tensors")
    with torch.device("meta"):  # which takes no memory
        network = kind.from_config(dict(settings))
    total = sum(value.numel() for value in network.state_dict().values())
    if total != sum(sizes):
        raise ValueError(f"its settings are of {total} numbers, its files hold {sum(sizes)}")
    if network.config.latent_channels != channels:
        own = network.config.latent_channels
        raise ValueError(f"latent_channels is {shown(own)}, the network draws {channels}")
    with torch.no_grad():  # on tensors without data, what decoding will do
        sample = network.decode(torch.empty(1, channels, _SIDE, _SIDE, device="meta")).sample
    if not 1 <= sample.shape[-1] / _SIDE <= _MOST_LARGER:
        raise ValueError(f"{_SIDE} latents become {sample.shape[-1]} pixels")


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
            _check_size(getattr(diffusers, kind), settings, folder, channels)
            model = getattr(diffusers, kind).from_pretrained(
                folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except _UNFIT as error:
            reason = shortened(str(error).strip().partition("\n")[0])
            raise DdimxError(f"{folder}: the decoder cannot be loaded: {reason}") from None
        self._model = model.to(device, torch.float32).eval().requires_grad_(False)
        # As the pipelines have it: latents are kept near unit variance.
        scale, shift = model.config.scaling_factor, model.config.get("shift_factor") or 0.0
        if not (is_number(scale) and is_number(shift) and scale > 0):
            raise DdimxError(f"{file}: scaling_factor is {shown(scale)}, shift {shown(shift)}")
        self._scale, self._shift = float(scale), float(shift)
        self._device = device

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Return pictures [B, 3, H', W'] of latents float32 [B, C, H, W]."""
        scaled = latents.to(self._device) / self._scale + self._shift
        pixels: Tensor = self._model.decode(scaled).sample
        return pixels.to("cpu", torch.float32)
