"""What a UNet's tensors tell of its configuration, and what they cannot tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..config import Config
from ..errors import DdimxError

_KEYS = ("in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "resamp_with_conv")


@dataclass(frozen=True)
class Architecture:
    """The part of ``model`` that shapes decide; ``attention`` holds levels, 0 the finest.

    Not told by any tensor: image size, groups of the norms, dropout, and the noise schedule.
    """

    in_channels: int
    out_ch: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attention: frozenset[int]
    resamp_with_conv: bool

    def keys(self) -> dict[str, Any]:
        """Return the values under their names in a configuration's ``model`` section."""
        return {key: getattr(self, key) for key in _KEYS}

    def attn_resolutions(self, image_size: int) -> tuple[int, ...]:
        """Return the attention's levels as feature map sizes of images of ``image_size``."""
        return tuple(image_size // 2**level for level in sorted(self.attention))

    def __str__(self) -> str:
        told = ", ".join(f"{key} {value}" for key, value in self.keys().items())
        return f"{told}, attention on levels {sorted(self.attention)}"


def from_tensors(tensors: Mapping[str, Tensor], label: str) -> Architecture:
    """Read the architecture off a state dict in ermongroup/ddim's names.

    Raises:
        DdimxError: not the tensors of such a UNet.
    """
    first = tensors.get("conv_in.weight")
    last = tensors.get("conv_out.weight")
    levels = _count(tensors, r"down\.(\d+)\.block\.0\.conv1\.weight")
    if first is None or last is None or first.dim() != 4 or not levels:
        raise DdimxError(f"{label}: not the UNet of ermongroup/ddim; {_outline(tensors)}")
    ch = first.shape[0]
    widths = [tensors[f"down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    if any(width % ch for width in widths):
        raise DdimxError(f"{label}: widths {widths} are no multiples of ch {ch}")
    return Architecture(
        in_channels=first.shape[1],
        out_ch=last.shape[0],
        ch=ch,
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=_count(tensors, r"down\.0\.block\.(\d+)\.conv1\.weight"),
        attention=frozenset(i for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors),
        resamp_with_conv=levels == 1 or "down.0.downsample.conv.weight" in tensors,
    )


def from_config(config: Config) -> Architecture:
    """Return the architecture that a configuration asks for."""
    model = config.model
    wanted = set(model.attn_resolutions)
    levels = frozenset(i for i, size in enumerate(config.resolutions) if size in wanted)
    values = {key: getattr(model, key) for key in _KEYS}
    if len(model.ch_mult) == 1:
        values["resamp_with_conv"] = True  # nothing is resampled: no tensor can tell
    return Architecture(**values, attention=levels)


def _outline(tensors: Mapping[str, Tensor]) -> str:
    """Say whose tensors these may be."""
    if any(name.startswith("down_blocks.") for name in tensors):
        return "its names are diffusers': give the folder that holds it and its config.json"
    some = ", ".join(sorted(tensors)[:3]) or "none at all"
    return f"its tensors begin {some}"


def _count(names: Iterable[str], pattern: str) -> int:
    """Return one more than the largest number that the pattern's group takes, 0 without any."""
    found = [int(m[1]) for name in names if (m := re.fullmatch(pattern, name))]
    return max(found) + 1 if found else 0
