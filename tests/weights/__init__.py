"""What the tests of weights share: models in other programs' formats, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch

from ddimx.config import Config
from ddimx.config_file import dump_yaml, validate
from ddimx.models.factory import build
from ddimx.models.unet import UNet

# As small as ermongroup/ddim's 32 groups allow; attention on the second of two levels.
TREE = {
    "data": {"dataset": "FOLDER", "image_size": 8, "channels": 3},
    "model": {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]},
    "diffusion": {},
    "training": {},
    "sampling": {},
    "optim": {"lr": 0.001},
}


def plain(**sections: dict) -> Config:
    """The configuration of a small UNet that every format can hold, with changed keys."""
    tree = {name: {**values, **sections.get(name, {})} for name, values in TREE.items()}
    return validate(tree, "plain")


def config_file(folder: Path, config: Config) -> Path:
    """Write a configuration where ``--config`` can read it."""
    path = folder / "plain.yml"
    path.write_text(dump_yaml(config))
    return path


def network(config: Config, seed: int = 0) -> UNet:
    """A network with random weights."""
    torch.manual_seed(seed)
    return build(config)[0].eval()


def weights(config: Config, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under ermongroup/ddim's names."""
    return network(config, seed).state_dict()


def original_list(raw: dict, ema: dict | None, *, prefix: str = "module.", step: int = 12) -> list:
    """A checkpoint as ermongroup/ddim's runner saves it, after one step of its optimizer."""
    parameters = [torch.nn.Parameter(value.clone()) for value in raw.values()]
    adam = torch.optim.Adam(parameters, lr=2e-4)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    states = [{prefix + name: value for name, value in raw.items()}, adam.state_dict(), 3, step]
    return states if ema is None else [*states, ema]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts hold the same names, dtypes and bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )
