"""diffusers' own models and folders, configured so that they compute what ermongroup/ddim does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

# The settings under which a UNet2DModel is the original's UNet; each differs from the default.
NEEDED: dict[str, Any] = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
SMALL: dict[str, Any] = {
    **NEEDED,
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
CIFAR10: dict[str, Any] = {
    **NEEDED,
    "sample_size": 32,
    "layers_per_block": 2,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
PAPER: dict[str, Any] = {  # DDIMScheduler as the paper's code samples
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": False,
    "thresholding": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def unet(seed: int = 0, **settings: Any) -> UNet2DModel:
    """A UNet2DModel with random weights."""
    torch.manual_seed(seed)
    return UNet2DModel(**{**SMALL, **settings}).eval()


def pipeline(model: UNet2DModel | None = None, **settings: Any) -> DDIMPipeline:
    """A pipeline that samples as the paper does, but for the settings given."""
    chosen = DDIMPipeline(model or unet(), DDIMScheduler(**{**PAPER, **settings}))
    chosen.set_progress_bar_config(disable=True)
    return chosen


def change(path: Path, **values: Any) -> None:
    """Change settings in a JSON file; the value ... removes one."""
    tree = json.loads(path.read_text())
    for key, value in values.items():
        if value is ...:
            tree.pop(key)
        else:
            tree[key] = value
    path.write_text(json.dumps(tree))


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Attention's names of before diffusers 0.15."""
    renamed = {}
    for name, value in state.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f".{new}.", f".{old}.") if ".attentions." in name else name
        renamed[name] = value
    return renamed
