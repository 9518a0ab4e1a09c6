"""diffusers' settings of UNet2DModel, checked and translated both ways.

A setting that is absent has diffusers' default, and most defaults are not the original network's. A
wrong value crashes nothing: with downsample_padding 1 the output of the CIFAR-10 UNet is off by
0.7, with flip_sin_to_cos by 0.23. So every setting is translated, or refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ....config import Config
from ....errors import DdimxError, UsageError
from ....untrusted.text import shortened, shown
from ...architecture import Architecture, from_config, multiples

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
# What only this one value of is known here.
_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_scale_factor": (1,),
    "class_embed_type": (None,),
}
# Of the others those that are one key of ``model`` each: theirs to ours.
_WORDS: dict[str, dict[Any, Any]] = {
    "mid_block_type": {"UNetMidBlock2D": "attention", None: "none"},
    "downsample_type": {"conv": False, "resnet": True},
    "upsample_type": {"conv": False, "resnet": True},
    "act_fn": {"silu": "silu", "swish": "silu", "mish": "mish", "gelu": "gelu", "relu": "relu"},
    "resnet_time_scale_shift": {"default": False, "scale_shift": True},
    "downsample_padding": {0: 0, 1: 1},
    "flip_sin_to_cos": {False: False, True: True},
    "add_attention": {True: True, False: False},
}
# What diffusers' EMAModel adds to the settings of the model that it averages.
_OF_EMA = {"decay", "inv_gamma", "min_decay", "optimization_step", "power"}
_OF_EMA |= {"update_after_step", "use_ema_warmup"}
_SHOWN = 20  # problems of one file
# Whether the blocks of a kind attend, and whether residual blocks resample there; None: as
# downsample_type or upsample_type says, which other kinds pass over.
_DOWN: dict[str, tuple[bool, bool | None]] = {
    "DownBlock2D": (False, False),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, True),
}
_UP: dict[str, tuple[bool, bool | None]] = {
    "UpBlock2D": (False, False),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, True),
}
_OLD_PREFIX = "UNetRes"  # which diffusers takes off the names of blocks


def read_unet(settings: Mapping[str, Any], label: str) -> tuple[Architecture, dict[str, Any]]:
    """Translate UNet2DModel's settings into the architecture and other keys of ``model``/``data``.

    Returns:
        The architecture, and ``image_size`` with the keys of ``model`` that are no part of it.

    Raises:
        DdimxError: settings that this network does not have, each by name.
    """
    values = {**UNET_DEFAULTS, **settings}
    problems = _fixed_problems(values) + _strange(settings)
    problems += _type_problems(values) or _shape_problems(values)
    if problems:
        lines = "\n".join(f"  {line}" for line in problems[:_SHOWN])
        raise DdimxError(f"{label}: a UNet2DModel that this network cannot represent\n{lines}")
    widths, size = values["block_out_channels"], values["sample_size"]
    words = {key: words[values[key]] for key, words in _WORDS.items()}
    last = len(widths) - 1
    down = [_DOWN[kind] for kind in _present(values["down_block_types"])]
    up = [_UP[kind] for kind in _present(values["up_block_types"])][::-1]
    architecture = Architecture(
        in_channels=values["in_channels"],
        out_ch=values["in_channels"],
        ch=widths[0],
        ch_mult=multiples(widths, widths[0]),
        num_res_blocks=values["layers_per_block"],
        attention=frozenset(i for i, (attends, _) in enumerate(down) if attends),
        attention_up=frozenset(i for i, (attends, _) in enumerate(up) if attends),
        resamp_with_conv=True,
        class_rows=values["num_class_embeds"] or 0,
    )
    mid = words["mid_block_type"]
    if mid == "attention" and not words["add_attention"]:
        mid = "plain"
    mid_groups, groups = values["attn_norm_num_groups"], values["norm_num_groups"]
    if mid_groups is None:
        mid_groups = 0 if words["resnet_time_scale_shift"] else groups
    heads, time_dim = values["attention_head_dim"], values["time_embedding_dim"]
    sides = (size,) if isinstance(size, int) else tuple(size)
    return architecture, {
        "image_size": sides if len(set(sides)) > 1 else sides[0],
        "norm_groups": groups,
        "dropout": values["dropout"],
        "predicts_variance": values["out_channels"] != values["in_channels"],
        "mid_block": mid,
        "mid_norm_groups": None if mid_groups == groups or mid != "attention" else mid_groups,
        "head_dim": None if _attending_widths(values) <= {heads} else heads,
        "norm_eps": values["norm_eps"],
        "activation": words["act_fn"],
        "scale_shift": words["resnet_time_scale_shift"],
        "time_dim": None if time_dim == 4 * widths[0] else time_dim,
        "cosine_first": words["flip_sin_to_cos"],
        "freq_shift": values["freq_shift"],
        "downsample_padding": words["downsample_padding"],
        "resblock_down": tuple(
            i
            for i, (_, own) in enumerate(down)
            if i < last and (words["downsample_type"] if own is None else own)
        ),
        "resblock_up": tuple(
            i
            for i, (_, own) in enumerate(up)
            if i > 0 and (words["upsample_type"] if own is None else own)
        ),
    }


def write_unet(config: Config, label: str) -> dict[str, Any]:
    """Return UNet2DModel's settings for a model of ours.

    Raises:
        UsageError: settings that UNet2DModel does not have, each by name.
    """
    model, architecture = config.model, from_config(config)
    last = len(model.ch_mult) - 1
    # One setting says of all blocks with attention whether residual blocks resample there.
    of_down = {i in model.resblock_down for i in architecture.attention if i < last}
    of_up = {i in model.resblock_up for i in architecture.attention_up if i > 0}
    # None: as many groups as the other norms, or with scale_shift no norm at all.
    mid_groups = model.norm_groups if model.mid_norm_groups is None else model.mid_norm_groups
    unsaid = 0 if model.scale_shift else model.norm_groups
    refuse(
        label,
        {
            "model.name": model.name != "unet",
            "model.patch_size": model.patch_size != 1,
            "model.resamp_with_conv": not model.resamp_with_conv and len(model.ch_mult) > 1,
            "model.ch_mult": model.ch_mult[0] != 1,
            "model.resblock_down": len(of_down) > 1,
            "model.resblock_up": len(of_up) > 1,
            "model.mid_norm_groups": mid_groups == 0 and unsaid != 0,
            "data.rescaled": not config.data.rescaled,
        },
        config,
        "diffusers' UNet2DModel",
    )
    down = [
        "AttnDownBlock2D"
        if i in architecture.attention
        else "ResnetDownsampleBlock2D"
        if i in model.resblock_down
        else "DownBlock2D"
        for i in range(last + 1)
    ]
    up = [
        "AttnUpBlock2D"
        if i in architecture.attention_up
        else "ResnetUpsampleBlock2D"
        if i in model.resblock_up
        else "UpBlock2D"
        for i in reversed(range(last + 1))
    ]
    size = config.data.image_size
    return {
        "_class_name": "UNet2DModel",
        **UNET_DEFAULTS,
        **{key: allowed[0] for key, allowed in _FIXED.items()},
        "sample_size": size if isinstance(size, int) else list(size),
        "in_channels": model.in_channels,
        "out_channels": model.out_ch * (1 + model.predicts_variance),
        "time_embedding_dim": model.time_dim,
        "freq_shift": int(model.freq_shift) if model.freq_shift % 1 == 0 else model.freq_shift,
        "flip_sin_to_cos": model.cosine_first,
        "down_block_types": down,
        "mid_block_type": None if model.mid_block == "none" else "UNetMidBlock2D",
        "up_block_types": up,
        "block_out_channels": list(model.widths),
        "layers_per_block": model.num_res_blocks,
        "downsample_padding": model.downsample_padding,
        "downsample_type": "resnet" if True in of_down else "conv",
        "upsample_type": "resnet" if True in of_up else "conv",
        "dropout": model.dropout,
        "act_fn": model.activation,
        "attention_head_dim": model.head_dim,
        "norm_num_groups": model.norm_groups,
        "attn_norm_num_groups": None if mid_groups == unsaid else mid_groups,
        "norm_eps": model.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if model.scale_shift else "default",
        "add_attention": model.mid_block == "attention",
        "num_class_embeds": architecture.class_rows or None,
    }


def refuse(label: str, wrong: Mapping[str, bool], config: Config, target: str) -> None:
    """Raise UsageError for the keys that are wrong, with their values."""
    tree = config.model_dump()
    keys = [key for key, bad in wrong.items() if bad]
    values = [f"{key} {tree[key.split('.')[0]][key.split('.')[1]]}" for key in keys]
    if values:
        raise UsageError(f"{label}: {target} has no {'; no '.join(values)}")


def _fixed_problems(values: Mapping[str, Any]) -> list[str]:
    problems = [
        f"{key} is {shown(values[key])}; this network has {allowed[0]!r}"
        for key, allowed in _FIXED.items()
        if values[key] not in allowed
    ]
    return problems + [
        f"{key} is {shown(values[key])}; known are {', '.join(map(repr, words))}"
        for key, words in _WORDS.items()
        if not any(values[key] is word or values[key] == word for word in words)
        or isinstance(values[key], bool) != isinstance(next(iter(words)), bool)
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
    counts = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
    optional = ("attention_head_dim", "time_embedding_dim", "attn_norm_num_groups")
    problems = [
        f"{key} is {shown(values[key])}; a positive whole number is needed"
        for key in (*counts, *optional, "num_class_embeds")
        if not (is_count(values[key]) or (key not in counts and values[key] is None))
    ]
    for key, kind in (
        ("block_out_channels", is_count),
        ("down_block_types", lambda item: isinstance(item, str)),
        ("up_block_types", lambda item: isinstance(item, str)),
    ):
        items = values[key]
        if not isinstance(items, list | tuple) or not items or not all(map(kind, items)):
            problems.append(f"{key} is {shown(items)}; a list is needed")
    for key, least in (("norm_eps", 0.0), ("freq_shift", 0.0)):
        number = values[key]
        if not is_number(number) or number < least:
            problems.append(f"{key} is {shown(number)}; a number from {least:g} on is needed")
    size = values["sample_size"]
    sizes = size if isinstance(size, list | tuple) else [size]
    if len(sizes) not in (1, 2) or not all(map(is_count, sizes)):
        problems.append(
            f"sample_size is {shown(size)}; one number, or height and width, is needed: write the "
            "size of the training images there"
        )
    return problems


def is_number(value: Any) -> bool:
    """Return whether a setting is a number, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Return whether a setting is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shape_problems(values: Mapping[str, Any]) -> list[str]:
    widths, down, up = (
        list(values[key]) for key in ("block_out_channels", "down_block_types", "up_block_types")
    )
    if not len(widths) == len(down) == len(up):
        return ["block_out_channels, down_block_types and up_block_types differ in length"]
    problems = []
    if values["out_channels"] not in (values["in_channels"], 2 * values["in_channels"]):
        problems.append(
            f"out_channels is {values['out_channels']} and in_channels {values['in_channels']};"
            " this network predicts as many as it sees, or with a variance twice as many"
        )
    strange = [kind for kind in _present(down) if kind not in _DOWN]
    strange += [kind for kind in _present(up) if kind not in _UP]
    if strange:
        problems.append(f"block types {shown(strange)}; known are {[*_DOWN, *_UP]!r}")
    groups, of_mid = values["norm_num_groups"], values["attn_norm_num_groups"]
    if any(width % groups for width in widths):
        problems.append(
            f"norm_num_groups is {shown(groups)}; it must divide block_out_channels {shown(widths)}"
        )
    if of_mid is not None and widths[-1] % of_mid:
        problems.append(f"attn_norm_num_groups is {shown(of_mid)}; it must divide {widths[-1]}")
    head, shift = values["attention_head_dim"], values["freq_shift"]
    if not strange and head is not None and min(_attending_widths(values), default=head) < head:
        problems.append(
            f"attention_head_dim is {shown(head)}; a level with attention has fewer channels"
        )
    if shift >= max(widths[0] // 2, 1):
        problems.append(
            f"freq_shift is {shown(shift)}; less than half of block_out_channels[0] is needed"
        )
    return problems


def _attending_widths(values: Mapping[str, Any]) -> set[int]:
    """Return the widths of all levels with attention on either way, and of the middle's."""
    widths = values["block_out_channels"]
    kinds = (_present(values["down_block_types"]), _present(values["up_block_types"])[::-1])
    tables = (_DOWN, _UP)
    attending = {
        width
        for table, of_level in zip(tables, kinds, strict=True)
        for width, kind in zip(widths, of_level, strict=True)
        if table[kind][0]
    }
    has_mid = values["mid_block_type"] is not None and values["add_attention"]
    return attending | ({widths[-1]} if has_mid else set())


def _present(kinds: Sequence[str]) -> list[str]:
    """Return the present names of kinds of blocks that may bear their old ones."""
    return [kind.removeprefix(_OLD_PREFIX) for kind in kinds]
