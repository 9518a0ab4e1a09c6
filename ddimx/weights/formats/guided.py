"""What the tensors of a guided-diffusion or improved-diffusion checkpoint tell, and what not.

Their programs keep the settings on the command line. Image size, heads and noise schedule are in no
tensor, so ``--config`` has to say them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import DdimxError
from ...untrusted.text import shown
from ..architecture import multiples
from ..weight_set import UNUSED_VARIANCE, Facts, SetName
from .families import consistency_model

_REQUIRED = {
    "model.heads or model.head_dim": "num_heads or num_head_channels",
    "diffusion.beta_schedule": "noise_schedule: linear or cosine",
    "diffusion.num_diffusion_timesteps": "diffusion_steps",
}


def named_set(path: Path) -> SetName | None:
    """Return which weights a file holds by its trainer's names: ema_0.9999_500000.pt, model0.pt."""
    if re.fullmatch(r"ema_[0-9.]+_[0-9]+\.\w+", path.name):
        return "ema"
    return "raw" if re.fullmatch(r"model[0-9]+\.\w+", path.name) else None


def read_guided(tensors: Mapping[str, Tensor], label: str) -> Facts:
    """Return the facts about a network in guided-diffusion's names.

    Raises:
        DdimxError: not the tensors of such a UNet, or of one for another task.
    """
    if not any(name.startswith("output_blocks.") for name in tensors):
        raise DdimxError(
            f"{label}: this is a classifier of guided-diffusion, which draws no images"
        )
    if consistency_model(tensors):
        raise DdimxError(
            f"{label}: this is a checkpoint of OpenAI's consistency models; diffusers' "
            "ConsistencyModelPipeline reads it, converted by its "
            "scripts/convert_consistency_to_diffusers.py"
        )
    if any(".encoder_kv." in name or name.startswith("transformer.") for name in tensors):
        raise DdimxError(f"{label}: this is a checkpoint of GLIDE, which needs a text")
    try:
        return _facts(tensors, label)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise DdimxError(f"{label}: not the UNet of guided-diffusion ({error})") from None


def _facts(tensors: Mapping[str, Tensor], label: str) -> Facts:
    first, ch = tensors["input_blocks.0.0.weight"], tensors["time_embed.0.weight"].shape[1]
    channels, leaving = first.shape[1], tensors["out.2.weight"].shape[0]
    outputs = 1 + max(
        int(m[1]) for name in tensors if (m := re.match(r"output_blocks\.([0-9]{1,4})\.", name))
    )
    # A level ends with what doubles the feature map: a convolution or a residual block of its own.
    ends = [
        i
        for i in range(outputs)
        for j in (1, 2)
        if f"output_blocks.{i}.{j}.conv.weight" in tensors
        or f"output_blocks.{i}.{j}.in_layers.0.weight" in tensors
    ]
    if not ends and f"input_blocks.{outputs - 1}.0.in_layers.0.weight" not in tensors:
        raise DdimxError(f"{label}: a network without layers that resample (conv_resample False)")
    per_level = ends[0] + 1 if ends else outputs
    levels = outputs // per_level
    starts = [1 + level * per_level for level in range(levels)]
    widths = [tensors[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in starts]
    if leaving not in (channels, 2 * channels) or (channels, leaving) == (6, 6):
        raise DdimxError(
            f"{label}: {shown(channels)} channels enter and {shown(leaving)} leave: this is an "
            "upsampler of guided-diffusion (SuperResModel), which needs a small image"
        )
    middle = tensors["middle_block.0.emb_layers.1.weight"].shape[0]
    down = f"input_blocks.{per_level}.0"
    levels_with_attention = [
        level for level, i in enumerate(starts) if f"input_blocks.{i}.1.qkv.weight" in tensors
    ]
    rows = len(tensors["label_emb.weight"]) if "label_emb.weight" in tensors else 0
    model: dict[str, Any] = {
        "name": "guided",
        "in_channels": channels,
        "out_ch": channels,
        "ch": ch,
        "ch_mult": [*multiples(widths, ch)],
        "num_res_blocks": per_level - 1,
        "resamp_with_conv": levels == 1 or f"{down}.0.weight" not in tensors,
        "predicts_variance": leaving == 2 * channels,
        "scale_shift": middle == 2 * widths[-1],
        "resblock_updown": levels > 1 and f"{down}.in_layers.0.weight" in tensors,
        "classes": [str(i) for i in range(rows)],
        "null_class": False,
    }
    return Facts(
        form="guided-diffusion checkpoint",
        stated={"model": model, "data": {"channels": channels}},
        attention=tuple(levels_with_attention),
        required=_REQUIRED,
        defaults=("model.new_attention_order", "diffusion.prediction", "diffusion.time_scale"),
        notes=(UNUSED_VARIANCE,) * (leaving == 2 * channels),
    )
