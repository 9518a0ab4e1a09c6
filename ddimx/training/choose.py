"""A network and settings for a data set, where nobody chose any: by its size and its count.

The choices are a function of the data and of what was asked for, not of the machine, so that the
same command gives the same run elsewhere. They are rules of thumb: what DDPM and improved DDPM
train, made narrower for fewer images, for which a wide network only learns by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..option_values import size_text

LARGEST = 64  # pixels of an image's side, unless another size is asked for
COARSEST = 8  # pixels of the last level's longer side: few enough that attention is cheap
ATTENTION = 16  # pixels up to which a level has attention, as in DDPM
_MOST_LEVELS = 8


@dataclass(frozen=True)
class _Scale:
    """What goes with a data set of up to ``count`` examples."""

    count: float
    width: int
    groups: int
    blocks: int
    batch: int
    steps: int
    rate: float


# A norm's group has at least four channels: of groups of one the mean of each channel is lost.
_IMAGES = (
    _Scale(2_000, 32, 8, 1, 16, 5_000, 1e-3),
    _Scale(20_000, 64, 16, 2, 32, 20_000, 5e-4),
    _Scale(np.inf, 128, 32, 2, 64, 100_000, 2e-4),
)
_OCTREES = (
    _Scale(2_000, 192, 0, 6, 8, 3_000, 1e-3),
    _Scale(np.inf, 256, 0, 6, 16, 20_000, 5e-4),
)
_FINE_TUNING = 0.3  # of the learning rate: the weights are good already


def usual_size(sides: npt.NDArray[np.int32]) -> int:
    """Return the side of a square for pictures of these heights and widths, int32 [N, 2].

    It is that of most pictures' shorter side or a little less, at most ``LARGEST``, and can be
    halved as often as the network wants.
    """
    side = min(LARGEST, int(np.median(sides.min(axis=1))))
    return next(n for n in range(side, 0, -1) if _levels((n, n))[-1] <= 2 * COARSEST)


def _levels(sides: tuple[int, int]) -> list[int]:
    """Return the longer sides of the feature maps, each half of the one before."""
    levels, (short, long) = [max(sides)], sorted(sides)
    while len(levels) < _MOST_LEVELS and short % 2 == long % 2 == 0 and short >= 4:
        if long <= COARSEST and len(levels) > 1:
            break
        short, long = short // 2, long // 2
        levels.append(long)
    return levels


def unet(sides: tuple[int, int], channels: int, count: int) -> dict[str, Any]:
    """Return the ``model`` section for images of this height and width.

    It is a UNet that diffusers' UNet2DModel can represent: no patches of pixels, one norm.

    Raises:
        UsageError: sides that cannot be halved often enough; the message names those that can.
    """
    scale = _scale(_IMAGES, count)
    levels = _levels(sides)
    if levels[-1] > 2 * COARSEST:
        unit = 8 if max(sides) <= 128 else 16
        near = [max(1, round(side / unit)) * unit for side in sides]
        raise UsageError(
            f"--size {size_text(sides)}: sides are halved from level to level, and these cannot be "
            f"halved often enough; --size {size_text(near)} can"
        )
    # Twice as wide from level to level, below 64 pixels: above, width would cost too much.
    fine = sum(level > LARGEST for level in levels)
    most = 4 if scale.width < 64 else 2
    multiples = [min(2 ** max(0, i - fine), most) for i in range(len(levels))]
    return {
        "in_channels": channels,
        "out_ch": channels,
        "ch": scale.width,
        "ch_mult": multiples,
        "num_res_blocks": scale.blocks,
        "attn_resolutions": [level for level in levels if COARSEST < level <= ATTENTION],
        "norm_groups": scale.groups,
        "dropout": 0.0 if count > 100_000 else 0.1,
    }


def transformer(count: int) -> dict[str, Any]:
    """Return the ``model`` section for octrees."""
    scale = _scale(_OCTREES, count)
    return {
        "name": "octree",
        "hidden_dim": scale.width,
        "num_layers": scale.blocks,
        "num_heads": scale.width // 32,
        "dropout": 0.0 if count > 10_000 else 0.1,
    }


def diffusion(*, octrees: bool) -> dict[str, Any]:
    """Return the ``diffusion`` and the ``sampling`` section: what works in few steps."""
    if octrees:
        noise = {"beta_schedule": "jsd", "transitions": ["absorbing", "uniform"]}
        return {"diffusion": noise, "sampling": {"batch_size": 16, "steps": 4, "temperature": 0.8}}
    # The signal ends at nearly 0, which sampling from pure noise with few steps needs; there v is
    # well defined and epsilon is not (arXiv 2202.00512, 2305.08891).
    return {
        "diffusion": {"beta_schedule": "cosine", "prediction": "v"},
        "sampling": {"batch_size": 16, "spacing": "trailing"},
    }


def training(
    count: int, *, octrees: bool, steps: int | None, batch: int | None, tuning: bool
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Return the sections ``training`` and ``optim``, and ``model.ema_rate``.

    Args:
        count: number of examples.
        octrees: whether they are octrees.
        steps: how many steps, where that was asked for.
        batch: how many examples in a step, likewise.
        tuning: whether training starts from weights that are good already.
    """
    scale = _scale(_OCTREES if octrees else _IMAGES, count)
    total, size = steps or scale.steps, batch or scale.batch
    often = min(max(total // 10, 100), 5_000)  # a run of few steps is validated at its end
    loop = {
        "batch_size": size,
        "n_iters": total,
        # The steps alone decide when it ends, also where an epoch is a handful of examples.
        "n_epochs": max(10_000, -(-total * size // max(count, 1)) + 1),
        "snapshot_freq": often,
        "validation_freq": often,
        **({"parent_corruption": 0.02} if octrees else {}),
    }
    rate = scale.rate * (_FINE_TUNING if tuning else 1.0)
    optim = {
        "optimizer": "AdamW",
        "lr": float(f"{rate:.1g}"),
        "beta2": 0.99,
        "grad_clip": 1.0,
        "warmup_steps": min(500, total // 10),
        "decay_steps": total // 3,
    }
    # The average reaches back a tenth of the run at most.
    return loop, optim, round(min(max(1 - 10 / total, 0.9), 0.9999), 5)


def _scale(table: tuple[_Scale, ...], count: int) -> _Scale:
    return next(scale for scale in table if count <= scale.count)
