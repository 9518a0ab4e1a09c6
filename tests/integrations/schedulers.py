"""diffusers' scheduler with a table of our own making, to be compared with."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

SHAPE = (2, 3, 4, 4)


def random(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Standard normals, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def exact(**settings: Any) -> Any:
    """diffusers' scheduler, whose alpha_bar is in float32, with a table in float64.

    It is made here from the published formulas.
    """
    theirs = diffusers.DDIMScheduler(**settings)
    config = theirs.config
    steps = config.num_train_timesteps
    if config.beta_schedule == "squaredcos_cap_v2":
        level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - level[1:] / level[:-1], 0.999)
    else:
        root = 0.5 if config.beta_schedule == "scaled_linear" else 1.0
        betas = np.linspace(config.beta_start**root, config.beta_end**root, steps) ** (1 / root)
    if config.trained_betas is not None:
        betas = np.array(config.trained_betas)
    table = torch.from_numpy(betas)
    if config.rescale_betas_zero_snr:
        table = rescale_zero_terminal_snr(table)
    theirs.alphas_cumprod = torch.cumprod(1 - table, dim=0)
    if not config.set_alpha_to_one:
        theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
    return theirs
