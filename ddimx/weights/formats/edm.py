"""What the tensors of a network of NVIDIA's EDM tell: all but what wraps it.

EDMPrecond, VPPrecond and VEPrecond keep their settings in Python attributes, so that nothing in the
tensors says which of them the network was trained in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...config import MOST_LEVELS
from ...errors import DdimxError
from ...untrusted.text import shown
from ..weight_set import Facts

# What tensors of training alone are called; sampling gives no augmentation.
OF_TRAINING = ("map_augment.weight",)


def read_edm(tensors: Mapping[str, Tensor], label: str) -> Facts:
    """Return the facts about a network in the names of SongUNet or DhariwalUNet.

    Raises:
        DdimxError: not the tensors of such a network, or of one that cannot be represented.
    """
    first = [
        m[1] for name in tensors if (m := re.fullmatch(r"enc\.([0-9]{1,6})x\1_conv\.weight", name))
    ]
    if len(first) != 1 or "map_layer0.weight" not in tensors:
        raise DdimxError(
            f"{label}: this is a network of NVIDIA's EDM2 or another of its kind; known are "
            "SongUNet and DhariwalUNet of EDM"
        )
    try:
        return _facts(tensors, int(first[0]), label)
    except (KeyError, IndexError, ArithmeticError, ValueError) as error:
        raise DdimxError(f"{label}: not a whole network of NVIDIA's EDM: {error}") from None


def _facts(tensors: Mapping[str, Tensor], size: int, label: str) -> Facts:
    song = "out_conv.weight" not in tensors
    sizes = [size]
    while len(sizes) <= MOST_LEVELS and f"enc.{_at(sizes[-1] // 2)}_down.conv0.weight" in tensors:
        sizes.append(sizes[-1] // 2)
    blocks = 0
    while f"enc.{_at(size)}_block{blocks}.conv0.weight" in tensors:
        blocks += 1
    conv, mapped = tensors[f"enc.{_at(size)}_conv.weight"], tensors["map_layer0.weight"]
    last = tensors[f"dec.{_at(size)}_aux_conv.weight" if song else "out_conv.weight"]
    channels, leaving = conv.shape[1], last.shape[0]
    if leaving != channels:
        raise DdimxError(
            f"{label}: {shown(channels)} channels enter and {shown(leaving)} leave: this is a "
            "network of EDM's iDDPMPrecond, or of another task; known are those of EDMPrecond"
        )
    widths = [tensors[f"enc.{_at(s)}_block0.conv0.weight"].shape[0] for s in sizes]
    ch = conv.shape[0] if song else mapped.shape[1]
    if any(width % ch for width in widths):
        raise DdimxError(f"{label}: widths {shown(widths)} are not multiples of {shown(ch)}")
    filters = [v for name, v in tensors.items() if name.endswith("_down.conv0.resample_filter")]
    taps = filters[0][0, 0, 0] / filters[0][0, 0, 0, 0] if filters else None
    rows = tensors["map_label.weight"].shape[1] if "map_label.weight" in tensors else 0
    encoders = {"skip": "_aux_skip.weight", "residual": "_aux_residual.weight"}
    model: dict[str, Any] = {
        "name": "song" if song else "dhariwal",
        "in_channels": channels,
        "out_ch": channels,
        "ch": ch,
        "ch_mult": [width // ch for width in widths],
        "num_res_blocks": blocks,
        "noise_dim": mapped.shape[1],
        "time_dim": mapped.shape[0],
        "fourier_time": "map_noise.freqs" in tensors,
        "classes": [str(i) for i in range(rows)],
        "resample_filter": [1, 1] if taps is None else [round(float(tap)) for tap in taps],
    }
    for kind, ending in encoders.items():
        if any(name.startswith("enc.") and name.endswith(ending) for name in tensors):
            model["encoder"] = kind
    if song and len(sizes) > 1 and f"dec.{_at(sizes[-1])}_aux_conv.weight" in tensors:
        model["decoder"] = "skip"
    levels_with_attention = [
        i for i, s in enumerate(sizes) if f"enc.{_at(s)}_block0.qkv.weight" in tensors
    ]
    return Facts(
        form="checkpoint of NVIDIA's EDM",
        stated={"model": model, "data": {"channels": channels, "image_size": size}},
        attention=tuple(levels_with_attention),
        required={
            "diffusion.prediction": "edm, for a network of EDMPrecond, which the published "
            "edm-*.pkl hold; those of VPPrecond and VEPrecond look the same and are not known"
        },
        defaults=("diffusion.sigma_data",),
        null_row=False,
    )


def _at(size: int) -> str:
    return f"{size}x{size}"
