"""A tiny model of octrees with random weights, and networks of known output."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ddimx.config_file import validate
from ddimx.device import Precision
from ddimx.discrete.elbo import grid
from ddimx.models.factory import build
from ddimx.octree.keys import keys_of
from ddimx.octree.tree import from_leaves
from ddimx.weights.formats.native import Header, save
from ddimx.weights.model import Model

DEPTH = 2
CLASSES = ("chair", "table")


def config(steps=20, classes=CLASSES):
    tree = {
        "data": {
            "dataset": "OCTREE",
            "image_size": 1,
            "channels": 1,
            "rescaled": False,
            "train_split": "train",
            "test_split": "val",
            "max_depth": DEPTH,
        },
        "model": {
            "name": "octree",
            "classes": list(classes),
            "vocab_size": 256,
            "hidden_dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        },
        "training": {"batch_size": 2, "n_iters": 2, "snapshot_freq": 2, "validation_freq": 2},
        "sampling": {"batch_size": 4},
        "optim": {},
        "diffusion": {
            "beta_schedule": "jsd",
            "num_diffusion_timesteps": steps,
            "transitions": ["absorbing", "uniform"],
        },
    }
    return validate(tree, "tiny octrees")


def network_of(own, scale=1.0):
    """A network with weights that a fixed generator drew."""
    torch.manual_seed(0)
    network, process = build(own)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * 0.2 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False), process


def model(network=None, **options):
    """A loaded model, around ``network`` if it is given."""
    own = config(**options)
    ours, process = network_of(own)
    return Model(
        network=ours if network is None else network,
        process=process,
        config=own,
        name="tiny",
        sha256="0" * 64,
        weights="ema",
        form="test",
        info={},
        notes=(),
        device=torch.device("cpu"),
        precision=Precision(torch.float32, "test"),
    )


def saved(path, **options):
    """Write the tiny model to a file."""
    own = config(**options)
    network, _ = network_of(own)
    save(path, network.state_dict(), Header("model", own, {"step": 0}))
    return path


class Equal(nn.Module):
    """Says that all ids are equally likely, and what it was called with."""

    process = "discrete"

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, noised, clean, condition, cache=None):
        self.seen.append((noised, clean, condition))
        return torch.zeros(len(noised.ids), 256)


class OfUniform(Equal):
    """Knows that all ids are equally likely, and what x_t then says of x_0: a perfect network."""

    def __init__(self, schedule):
        super().__init__()
        at = grid(schedule)
        self.alpha = dict(zip(at.t.tolist(), at.alpha_from.tolist(), strict=True))

    def forward(self, noised, clean, condition, cache=None):
        a = torch.tensor([self.alpha[t] for t in noised.t.flatten().tolist()], dtype=torch.float64)
        a = a[noised.layout.row, None]
        kept = torch.nn.functional.one_hot(noised.ids.long(), 256)
        logits = (a * kept + (1 - a) / 255).log()
        return torch.where((noised.ids == 0)[:, None], 0.0, logits)


def trees(count, seed=0, depth=DEPTH):
    """Trees of random cells."""
    rng = np.random.default_rng(seed)
    return [
        from_leaves(keys_of(rng.integers(0, 2**depth, (n, 3))), depth)
        for n in rng.integers(4, 30, count)
    ]
