"""Parameter names of diffusers' UNet2DModel, from and to ours.

The map is one to one (328 names for the CIFAR-10 shape). Attention weights are matrices there and
1x1 convolutions here, which is the same numbers in another shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ....errors import DdimxError

# Attention before diffusers 0.15 and since.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)$")
_OUTER = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
    "norm_out": "conv_norm_out",
}
_PARTS = {
    "block": "resnets",
    "attn": "attentions",
    "downsample": "downsamplers.0",
    "upsample": "upsamplers.0",
}
_RESNET = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def their_name(name: str, levels: int) -> str:
    """Return diffusers' name of one of our parameters, in a UNet of ``levels`` resolutions."""
    for ours, theirs in _OUTER.items():
        if name.startswith(ours + "."):
            return theirs + _inner(theirs, name[len(ours) :])
    match = re.fullmatch(
        r"(down|up)\.(\d+)\.(?:(block|attn)\.(\d+)|(downsample|upsample))(\..+)", name
    )
    if match is None:
        return name  # conv_in, conv_out, class_embedding
    side, level, part, place, resample, rest = match.groups()
    place_there = int(level) if side == "down" else levels - 1 - int(level)
    kind = _PARTS[resample] if resample else f"{_PARTS[part]}.{place}"
    return f"{side}_blocks.{place_there}.{kind}" + _inner(kind, rest)


def to_theirs(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Rename a state dict of ours; attention weights become [C, C]."""
    renamed = {}
    for name, value in tensors.items():
        theirs = their_name(name, levels)
        matrix = ".attentions." in theirs and value.dim() == 4
        renamed[theirs] = value.flatten(1) if matrix else value
    return renamed


def to_ours(
    tensors: Mapping[str, Tensor], names: Iterable[str], levels: int, label: str
) -> dict[str, Tensor]:
    """Rename diffusers' state dict, with the present or the old names of attention.

    Args:
        names: our parameters' names; what has none of theirs keeps its own name, so that loading
            names it as what does not belong.

    Raises:
        DdimxError: an attention weight under its old and its new name.
    """
    own = {their_name(name, levels): name for name in names}
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        present = _present(name)
        ours = own.get(present, present)
        if ours in renamed:
            raise DdimxError(f"{label}: holds {present} under its old name too")
        square = ".attentions." in present and value.dim() == 2
        renamed[ours] = value[:, :, None, None] if square else value
    return renamed


def _present(name: str) -> str:
    """Return the present name of what may bear its old one."""
    return _OLD.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.{m[3]}", name)


def _inner(kind: str, rest: str) -> str:
    """Rename what follows the block's own name: ``.q.weight``, ``.nin_shortcut.bias``."""
    resnet = "resnets" in kind or "samplers" in kind
    table = _RESNET if resnet else _ATTENTION if "attentions" in kind else {}
    _, part, *rest_of_name = rest.split(".")
    return ".".join(["", table.get(part, part), *rest_of_name])
