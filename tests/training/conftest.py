"""The fixture of the tests of training: ``trainer`` makes a trainer of a few milliseconds."""

import pytest
import torch

from ddimx.config_file import override
from ddimx.data.images.sources import open_source
from ddimx.models import gaussian
from ddimx.models.factory import build
from ddimx.noise import Noise
from ddimx.training.loop import Trainer
from ddimx.training.state import TrainState


@pytest.fixture
def trainer(tiny_config, formula_weights, tmp_path, monkeypatch):
    """Return a function that makes a trainer with fixed weights in a folder of the test."""
    monkeypatch.setattr(gaussian, "PREVIEW_STEPS", 2)  # pictures are not what takes the time here

    def make(name="run", items=(), process=None, device="cpu"):
        config = override(tiny_config, items)
        network, own = build(config)
        return Trainer(
            config=config,
            state=TrainState.fresh(formula_weights(network).to(device), config),
            process=process or own,
            source=open_source(config),
            held_out=open_source(config, held_out=True),
            folder=tmp_path / name,
            noise=Noise(0),
            device=torch.device(device),
        )

    return make
