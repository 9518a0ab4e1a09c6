"""Pictures of what a model draws while it is being trained: always the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.arrays import Bytes
from ..models.process import Process
from ..noise import Noise
from ..runs.contact_sheet import fitting, write_grid

SAMPLES = 16
TOGETHER = 64  # pictures that are drawn together


def draw_samples(
    path: Path,
    process: Process,
    network: nn.Module,
    seed: int,
    device: torch.device,
    classes: Sequence[str] = (),
) -> None:
    """Write a grid of samples, of one class after the other; ``classes`` are the names.

    Of more classes than samples every few are left out.
    """
    indices = torch.arange(SAMPLES, device=device)
    labels, count = None, process.num_classes
    if count:
        labels = indices % count if count <= SAMPLES else indices * count // SAMPLES
    plan = process.plan(process.preview)
    *_, last = process.run(network, plan, indices, Noise(seed), labels=labels)
    pixels = np.stack([process.picture(sample) for sample in process.finish(last)])
    names = [] if labels is None or not classes else [classes[i] for i in labels.tolist()]
    write_grid(path, pixels, labels=fitting(names, *pixels.shape[1:3]))


@torch.no_grad()
def pictures(
    process: Process,
    network: nn.Module,
    labels: Sequence[int] | None,
    count: int,
    seed: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Iterator[Bytes]:
    """Draw as the grids are drawn, without a file: uint8 [B, H, W, C], ``TOGETHER`` at a time.

    Args:
        labels: the class of each of ``count`` samples, of a model with classes.
        autocast: returns the context in which the network runs; what is done with the pictures
            is outside of it.
    """
    plan = process.plan(process.preview)
    for start in range(0, count, TOGETHER):
        stop = min(start + TOGETHER, count)
        indices = torch.arange(start, stop, device=device)
        own = None if labels is None else torch.tensor(labels[start:stop], device=device)
        with autocast():
            *_, last = process.run(network, plan, indices, Noise(seed), labels=own)
        yield np.stack([process.picture(sample) for sample in process.finish(last)])
