"""Pictures of what a model draws while it is being trained: always the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..models.process import Process
from ..noise import Noise
from ..runs.contact_sheet import fitting, write_grid

SAMPLES = 16


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
