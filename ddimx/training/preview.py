"""Pictures of what a model draws while it is being trained: always the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..discrete.cells import octrees
from ..discrete.executor import sample_levels
from ..discrete.solvers import make_token_plan
from ..models.octree.process import DiscreteProcess
from ..models.octree.sampler import draw_tokens
from ..models.process import Process
from ..noise import Noise
from ..pixels import to_bytes
from ..runs.contact_sheet import write_grid
from ..solvers.executor import Draw
from ..solvers.registry import SolverChoice
from ..solvers.timesteps import spaced
from ..splats.preview.render import render_thumbnail

SAMPLES, STEPS = 16, 20


def draw_samples(
    path: Path,
    process: Process,
    network: nn.Module,
    config: Config,
    seed: int,
    device: torch.device,
) -> None:
    """Write a grid of samples, of one class after the other."""
    samples = torch.arange(SAMPLES)
    labels = (samples % process.num_classes).to(device) if process.num_classes else None
    noise = Noise(seed)
    if isinstance(process, DiscreteProcess):
        _shapes(path, process, network, noise, labels, device)
        return
    schedule = process.schedule
    times = spaced("trailing", schedule.num_timesteps, min(STEPS, schedule.num_timesteps))
    plan = process.plan(SolverChoice("ddim"), times)
    start = process.prior(noise, samples, device)
    draw = Draw(noise, samples.to(device))
    *_, last = process.sample(network, plan, start, draw, labels=labels)
    write_grid(path, to_bytes(last.y.cpu(), config.data).numpy())


def _shapes(
    path: Path,
    process: DiscreteProcess,
    network: nn.Module,
    noise: Noise,
    labels: Tensor | None,
    device: torch.device,
) -> None:
    plan = make_token_plan(process.schedule, process.depth, transition=process.transitions[0])
    samples = torch.arange(SAMPLES, device=device)
    steps = draw_tokens(process, network, plan, samples, noise, labels=labels)
    trees = octrees(sample_levels(steps))
    write_grid(path, np.stack([render_thumbnail(tree) for tree in trees]))
