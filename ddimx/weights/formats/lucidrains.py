"""What a checkpoint of lucidrains' denoising-diffusion-pytorch tells: all but the image's size.

Its GaussianDiffusion keeps the noise schedule as buffers, and a loss weight of every time from
which follows what the network predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import DdimxError
from ...solvers.schedule import betas
from ...untrusted.text import shown
from ..architecture import multiples
from ..weight_set import UNUSED_VARIANCE, Facts

BUFFERS = ("betas", "alphas_cumprod", "loss_weight")  # what is read beside the network
_MOST_TIMES = 100_000  # a table of more would not be a schedule
_CLOSE = 2e-5  # relative, of betas that were rounded to float32


def read_lucidrains(
    tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor], label: str
) -> Facts:
    """Return the facts about a network in denoising-diffusion-pytorch's names.

    ``buffers`` are those of :data:`BUFFERS` that lie beside the network.

    Raises:
        DdimxError: not the tensors of such a UNet, or of one that cannot be represented.
    """
    if tensors["init_conv.weight"].dim() != 4:
        raise DdimxError(f"{label}: this is a Unet1D of denoising-diffusion-pytorch, for sequences")
    if "mid_attn.norm.g" not in tensors and "mid_block1.block1.proj.weight" not in tensors:
        raise DdimxError(
            f"{label}: this is a UViT of denoising-diffusion-pytorch (simple_diffusion) or another "
            "network of its author, not the Unet of its main module, which is read"
        )
    try:
        model = _model(tensors, label)
    except (KeyError, IndexError) as error:
        raise DdimxError(
            f"{label}: a checkpoint of denoising-diffusion-pytorch, but not of its present Unet "
            f"(version 1.9 or later): {error} is missing"
        ) from None
    required, diffusion = {}, _schedule(buffers)
    prediction = _prediction(buffers)
    if not diffusion:
        required["diffusion.prediction"] = (
            "objective: epsilon, x0 or v; edm for its ElucidatedDiffusion, which needs no more"
        )
        required["diffusion.beta_schedule or diffusion.trained_betas"] = (
            "linear or cosine; its sigmoid is another curve than the one here, so write its table"
        )
        required["diffusion.num_diffusion_timesteps"] = "timesteps"
    elif prediction is None:
        required["diffusion.prediction"] = "objective: epsilon, x0 or v"
    else:
        diffusion["prediction"] = prediction
    return Facts(
        form="denoising-diffusion-pytorch checkpoint",
        stated={
            "model": model,
            "data": {"channels": model["in_channels"]},
            "diffusion": diffusion,
        },
        required=required,
        defaults=("data.rescaled", "model.embedding_theta"),
        notes=(UNUSED_VARIANCE,) * model["predicts_variance"],
    )


def _model(tensors: Mapping[str, Tensor], label: str) -> dict[str, Any]:
    levels = 0
    while f"downs.{levels}.0.block1.proj.weight" in tensors:
        levels += 1
    widths = [
        tensors[
            name if (name := f"downs.{i}.3.weight") in tensors else f"downs.{i}.3.1.weight"
        ].shape[0]
        for i in range(levels)
    ]
    first, time = tensors["init_conv.weight"], tensors["time_mlp.1.weight"]
    ch, channels = time.shape[0] // 4, first.shape[1]
    leaving = tensors["final_conv.weight"].shape[0]
    if channels == 2 * leaving or (channels, leaving) == (6, 6):  # the latter with a variance
        raise DdimxError(
            f"{label}: the network is given its own last prediction too (self_condition=True), "
            "which no solver here does"
        )
    if leaving not in (channels, 2 * channels) or not ch or not levels:
        raise DdimxError(
            f"{label}: {shown(channels)} channels enter and {shown(leaving)} leave the network"
        )
    full = [i for i in range(levels) if f"downs.{i}.2.to_out.weight" in tensors]
    heads = {  # [2, heads, memory, columns] of full attention, [2, heads, columns, memory] else
        (
            tensors[f"downs.{i}.2.mem_kv"].shape[1],
            tensors[f"downs.{i}.2.mem_kv"].shape[3 if i in full else 2],
        )
        for i in range(levels)
    }
    heads.add((tensors["mid_attn.mem_kv"].shape[1], tensors["mid_attn.mem_kv"].shape[3]))
    if len(heads) > 1:
        raise DdimxError(
            f"{label}: levels with different heads of attention, {sorted(heads)}: not represented"
        )
    ((count, columns),) = heads
    fourier = tensors.get("time_mlp.0.weights")
    return {
        "name": "lucidrains",
        "in_channels": channels,
        "out_ch": channels,
        "ch": ch,
        "ch_mult": [*multiples(widths, ch)],
        "init_dim": first.shape[0],
        "full_attention": full,
        "heads": count,
        "head_dim": columns,
        "predicts_variance": leaving == 2 * channels,
        **({"fourier_dim": 2 * len(fourier)} if fourier is not None else {}),
    }


def _schedule(buffers: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the noise schedule as a configuration's keys, or nothing where none is there."""
    table = buffers.get("betas")
    if table is None or table.dim() != 1 or not 1 <= len(table) <= _MOST_TIMES:
        return {}
    values, steps = table.double().numpy(), len(table)
    ends = {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
    named: tuple[tuple[str, dict[str, float]], ...] = (("cosine", {}),)
    if ends["beta_end"] < 1:
        named = (*named, ("linear", ends))
    for name, keys in named:
        if np.allclose(
            values, betas(name, ends["beta_start"], ends["beta_end"], steps), rtol=_CLOSE
        ):
            return {"beta_schedule": name, "num_diffusion_timesteps": steps, **keys}
    return {"trained_betas": values.tolist(), "num_diffusion_timesteps": steps}


def _prediction(buffers: Mapping[str, Tensor]) -> str | None:
    """Return what the network predicts, by the weight of its loss where noise prevails.

    The weight is SNR for x0, SNR / (SNR + 1) for v and 1 for epsilon; ``min_snr_loss_weight``
    changes it only above an SNR of 5. Earlier versions have no such buffer.
    """
    weight, alpha_bar = buffers.get("loss_weight"), buffers.get("alphas_cumprod")
    if weight is None or alpha_bar is None or weight.shape != alpha_bar.shape:
        return None
    if alpha_bar.dim() != 1 or len(alpha_bar) > _MOST_TIMES:
        return None
    ratio = (alpha_bar.double() / (1 - alpha_bar.double())).numpy()
    noisy = (ratio < 1) & (ratio > 1e-3)
    weights, ratio = weight.double().numpy()[noisy], ratio[noisy]
    laws = {"epsilon": np.ones_like(ratio), "x0": ratio, "v": ratio / (1 + ratio)}
    fitting = [name for name, law in laws.items() if np.allclose(weights, law, rtol=1e-3)]
    return fitting[0] if len(fitting) == 1 else None
