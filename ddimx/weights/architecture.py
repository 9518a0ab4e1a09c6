"""What a UNet's tensors tell of its configuration, and what they cannot tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import MOST_LEVELS, Config
from ..errors import DdimxError
from ..untrusted.text import shortened, shown

if TYPE_CHECKING:
    from torch import Tensor

_FIRST, _LAST, _CLASSES = "conv_in.weight", "conv_out.weight", "class_embedding.weight"
_KEYS = ("in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks", "resamp_with_conv")


@dataclass(frozen=True)
class Architecture:
    """The part of ``model`` that shapes decide; ``attention`` holds levels, 0 the finest.

    ``attention_up`` are the levels of the way up, ``class_rows`` the rows of the class embedding.
    Not told by any tensor: image size, groups of the norms, dropout, and the noise schedule.
    """

    in_channels: int
    out_ch: int
    ch: int
    ch_mult: tuple[int | float, ...]
    num_res_blocks: int
    attention: frozenset[int]
    attention_up: frozenset[int]
    resamp_with_conv: bool
    class_rows: int = 0

    def keys(self) -> dict[str, Any]:
        """Return the values under their names in a configuration's ``model`` section."""
        return {key: getattr(self, key) for key in _KEYS}

    def attended(self, image_size: int | tuple[int, int]) -> dict[str, tuple[int, ...] | None]:
        """Return the attention's levels as feature map sizes of images of ``image_size``.

        They bear the names of a configuration's keys. Of images that are not square, the sizes are
        the longer sides.
        """
        longer = image_size if isinstance(image_size, int) else max(image_size)
        down, up = (
            tuple(longer // 2**level for level in sorted(levels))
            for levels in (self.attention, self.attention_up)
        )
        return {"attn_resolutions": down, "attn_resolutions_up": None if up == down else up}

    def __str__(self) -> str:
        text = ", ".join(f"{key} {value}" for key, value in self.keys().items())
        text += f", attention on levels {sorted(self.attention)}"
        if self.attention_up != self.attention:
            text += f" and on the way up {sorted(self.attention_up)}"
        return text + (f", {self.class_rows} rows of classes" if self.class_rows else "")


def from_tensors(tensors: Mapping[str, Tensor], label: str) -> Architecture:
    """Read the architecture off a state dict in ermongroup/ddim's names.

    Raises:
        DdimxError: not the tensors of such a UNet.
    """
    blocks = _numbered(tensors, r"down\.([0-9]{1,4})\.block\.0\.conv1\.weight")
    levels = len(blocks)
    shapes = [tuple(tensors[n].shape) for n in (_FIRST, _LAST, *blocks.values()) if n in tensors]
    if not levels or len(shapes) != levels + 2:
        raise DdimxError(f"{label}: not the UNet of ermongroup/ddim; {_outline(tensors)}")
    if any(len(shape) != 4 or 0 in shape for shape in shapes):
        raise DdimxError(f"{label}: convolutions of shape {shown(shapes)}; not a UNet's")
    first, last, widths = tensors[_FIRST], tensors[_LAST], [shape[0] for shape in shapes[2:]]
    ch = first.shape[0]
    if any(width % ch for width in widths):
        raise DdimxError(f"{label}: widths {shown(widths)} are not multiples of ch {ch}")
    architecture = Architecture(
        in_channels=first.shape[1],
        out_ch=last.shape[0],
        ch=ch,
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=len(_numbered(tensors, r"down\.0\.block\.([0-9]{1,4})\.conv1\.weight")),
        attention=frozenset(i for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors),
        attention_up=frozenset(i for i in range(levels) if f"up.{i}.attn.0.q.weight" in tensors),
        resamp_with_conv=levels == 1 or "down.0.downsample.conv.weight" in tensors,
        class_rows=len(tensors[_CLASSES]) if _CLASSES in tensors and tensors[_CLASSES].dim() else 0,
    )
    check_counts(architecture, tensors, label)
    return architecture


def check_counts(
    architecture: Architecture,
    tensors: Mapping[str, Tensor],
    label: str,
    patch_size: int = 1,
    time_dim: int | None = None,
) -> None:
    """Refuse settings that ask for more, or wider, layers than these tensors could fill.

    What is left costs little to build; whether each tensor fits is for :func:`load_into` to say.
    ``patch_size`` and ``time_dim`` are the settings of these names.

    Raises:
        DdimxError: such settings, by name.
    """
    a, count = architecture, len(tensors)
    widest = max((n for value in tensors.values() for n in value.shape), default=0)
    levels = len(a.ch_mult)
    # Every block, of which the way up has one more per level, has five layers of two tensors.
    if levels > MOST_LEVELS or levels * (2 * a.num_res_blocks + 1) * 10 > count:
        raise DdimxError(
            f"{label}: {shown(a.num_res_blocks)} blocks on each of {levels} levels, "
            f"in a file of {count} tensors"
        )
    widths = (
        *(round(a.ch * max(a.ch_mult)), a.in_channels * patch_size**2, a.out_ch * patch_size**2),
        time_dim or 0,
    )
    if max(widths) > widest:
        raise DdimxError(
            f"{label}: {shown(max(widths))} channels, in a file whose tensors have at most {widest}"
        )


def multiples(widths: Sequence[int], ch: int) -> tuple[int | float, ...]:
    """Return ``model.ch_mult`` of levels so wide, whole numbers where they are such."""
    return tuple(width // ch if width % ch == 0 else width / ch for width in widths)


def from_config(config: Config) -> Architecture:
    """Return the architecture that a configuration asks for."""
    model = config.model
    down, up = (
        frozenset(i for i, size in enumerate(config.resolutions) if size in sizes)
        for sizes in (
            model.attn_resolutions,
            model.attn_resolutions
            if model.attn_resolutions_up is None
            else model.attn_resolutions_up,
        )
    )
    values = {key: getattr(model, key) for key in _KEYS}
    if len(model.ch_mult) == 1:
        values["resamp_with_conv"] = True  # nothing is resampled: no tensor can tell
    rows = len(model.classes) + model.null_class if model.classes else 0
    return Architecture(**values, attention=down, attention_up=up, class_rows=rows)


def _outline(tensors: Mapping[str, Tensor]) -> str:
    """Say whose tensors these may be."""
    if any(name.startswith("down_blocks.") for name in tensors):
        return "its names are diffusers': give the folder that holds it and its config.json"
    some = ", ".join(map(shortened, sorted(tensors)[:3])) or "none at all"
    return f"its tensors begin {some}"


def _numbered(names: Iterable[str], pattern: str) -> dict[int, str]:
    """Return the names that fit, by the number in the pattern's group: 0, 1, ... without a gap."""
    names_by_number = {int(m[1]): name for name in names if (m := re.fullmatch(pattern, name))}
    return {i: names_by_number[i] for i in range(len(names_by_number)) if i in names_by_number}
