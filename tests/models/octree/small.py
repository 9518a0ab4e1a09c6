"""Trees, batches and networks small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ddimx.config import Config
from ddimx.config_file import validate
from ddimx.data.shapes.batches import packed
from ddimx.models.factory import build
from ddimx.models.octree.network import OctreeNet
from ddimx.models.octree.tokens import Condition, Layout, Tokens
from ddimx.octree.tree import Octree, from_leaves
from ddimx.weights.formats.native import Header, save

DEPTH = 3


def tree(seed: int, leaves: int, depth: int = DEPTH) -> Octree:
    """A tree of at most so many leaves anywhere in the grid."""
    return from_leaves(np.random.default_rng(seed).integers(0, 8**depth, leaves), depth)


def trees(depth: int = DEPTH) -> list[Octree]:
    """Three trees of very different sizes: one leaf, hundreds, a few."""
    return [tree(1, 1, depth), tree(2, 60 * depth**2, depth), tree(3, 7, depth)]


def network(depth: int = DEPTH, *, window: int = 8, seed: int = 0, **sizes: object) -> OctreeNet:
    """A network in evaluation mode with weights large enough that everything has an influence."""
    arguments = {"width": 24, "layers": 2, "heads": 2, "classes": 3, "steps": 50} | sizes
    torch.manual_seed(seed)
    net = OctreeNet(depth=depth, window=window, **arguments).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    return net.requires_grad_(False)


def tokens_of(shapes: Sequence[Octree], t: float | None = None) -> Tokens:
    """All levels of some trees of one depth; with ``t`` as tokens to be denoised."""
    batch = packed(list(shapes))
    layout = Layout.of(batch["keys"], batch["counts"].numpy())
    times = None if t is None else torch.full(layout.counts.shape, float(t))
    return Tokens(layout, batch["ids"], times)


def level_of(tokens: Tokens, level: int) -> Tokens:
    """One level of a batch as a batch of its own."""
    layout = tokens.layout
    here = layout.level == level
    counts = layout.counts[:, level : level + 1]
    t = None if tokens.t is None else tokens.t[:, level : level + 1]
    return Tokens(Layout.of(layout.keys[here], counts, level), tokens.ids[here], t)


def condition(batch: int, transition: int = 0) -> Condition:
    """Classes 0, 1, 2, 0, ... and one kind of noise."""
    return Condition(torch.arange(batch) % 3, torch.full((batch,), transition))


def octree_config(root: object = "nowhere", **sections: dict[str, object]) -> Config:
    """A configuration of an octree model in miniature, two classes, depth 3."""
    base: dict[str, dict[str, object]] = {
        "data": {
            "dataset": "OCTREE",
            "root": str(root),
            "image_size": 1,
            "channels": 1,
            "test_split": "val",
            "max_depth": DEPTH,
        },
        "model": {
            "name": "octree",
            "hidden_dim": 24,
            "num_layers": 1,
            "num_heads": 2,
            "window": 8,
            "classes": ["chair", "table"],
        },
        "diffusion": {"beta_schedule": "jsd", "num_diffusion_timesteps": 50},
        "training": {
            "batch_size": 4,
            "n_iters": 6,
            "snapshot_freq": 3,
            "validation_freq": 3,
            "precision": "fp32",  # and not by the kind of processor
        },
        "sampling": {"batch_size": 4, "steps": 2},
        "optim": {"optimizer": "AdamW", "lr": 0.003},
    }
    return validate({name: base[name] | sections.get(name, {}) for name in base}, "small")


def write_model(path: Path, config: Config, seed: int = 0) -> Path:
    """Write a model file of random weights that draw shapes of some size."""
    torch.manual_seed(seed)
    network, _ = build(config)
    save(path, network.state_dict(), Header("model", config, {"step": 0}))
    return path
