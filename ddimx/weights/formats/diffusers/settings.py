"""diffusers' settings of UNet2DModel and its schedulers, checked and translated both ways.

A setting that is absent has diffusers' default, and most defaults are not this network's. A wrong
value crashes nothing: with downsample_padding 1 the output of the CIFAR-10 UNet is off by 0.7, with
flip_sin_to_cos by 0.23. So every setting is compared, and refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....config import Config
from ....errors import DdimxError, UsageError
from ....untrusted.text import shortened, shown
from ...architecture import Architecture, from_config

# UNet2DModel's parameters and their defaults (diffusers 0.42.1).
UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# What this network is; "swish" is another name of the same function.
_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (1,),
    "flip_sin_to_cos": (False,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-6,),
    "resnet_time_scale_shift": ("default",),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
# What diffusers' EMAModel adds to the settings of the model that it averages.
_OF_EMA = {"decay", "inv_gamma", "min_decay", "optimization_step", "power"}
_OF_EMA |= {"update_after_step", "use_ema_warmup"}
_SHOWN = 20  # problems of one file
_DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "AttnUpBlock2D": True}


def read_unet(settings: Mapping[str, Any], label: str) -> tuple[Architecture, dict[str, Any]]:
    """Translate UNet2DModel's settings into the architecture and other keys of ``model``/``data``.

    Returns:
        The architecture, and ``image_size``, ``norm_groups``, ``dropout``.

    Raises:
        DdimxError: settings that this network does not have, each by name.
    """
    values = {**UNET_DEFAULTS, **settings}
    problems = _fixed_problems(values) + _strange(settings)
    problems += _type_problems(values) or _shape_problems(values)
    if problems:
        lines = "\n".join(f"  {line}" for line in problems[:_SHOWN])
        raise DdimxError(f"{label}: a UNet2DModel that this network cannot represent\n{lines}")
    widths = values["block_out_channels"]
    size = values["sample_size"]
    architecture = Architecture(
        in_channels=values["in_channels"],
        out_ch=values["out_channels"],
        ch=widths[0],
        ch_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=values["layers_per_block"],
        attention=frozenset(_attending(values["down_block_types"], _DOWN)),
        resamp_with_conv=True,
    )
    sides = (size,) if isinstance(size, int) else tuple(size)
    return architecture, {
        "image_size": sides if len(set(sides)) > 1 else sides[0],
        "norm_groups": values["norm_num_groups"],
        "dropout": values["dropout"],
    }


def write_unet(config: Config, label: str) -> dict[str, Any]:
    """Return UNet2DModel's settings for a model of ours.

    Raises:
        UsageError: settings that UNet2DModel does not have, each by name.
    """
    model = config.model
    refuse(
        label,
        {
            "model.name": model.name != "unet",
            "model.classes": bool(model.classes),
            "model.patch_size": model.patch_size != 1,
            "model.resamp_with_conv": not model.resamp_with_conv and len(model.ch_mult) > 1,
            "model.ch_mult": model.ch_mult[0] != 1,
            "data.rescaled": not config.data.rescaled,
        },
        config,
        "diffusers' UNet2DModel",
    )
    attention = from_config(config).attention
    levels = range(len(model.ch_mult))
    down = ["AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels]
    up = ["AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)]
    return {
        "_class_name": "UNet2DModel",
        **UNET_DEFAULTS,
        **{key: allowed[0] for key, allowed in _FIXED.items()},
        "sample_size": config.data.image_size,
        "in_channels": model.in_channels,
        "out_channels": model.out_ch,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [model.ch * m for m in model.ch_mult],
        "layers_per_block": model.num_res_blocks,
        "dropout": model.dropout,
        "attention_head_dim": None,
        "norm_num_groups": model.norm_groups,
    }


def refuse(label: str, wrong: Mapping[str, bool], config: Config, target: str) -> None:
    """Raise UsageError for the keys that are wrong, with their values."""
    tree = config.model_dump()
    keys = [key for key, bad in wrong.items() if bad]
    values = [f"{key} {tree[key.split('.')[0]][key.split('.')[1]]}" for key in keys]
    if values:
        raise UsageError(f"{label}: {target} has no {'; no '.join(values)}")


def _fixed_problems(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {shown(values[key])}; this network has {allowed[0]!r}"
        for key, allowed in _FIXED.items()
        if values[key] not in allowed
    ]


def _strange(settings: Mapping[str, Any]) -> list[str]:
    """Settings of a diffusers newer than this table, unless they are off."""
    keys = UNET_DEFAULTS.keys() | _OF_EMA
    return [
        f"{shortened(key)} is {shown(value)}; a setting that is not known here"
        for key, value in settings.items()
        if key not in keys and not key.startswith("_") and value not in (None, False)
    ]


def _type_problems(values: Mapping[str, Any]) -> list[str]:
    """Settings of which a number or a list is needed, so that what follows can count on it."""
    problems = [
        f"{key} is {shown(values[key])}; a positive whole number is needed"
        for key in ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
        if not _counts(values[key])
    ]
    for key, kind in (
        ("block_out_channels", _counts),
        ("down_block_types", lambda item: isinstance(item, str)),
        ("up_block_types", lambda item: isinstance(item, str)),
    ):
        items = values[key]
        if not isinstance(items, list | tuple) or not items or not all(map(kind, items)):
            problems.append(f"{key} is {shown(items)}; a list is needed")
    size = values["sample_size"]
    sizes = size if isinstance(size, list | tuple) else [size]
    if len(sizes) not in (1, 2) or not all(map(_counts, sizes)):
        problems.append(f"sample_size is {shown(size)}; one number, or height and width, is needed")
    return problems


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shape_problems(values: Mapping[str, Any]) -> list[str]:
    widths, down, up = (
        list(values[key]) for key in ("block_out_channels", "down_block_types", "up_block_types")
    )
    if not len(widths) == len(down) == len(up):
        return ["block_out_channels, down_block_types and up_block_types differ in length"]
    problems = []
    if values["in_channels"] != values["out_channels"]:
        problems.append(
            f"out_channels is {values['out_channels']} and in_channels {values['in_channels']};"
            " this network predicts as many as it sees"
        )
    if any(width % widths[0] for width in widths):
        problems.append(
            f"block_out_channels are {shown(widths)}; all must be multiples of the first"
        )
    strange = [kind for kind in down if kind not in _DOWN] + [k for k in up if k not in _UP]
    if strange:
        problems.append(f"block types {shown(strange)}; known are {[*_DOWN, *_UP]!r}")
    elif _attending(down, _DOWN) != _attending(up[::-1], _UP):
        problems.append("up_block_types do not attend where down_block_types do")
    return problems + _width_problems(values, widths, down)


def _width_problems(values: Mapping[str, Any], widths: list[int], down: list[str]) -> list[str]:
    problems = []
    head, attending = values["attention_head_dim"], {widths[-1]}
    attending |= {width for width, kind in zip(widths, down, strict=True) if _DOWN.get(kind)}
    if head is not None and any(width != head for width in attending):
        problems.append(
            f"attention_head_dim is {shown(head)} (absent means 8); this network has one head, None"
        )
    if values["time_embedding_dim"] not in (None, 4 * widths[0]):
        problems.append(
            f"time_embedding_dim is {shown(values['time_embedding_dim'])}; this network has "
            f"{4 * widths[0]}"
        )
    groups = values["norm_num_groups"]
    if any(width % groups for width in widths):
        problems.append(
            f"norm_num_groups is {shown(groups)}; it must divide block_out_channels {shown(widths)}"
        )
    if values["attn_norm_num_groups"] not in (None, groups):
        problems.append(
            f"attn_norm_num_groups is {shown(values['attn_norm_num_groups'])}; this network has "
            f"norm_num_groups, {groups!r}"
        )
    return problems


def _attending(kinds: list[str], table: Mapping[str, bool]) -> list[int]:
    return [i for i, kind in enumerate(kinds) if table.get(kind)]
