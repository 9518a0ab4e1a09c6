"""Sampling one level of a batch of octrees, with the coarser levels cached and without.

The network is ``configs/furniture.yml`` with random weights, which take as long as trained ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddimx.config_file import load_config
from ddimx.discrete.cells import levels_of
from ddimx.models.factory import build
from ddimx.models.octree.sampler import TokenDenoiser

from ..device import waiter
from ..runner import Budget, Contender, Job, compare
from . import shapes

CONFIG = "furniture"
BATCH, STEPS = 4, 8
TOLERANCE = 1e-4  # of logits of order 1, in float32

Draw = Callable[[], Tensor]


def jobs(device: torch.device, rounds: int, budget: Budget) -> list[Job]:
    """Return what measures a table for the finest level of tokens."""
    depth = load_config(CONFIG).data.max_depth
    assert depth is not None
    title = f"level {depth - 1} of {BATCH} octrees"
    return [Job(title, partial(_table, title, device, rounds, budget), weight=2.0)]


@torch.no_grad()
def random_network(device: torch.device) -> tuple[nn.Module, int]:
    """Return the configuration's network without a parameter that is zero, and its depth."""
    config = load_config(CONFIG)
    network, _ = build(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    assert config.data.max_depth is not None
    return network.to(device).eval(), config.data.max_depth


def drawer(network: nn.Module, depth: int, device: torch.device, *, cached: bool) -> Draw:
    """Return the network's calls of one level: ``STEPS`` of them, the last one's logits."""
    radii = np.linspace(0.3, 0.45, BATCH)
    levels = levels_of([shapes.sphere(depth, radius) for radius in radii], device)
    finished, cells = tuple(levels[:-1]), levels[-1].cells
    ids = torch.zeros(len(cells), dtype=torch.uint8, device=device)
    kinds = torch.zeros(BATCH, dtype=torch.int64, device=device)

    @torch.no_grad()
    def draw() -> Tensor:
        denoiser = TokenDenoiser(network, transition=kinds, labels=kinds, cached=cached)
        for t in np.linspace(999, 0, STEPS):
            logits = denoiser(cells, ids, float(t), finished).logits
        return logits

    return draw


def _table(title: str, device: torch.device, rounds: int, budget: Budget) -> dict[str, Any]:
    network, depth = random_network(device)
    calls = {
        "coarser levels at every call": drawer(network, depth, device, cached=False),
        "ddimx, coarser levels cached": drawer(network, depth, device, cached=True),
    }
    first, second = (call() for call in calls.values())
    difference = (first - second)[:, 1:].abs().max().item()
    if not difference <= TOLERANCE:
        raise RuntimeError(f"cached and uncached logits differ by {difference:.3g}")
    tokens = len(first)
    title = f"{title}, {tokens:,} tokens, {STEPS} network calls"
    notes = [
        f"configs/{CONFIG}.yml with random weights, float32; encoding the cache is included",
        f"the logits of both differ by at most {difference:.2g}",
    ]
    peers = [Contender(name, call, facts={"network_calls": STEPS}) for name, call in calls.items()]
    table = compare(title, peers, rounds, wait=waiter(device), notes=notes, budget=budget)
    for row in table["rows"]:
        if "median_ms" in row:
            row["ms_per_call"] = row["median_ms"] / STEPS
    return table
